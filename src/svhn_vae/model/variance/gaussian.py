"""Independent Gaussians, and the bounds of a log-variance.

Shapes: B images, E = event_shape of one image's features, P = params_per_element.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor
from torch.distributions import Distribution

from svhn_vae.model.variance.head import VarianceHead, low_high


class DiagonalNormal(Distribution):
    """Independent Gaussians over the event's elements, by mean and log-variance, each (B, *E).

    torch's Normal takes sigma, and its gradient holds sigma^-3: it overflows float32 where the loss as a function of
    the log-variance is still finite. Which parameterisation blows up is what is studied here, so the log is kept.
    """

    arg_constraints: ClassVar[dict] = {}  # the check would synchronise the device

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        self.loc, self.log_variance = mean, log_variance.expand_as(mean)
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp()

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (0.5 * self.log_variance).exp() * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, *E) -> (B,), summed over the event, in nats."""
        return -0.5 * normal_deviance(value - self.loc, self.log_variance).flatten(1).sum(1)


class GaussianHead(VarianceHead):
    """A Gaussian with independent elements; a subclass says what their log-variance is."""

    @abstractmethod
    def log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2, broadcastable to (B, *E)."""

    def dead(self, raw: Tensor) -> Tensor:
        """Elements of raw through which no gradient comes: booleans, or 0 where there are none."""
        return raw.new_zeros(())

    def forward(self, params: Tensor) -> DiagonalNormal:
        params = params.float()  # a sum over 3,000 elements is not safe in bfloat16
        mean, raw = params.split([1, params.shape[1] - 1], dim=1)  # its gradient is joined once; a slice's is padded
        return DiagonalNormal(mean.squeeze(1), self.log_variance(raw))

    @torch.no_grad()
    def standing(self, params: Tensor) -> dict[str, Tensor]:
        log_variance = self.forward(params).log_variance
        dead = self.dead(params[:, 1:].float()).float().mean()
        return {**at_bounds(log_variance, self.log_variance_range), "dead_fraction": dead}


class BoundedGaussianHead(GaussianHead):
    """A GaussianHead whose log-variance is kept smoothly within [low, high].

    Without a floor the likelihood is unbounded (Mattei and Frellsen 2018); without a ceiling one image can overflow it.
    """

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float]) -> None:
        super().__init__(event_shape)
        self.log_variance_range = low_high("log_variance_range", log_variance_range)

    @abstractmethod
    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2 before the bounds, broadcastable to (B, *E)."""

    def log_variance(self, raw: Tensor) -> Tensor:
        return soft_clip(self.unbounded_log_variance(raw), *self.log_variance_range)


def normal_deviance(residual: Tensor, log_variance: Tensor) -> Tensor:
    """-2 log N(residual; 0, exp(log_variance)) of each element, in nats."""
    return residual.square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)


def soft_clip(value: Tensor, low: float, high: float) -> Tensor:
    """`value` kept smoothly below high, then above low: the identity well inside, with a gradient everywhere."""
    value = high - F.softplus(high - value)
    return low + F.softplus(value - low)


def at_bounds(log_variance: Tensor, log_variance_range: tuple[float, float]) -> dict[str, Tensor]:
    """The fractions of elements at either bound; "at" a soft one: within 2.5 % in sigma. None is dead there."""
    (low, high), near = log_variance_range, 0.05
    return {
        "floor_fraction": (log_variance < low + near).float().mean(),
        "ceiling_fraction": (log_variance > high - near).float().mean(),
        "dead_fraction": log_variance.new_zeros(()),
    }
