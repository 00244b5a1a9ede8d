"""One update of a VAE by a batch, on its device; which updates were left out, and when they are too many; the
learning rate of each.

Shapes: B images of a batch. Units: nats per image.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svhn_vae.errors import fraction
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


class Skips:
    """max_gradient_norm: a longer gradient's update is left out, too; None: none is too long.
    max_skips: in a row; one more, and the run ends as diverged, as it does after an epoch without a finite loss.
    """

    def __init__(self, *, max_gradient_norm: float | None, max_skips: int) -> None:
        self.max_gradient_norm, self.max_skips = max_gradient_norm, max_skips
        self.num_skipped, self.num_in_a_row, self.first_in_a_row = 0, 0, 0
        self.last_finite_loss: float | None = None
        self._reason = ""  # of the first in a row
        self._has_finite_loss = True  # this epoch

    def begin_epoch(self) -> None:
        self._has_finite_loss = False

    def note(self, step: int, *, is_left_out: bool, loss: float, size: float) -> None:
        """An update, as Record has it. Those after the one too many are no longer counted."""
        if self.are_too_many:
            return
        if math.isfinite(loss):
            self._has_finite_loss, self.last_finite_loss = True, loss
        if not is_left_out:
            self.num_in_a_row = 0
            return
        if not self.num_in_a_row:
            self._reason, self.first_in_a_row = reason(step, loss, size), step
        self.num_skipped += 1
        self.num_in_a_row += 1

    @property
    def are_too_many(self) -> bool:
        return self.num_in_a_row > self.max_skips

    @property
    def are_all_of_an_epoch(self) -> bool:
        return self.num_skipped > 0 and not self._has_finite_loss

    def in_words(self) -> str:
        """Why the run ends."""
        before = "" if self.last_finite_loss is None else f"; the last finite loss was {self.last_finite_loss:.1f} nats"
        return f"{self._reason}, and so for {self.num_in_a_row} steps in a row{before}"

    def state_dict(self) -> dict[str, Any]:
        names = ("num_skipped", "num_in_a_row", "first_in_a_row", "last_finite_loss", "_reason")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def reason(step: int, loss: float, size: float) -> str:
    """Why an update is left out."""
    if not math.isfinite(loss):
        return f"the loss was not finite at step {step}"
    if not math.isfinite(size):
        return f"the gradient was not finite at step {step}"
    return f"the gradient's norm was {size:.3g} at step {step}, above skips.max_gradient_norm"


class Schedule:
    """The factor on the optimiser's learning rate: a linear rise, then half a cosine (Loshchilov and Hutter 2017).

    warmup: the share of all updates over which it rises from 0 to 1; 0: none.
    final: where it ends, after max_epochs; 1: it stays at 1.
    """

    def __init__(self, *, warmup: float, final: float) -> None:
        fraction("schedule", warmup=warmup, final=final)
        self.warmup, self.final = warmup, final

    def factor(self, step: int, num_steps: int) -> float:
        """Of update number `step`, counted from 0, of `num_steps`."""
        rise = self.warmup * num_steps
        if step < rise:
            return (step + 1) / (rise + 1)
        fall = (step - rise) / max(1.0, num_steps - rise)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
