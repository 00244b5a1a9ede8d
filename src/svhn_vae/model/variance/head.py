"""What a variance head is, and a head of pixels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn
from torch.distributions import Distribution

from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import Features


class Located(Distribution):
    """A law of y around a mean (B, *E); a subclass has log_prob, variance and rsample or sample."""

    arg_constraints: ClassVar[dict] = {}  # the check would synchronise the device

    def __init__(self, mean: Tensor) -> None:
        self.loc = mean
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def noise(self, sample_shape: torch.Size) -> Tensor:
        return torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)


class VarianceHead(nn.Module, ABC):
    """Maps decoder output (B, P, *E) to a distribution over y."""

    params_per_element: int  # numbers that the decoder emits for each element of y
    emits_mean = True  # the first of them is the mean
    is_density = True  # False: log_prob is no density of y, so the run has no bits per dimension and is not ranked
    log_variance_range = (-math.inf, math.inf)  # of log sigma^2
    initial_factor = 1.0  # on the decoder's initial weights of all that it emits per element but the mean

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """params (B, P, *E) -> p(y | z) with batch_shape (B,) and event_shape E."""

    def detach_mean(self, params: Tensor) -> Tensor:
        """The same parameters, through whose mean no gradient comes; all of them, where the mean follows from all."""
        return torch.cat([params[:, :1].detach(), params[:, 1:]], dim=1) if self.emits_mean else params

    def penalty(self, params: Tensor) -> Tensor:
        """What training adds to the loss of each image (B,), in nats; no part of the bound."""
        return params.new_zeros(len(params))

    def start(self, batches: Iterable[Features]) -> None:
        """Called once before training, with some training images: heads may begin from data."""

    def observe(self, params: Tensor, y: Tensor) -> None:
        """Called on every training batch before `forward`; for heads that track a statistic of the residuals."""

    def log_variance_of(self, params: Tensor) -> Tensor | None:
        """The log-variances within log_variance_range that params (B, P, *E) stand for; None: there are no such."""

    def dead_fraction(self, params: Tensor) -> Tensor:
        """Of the elements whose sigma gets no gradient."""
        return params.new_zeros(())

    @torch.no_grad()
    def standing(self, params: Tensor) -> dict[str, Tensor]:
        """Where sigma stands on a batch, as fractions of its elements; "at" a soft bound: within 2.5 % in sigma."""
        log_variance = self.log_variance_of(params)
        if log_variance is None:
            return {}
        (low, high), near = self.log_variance_range, 0.05
        return {
            "floor_fraction": (log_variance < low + near).float().mean(),
            "ceiling_fraction": (log_variance > high - near).float().mean(),
            "dead_fraction": self.dead_fraction(params.float()),
        }


class BoundedHead(VarianceHead):
    """A head that keeps a log-variance smoothly within [low, high]: the decoder's second number of each element, unless
    a subclass says otherwise.

    Without a floor the likelihood is unbounded (Mattei and Frellsen 2018); without a ceiling one image can overflow it.
    """

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float]) -> None:
        super().__init__(event_shape)
        self.log_variance_range = low_high("log_variance_range", log_variance_range)

    def log_variance_of(self, params: Tensor) -> Tensor:
        return soft_clip(params[:, 1].float(), *self.log_variance_range)


class PixelHead(VarianceHead):
    """A head of pixels y = x (3, H, W) in [0, 1). scale: whether the representation scales them, which it must not."""

    def __init__(self, event_shape: Sequence[int], *, scale: bool) -> None:
        super().__init__(event_shape)
        if scale or len(event_shape) != 3 or event_shape[0] != 3:
            got = f"features {tuple(event_shape)}, {'scaled' if scale else 'not scaled'}"
            raise UserError(
                f"this variance needs y = x, pixels (3, H, W) in [0, 1), got {got}: use pca=unit_pixels, as it does "
                "where no pca is given"
            )


def soft_clip(value: Tensor, low: float, high: float) -> Tensor:
    """`value` kept smoothly below high, then above low: the identity well inside, with a gradient everywhere."""
    value = high - F.softplus(high - value)
    return low + F.softplus(value - low)


def low_high(name: str, value: Sequence[float]) -> tuple[float, float]:
    """The range variance.<name>, or UserError."""
    low, high = value
    if not low < high:
        raise UserError(f"variance.{name} must be [low, high] with low < high, got [{low}, {high}]")
    return low, high
