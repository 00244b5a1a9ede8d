"""The learning rate over a run."""

import math

from svhn_vae.errors import UserError


class Schedule:
    """The factor on the optimiser's learning rate: a linear rise, then half a cosine (Loshchilov and Hutter 2017).

    warmup: the share of all updates over which it rises from 0 to 1; 0: none.
    final: where it ends, after max_epochs; 1: it stays at 1.
    """

    def __init__(self, *, warmup: float, final: float) -> None:
        for name, value in (("warmup", warmup), ("final", final)):
            if not 0 <= value <= 1:
                raise UserError(f"schedule.{name} must be in 0..1, got {value}")
        self.warmup, self.final = warmup, final

    def factor(self, step: int, num_steps: int) -> float:
        """Of update number `step`, counted from 0, of `num_steps`."""
        rise = self.warmup * num_steps
        if step < rise:
            return (step + 1) / (rise + 1)
        fall = (step - rise) / max(1.0, num_steps - rise)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
