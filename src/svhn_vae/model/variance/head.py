"""What a variance head is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import Features


class VarianceHead(nn.Module, ABC):
    """Maps decoder output (B, P, *E) to a distribution over y."""

    params_per_element: int  # numbers that the decoder emits for each element of y
    emits_mean = True  # the first of them is the mean
    bounded = True  # False: the density's gradient can overflow, by design
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

    def standing(self, params: Tensor) -> dict[str, Tensor]:
        """Where sigma stands on a batch, as fractions of its elements: floor_fraction, ceiling_fraction,
        dead_fraction (elements whose sigma gets no gradient)."""
        return {}


def above_zero(name: str, value: float) -> float:
    """The value of variance.<name>, or ValueError."""
    if not value > 0:
        raise UserError(f"variance.{name} must be above 0, got {value}")
    return value


def low_high(name: str, value: Sequence[float]) -> tuple[float, float]:
    """The range variance.<name>, or ValueError."""
    low, high = value
    if not low < high:
        raise UserError(f"variance.{name} must be [low, high] with low < high, got [{low}, {high}]")
    return low, high
