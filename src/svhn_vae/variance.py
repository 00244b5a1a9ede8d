"""Variance heads: from the decoder's output to p(y | z). One class per file in conf/variance/.

To add one: subclass GaussianHead (or VarianceHead), then write conf/variance/<name>.yaml. Nothing else changes.

Shapes: B images, E = event_shape of one image's features, P = params_per_element.
Units: sigma in units of y, which has unit average variance; log_variance = log sigma^2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn
from torch.distributions import Distribution


class DiagonalNormal(Distribution):
    """Independent Gaussians over the event's elements, by mean and log-variance, each (B, *E).

    torch's Normal takes sigma, and its gradient holds sigma^-3: it overflows float32 where the loss as a function of
    the log-variance is still finite. Which parameterisation blows up is what is studied here, so the log is kept.
    """

    arg_constraints = {}  # noqa: RUF012  torch's own convention; the check would synchronise the device

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
        squared = (value - self.loc).square() * torch.exp(-self.log_variance)
        return -0.5 * (squared + self.log_variance + math.log(2 * math.pi)).flatten(1).sum(1)


class VarianceHead(nn.Module, ABC):
    """Maps decoder output (B, P, *E) to a distribution over y."""

    params_per_element: int  # numbers that the decoder emits for each element of y
    bounded = True  # False: the density's gradient can overflow, by design
    is_density = True  # False: log_prob is no density of y, so the run has no bits per dimension and is not ranked
    initial_factor = 1.0  # on the decoder's initial weights of all that it emits per element but the mean

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """params (B, P, *E) -> p(y | z) with batch_shape (B,) and event_shape E."""

    def penalty(self, params: Tensor) -> Tensor:
        """What training adds to the loss of each image (B,), in nats; no part of the bound."""
        return params.new_zeros(len(params))

    def observe(self, params: Tensor, y: Tensor) -> None:
        """Called on every training batch before `forward`; for heads that track a statistic of the residuals."""

    def standing(self, params: Tensor) -> dict[str, Tensor]:
        """Where sigma stands on a batch, as fractions of its elements: floor_fraction, ceiling_fraction,
        dead_fraction (elements whose sigma gets no gradient)."""
        return {}


class GaussianHead(VarianceHead):
    """A Gaussian with independent elements; a subclass says what their log-variance is."""

    log_variance_range = (-math.inf, math.inf)

    @abstractmethod
    def log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2, broadcastable to (B, *E)."""

    def dead(self, raw: Tensor) -> Tensor:
        """Elements of raw through which no gradient comes: booleans, or 0 where there are none."""
        return raw.new_zeros(())

    def forward(self, params: Tensor) -> DiagonalNormal:
        params = params.float()  # a sum over 3,000 elements is not safe in bfloat16
        return DiagonalNormal(params[:, 0], self.log_variance(params[:, 1:]))

    @torch.no_grad()
    def standing(self, params: Tensor) -> dict[str, Tensor]:
        low, high = self.log_variance_range
        log_variance, near = self.forward(params).log_variance, 0.05  # "at" a soft bound: within 2.5 % in sigma
        return {
            "floor_fraction": (log_variance < low + near).float().mean(),
            "ceiling_fraction": (log_variance > high - near).float().mean(),
            "dead_fraction": self.dead(params[:, 1:]).float().mean(),
        }


class BoundedGaussianHead(GaussianHead):
    """A GaussianHead whose log-variance is kept smoothly within [low, high].

    Without a floor the likelihood is unbounded (Mattei and Frellsen 2018); without a ceiling one image can overflow it.
    """

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float]) -> None:
        super().__init__(event_shape)
        low, high = log_variance_range
        if not low < high:
            raise ValueError(f"variance.log_variance_range must be [low, high] with low < high, got [{low}, {high}]")
        self.log_variance_range = (low, high)

    @abstractmethod
    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2 before the bounds, broadcastable to (B, *E)."""

    def log_variance(self, raw: Tensor) -> Tensor:
        return soft_clip(self.unbounded_log_variance(raw), *self.log_variance_range)


class ReluEps(GaussianHead):
    """sigma^2 = ReLU(v) + epsilon, v from the decoder per element: the post's head.

    Where v < 0 its gradient is exactly 0 (dead); a floor above a residual variance s costs
    0.5 (log(epsilon / s) + s / epsilon - 1) nats per element.
    """

    params_per_element = 2

    def __init__(self, event_shape: Sequence[int], *, epsilon: float) -> None:
        super().__init__(event_shape)
        if not epsilon > 0:
            raise ValueError(f"variance.epsilon must be above 0, or a variance can be 0, got {epsilon}")
        self.epsilon = epsilon
        self.log_variance_range = (math.log(epsilon), math.inf)

    def log_variance(self, raw: Tensor) -> Tensor:
        return (F.relu(raw[:, 0]) + self.epsilon).log()

    def dead(self, raw: Tensor) -> Tensor:
        return raw[:, 0] <= 0


class LogVar(GaussianHead):
    """log sigma^2 = v, v from the decoder per element, without bounds: Kingma's head, and the one that blew up.

    d loss / dv = 0.5 (1 - r^2 exp(-v)) grows without limit where sigma is too small.
    """

    params_per_element = 2
    bounded = False

    def log_variance(self, raw: Tensor) -> Tensor:
        return raw[:, 0]


class Fixed(GaussianHead):
    """One constant sigma for every element of every image (Doersch 2016); sigma^2 = beta / 2 is a beta-VAE."""

    params_per_element = 1

    def __init__(self, event_shape: Sequence[int], *, sigma: float) -> None:
        super().__init__(event_shape)
        if not sigma > 0:
            raise ValueError(f"variance.sigma must be above 0, got {sigma}")
        self.register_buffer("constant", torch.tensor(2 * math.log(sigma)))

    def log_variance(self, raw: Tensor) -> Tensor:
        return self.constant


class Shared(BoundedGaussianHead):
    """One learned sigma for every element of every image (the sigma-VAE of Rybkin et al. 2021).

    gain: log sigma^2 per unit of the parameter. Adam moves a parameter by about the learning rate a step, however far
    it is from its best; with a gain of 1 a learning rate of 1e-4 would need 50,000 steps for what the networks learn
    in hundreds.
    """

    params_per_element = 1

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], gain: float) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        self.gain = gain
        self.value = nn.Parameter(torch.zeros(()))

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return self.gain * self.value


class PerDimension(BoundedGaussianHead):
    """One learned sigma for each element of y, the same for every image; `gain` as for Shared."""

    params_per_element = 1

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], gain: float) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        self.gain = gain
        self.value = nn.Parameter(torch.zeros(self.event_shape))

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return self.gain * self.value


class PerImage(BoundedGaussianHead):
    """One sigma per image from the decoder, the same for all its elements: the mean of what it emits per element."""

    params_per_element = 2

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return raw[:, 0].flatten(1).mean(1).view(-1, *[1] * len(self.event_shape))


def soft_clip(value: Tensor, low: float, high: float) -> Tensor:
    """`value` kept smoothly below high, then above low: the identity well inside, with a gradient everywhere."""
    value = high - F.softplus(high - value)
    return low + F.softplus(value - low)
