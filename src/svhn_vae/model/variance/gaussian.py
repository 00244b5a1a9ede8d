"""Independent Gaussians, and the bounds of a log-variance.

Shapes: B images, E = event_shape of one image's features, P = params_per_element.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from svhn_vae.model.variance.head import Located, VarianceHead, low_high, soft_clip


class DiagonalNormal(Located):
    """Independent Gaussians over the event's elements, by mean and log-variance, each (B, *E).

    torch's Normal takes sigma, and its gradient holds sigma^-3: it overflows float32 where the loss as a function of
    the log-variance is still finite. Which parameterisation blows up is what is studied here, so the log is kept.
    """

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        super().__init__(mean)
        self.log_variance = log_variance.expand_as(mean)

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

    def log_variance_of(self, params: Tensor) -> Tensor:
        return self.forward(params).log_variance

    @torch.no_grad()
    def standing(self, params: Tensor) -> dict[str, Tensor]:
        return {**super().standing(params), "dead_fraction": self.dead(params[:, 1:].float()).float().mean()}


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
