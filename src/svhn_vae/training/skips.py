"""What is done about updates that were left out: they are counted, and too many of them are divergence."""

import math
from typing import Any

from svhn_vae.errors import UserError


class Skips:
    """max_gradient_norm: a longer gradient's update is left out, too; None: none is too long.
    max_skips: in a row; one more, and the run ends as diverged, as it does after an epoch without a finite loss.
    """

    def __init__(self, *, max_gradient_norm: float | None, max_skips: int) -> None:
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise UserError(f"skips.max_gradient_norm must be above 0 or null, got {max_gradient_norm}")
        if max_skips < 0:
            raise UserError(f"skips.max_skips must be 0 or more, got {max_skips}")
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
