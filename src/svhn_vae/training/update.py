"""One update of a VAE by a batch, on its device from start to end: nothing is read by the host.

Shapes: B images of a batch. Units: nats per image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svhn_vae.evaluation.bound import per_image
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.model.whole_batch import mean_over_parts
from svhn_vae.training.objective import Objective


class Record(NamedTuple):
    """What is known of an update, on the device; or of S updates, each tensor with (S,) before its shape."""

    is_left_out: Tensor  # (): 1 or 0
    size: Tensor  # (): the gradient's norm, before it is clipped; without a limit to it, what is finite if all of it is
    means: Tensor  # (6,): over the batch, of what was minimised and of metrics.per_image

    @property
    def loss(self) -> Tensor:
        return self.means[..., 0]


class Update:
    """Loss, gradient, optimiser's step. An update that is not finite, or whose gradient is longer than
    `max_gradient_norm`, is left out: as if the batch had not been, weights, the optimiser's averages and running
    statistics stay.

    As very deep VAEs are trained (Child 2021). A pass over all gradients takes 3 % of a small network's step: without a
    limit to their norm, those of `witnesses` are looked at. torch's fused optimisers leave an update out by themselves,
    as for its gradient scaler; for the others the host reads whether to.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        backward: Callable[[Tensor], None],
        max_gradient_norm: float | None,
        clip: float | None,
        compile_mode: str | None,
    ) -> None:
        self.vae, self.objective, self.optimizer, self.backward = vae, objective, optimizer, backward
        self.max_gradient_norm, self.clip = max_gradient_norm, clip
        self._witnesses, self._weights = witnesses(vae), list(vae.parameters())
        self._statistics = [as_one(group) for group in running_statistics(vae)]
        self._pass = compiled(self._forward, compile_mode) if compile_mode else self._forward

    def __call__(self, batch: Features, epoch: int) -> Record:
        before = [statistics.clone() for statistics in self._statistics]
        torch.clear_autocast_cache()  # else the weights' copies of the update before are taken
        self._forget_gradients()
        loss, terms = self._pass(batch, epoch)
        self.backward(loss)
        means, size = mean_over_parts(torch.stack([loss.detach(), *terms])), self._size()
        is_left_out = ~(means[0] + size).isfinite()
        if self.max_gradient_norm is not None:
            is_left_out |= size > self.max_gradient_norm
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self._weights, self.clip)
        for now, earlier in zip(self._statistics, before, strict=True):
            torch.where(is_left_out, earlier, now, out=now)
        as_number = is_left_out.float()
        self._step(as_number)
        return Record(as_number, size, means)

    def _forward(self, batch: Features, epoch: int) -> tuple[Tensor, list[Tensor]]:
        result = self.vae(batch)
        loss = self.objective.loss(self.vae, result, batch.y, epoch)
        return loss, [term.detach().mean() for term in per_image(result)]

    def _size(self) -> Tensor:
        if self.max_gradient_norm is None and self.clip is None:
            found = [weights.grad.flatten() for weights in self._witnesses if weights.grad is not None]
            return torch.cat(found).sum()
        return gradient_norm(self._weights)

    def _step(self, is_left_out: Tensor) -> None:
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = is_left_out
        elif is_left_out:
            self._forget_gradients()  # an optimiser leaves weights without a gradient alone
        self.optimizer.step()

    def _forget_gradients(self) -> None:
        """As optimizer.zero_grad() does, which takes 0.15 ms more, of 24 of a small network's step."""
        for weights in self._weights:
            weights.grad = None


def compiled(forward: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Says where an update begins: what a CUDA graph gave is overwritten by its next replay."""
    made = torch.compile(forward, mode=mode)

    def updated(*given: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return made(*given)

    return updated


def gradient_norm(weights: list[nn.Parameter]) -> Tensor:
    """Of all gradients there are, ()."""
    return nn.utils.get_total_norm([each.grad for each in weights if each.grad is not None])


def witnesses(vae: VAE) -> list[nn.Parameter]:
    """Of each layer the biases and scales, or else its weights. All that comes back to a layer is summed up in them, so
    that nothing in it is not finite unseen; a weight's gradient is sums of the same, times activations."""
    found = [list(module.parameters(recurse=False)) for module in vae.modules()]
    return [each for own in found for each in [weights for weights in own if weights.ndim <= 1] or own]


def running_statistics(vae: VAE) -> list[list[Tensor]]:
    """What a training pass changes beside the weights, by type: batch normalisation's averages, and those of heads."""
    found = [*vae.networks.buffers(), *vae.variance.buffers()]
    return [[each for each in found if each.dtype == dtype] for dtype in dict.fromkeys(each.dtype for each in found)]


def as_one(buffers: list[Tensor]) -> Tensor:
    """Buffers of one type -> a flat tensor that they become views of, so that one operation reaches them all."""
    whole = torch.cat([buffer.flatten() for buffer in buffers])
    for buffer, part in zip(buffers, whole.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.data = part.view_as(buffer)
    return whole
