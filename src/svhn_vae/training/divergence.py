"""A run that diverges: which updates were left out, when they are too many, and what is left of the run then.

Shapes: B images, E = event_shape of y.
"""

import math
from pathlib import Path
from typing import Any

import torch

from svhn_vae.errors import Damaged
from svhn_vae.evaluation.bound import evaluation_pass, or_none
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import load_weights


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
        """An update, as update.Record has it. Those after the one too many are no longer counted."""
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


@torch.no_grad()
def head_state(vae: VAE, batch: Features) -> dict[str, float | None]:
    """Where sigma stands on a batch, with its range in units of y, over the elements where it is finite; None where
    there are none."""
    was_training = vae.training
    result = evaluation_pass(vae.eval(), batch, 0)
    vae.train(was_training)
    sigma = result.likelihood.stddev.flatten()
    finite = sigma[sigma.isfinite()]
    found = {
        **vae.variance.standing(result.inferred.params),
        "sigma_finite_fraction": sigma.isfinite().float().mean(),
        "sigma_min": finite.min() if len(finite) else sigma.new_tensor(math.nan),
        "sigma_max": finite.max() if len(finite) else sigma.new_tensor(math.nan),
    }
    return {name: or_none(value.float().mean().item()) for name, value in found.items()}


def load_last_finite(vae: VAE, folder: RunFolder) -> Path | None:
    """The best checkpoint's weights, or else the last one's; None if there is neither. All on disk are finite."""
    for path in (folder.best_checkpoint, folder.last_checkpoint):
        try:
            load_weights(vae, path)
        except (Damaged, FileNotFoundError):
            continue
        return path
    return None
