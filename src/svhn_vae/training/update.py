"""One update of a VAE by a batch, on its device. Shapes: B images of a batch. Units: nats per image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svhn_vae.evaluation.bound import per_image
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.training.objective import Objective


class Record(NamedTuple):
    """What is known of an update, on the device; or of S updates, each tensor with (S,) before its shape."""

    is_left_out: Tensor  # (): 1 or 0
    size: Tensor  # (): the gradient's norm, before it is clipped
    means: Tensor  # (6,): over the batch, of what was minimised and of bound.per_image

    @property
    def loss(self) -> Tensor:
        return self.means[..., 0]


class Update:
    """Loss, gradient, optimiser's step. An update that is not finite, or whose gradient is longer than
    `max_gradient_norm`, is left out, as very deep VAEs are trained (Child 2021): weights, the optimiser's averages and
    running statistics stay as if the batch had not been.

    step: the optimiser's, by way of Lightning, which counts it.
    mean: over the processes of a run, of a tensor: all of them leave out the same updates.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        backward: Callable[[Tensor], None],
        step: Callable[[], Any],
        mean: Callable[[Tensor], Tensor],
        max_gradient_norm: float | None,
        clip: float | None,
        compile_mode: str | None,
    ) -> None:
        self.vae, self.objective, self.optimizer = vae, objective, optimizer
        self.backward, self.step, self.mean = backward, step, mean
        self.max_gradient_norm, self.clip = max_gradient_norm, clip
        # What a training pass changes beside the weights: averages of batch normalisation, and those of heads.
        self._statistics = [*vae.networks.buffers(), *vae.variance.buffers()]
        self._pass = compiled(self._forward, compile_mode) if compile_mode else self._forward

    def __call__(self, batch: Features, epoch: Tensor) -> Record:
        before = [statistic.clone() for statistic in self._statistics]
        torch.clear_autocast_cache()  # else the weights' copies of the update before are taken
        self.optimizer.zero_grad()
        loss, terms = self._pass(batch, epoch)
        self.backward(loss)
        means, size = self.mean(torch.stack([loss.detach(), *terms])), self._clipped_size()
        is_left_out = ~(means[0] + size).isfinite()
        if self.max_gradient_norm is not None:
            is_left_out |= size > self.max_gradient_norm
        for now, earlier in zip(self._statistics, before, strict=True):
            torch.where(is_left_out, earlier, now, out=now)
        as_number = is_left_out.float()
        self._leave_out(as_number)
        self.step()
        return Record(as_number, size, means)

    def _forward(self, batch: Features, epoch: Tensor) -> tuple[Tensor, list[Tensor]]:
        result, loss = self.objective(self.vae, batch, epoch)
        return loss, [result.mean(term).detach() for term in per_image(result)]

    def _clipped_size(self) -> Tensor:
        if self.clip is not None:
            return nn.utils.clip_grad_norm_(self.vae.parameters(), self.clip)
        return gradient_norm(self.vae)

    def _leave_out(self, is_left_out: Tensor) -> None:
        """Tells the optimiser. torch's fused ones are told as its gradient scaler tells them, on the device; for the
        others the host reads it, and they leave weights without a gradient alone."""
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = is_left_out  # pyright: ignore[reportAttributeAccessIssue]
        elif is_left_out:
            self.optimizer.zero_grad()


def compiled(forward: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Says where an update begins: what a CUDA graph gave is overwritten by its next replay."""
    made = torch.compile(forward, mode=mode)

    def updated(*given: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return made(*given)

    return updated


def gradient_norm(vae: VAE) -> Tensor:
    """Of all gradients there are, ()."""
    return nn.utils.get_total_norm([each.grad for each in vae.parameters() if each.grad is not None])
