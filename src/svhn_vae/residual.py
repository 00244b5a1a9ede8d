"""The density of the principal components that a truncated PCA drops: p(r | z).

With K = 500 they are 2,572 of 3,072 dimensions and carry most of the bits, so they are part of the model.
A dropped score r_i has variance_i, and only an image's energy counts: the sum over i > K of r_i^2 / variance_i.

Shapes: B images, K components kept, R = num_dims components dropped. Units: nats per image.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Residual(nn.Module, ABC):
    """A law of the R dropped scores r_i, by their energy."""

    params_per_image: int  # numbers that the decoder emits for it, per image

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.num_dims = num_dims
        self.register_buffer("log_norm", torch.tensor(torch.nan), persistent=False)  # of N(0, variance), in nats

    def fit(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues (R,) of the dropped components -> the variances (R,) that define the energy."""
        variance = self.variance(eigenvalues)
        self.log_norm.copy_(-0.5 * (2 * math.pi * variance).log().sum())
        return variance

    @abstractmethod
    def variance(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues (R,) -> variances (R,)."""

    @abstractmethod
    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        """Energy (B,), decoder output (B, params_per_image) -> log p(r | z) (B,), in nats, r in units of x."""


class Isotropic(Residual):
    """One variance for all dropped components, their mean eigenvalue: probabilistic PCA (Tipping and Bishop 1999)."""

    params_per_image = 0

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.mean().expand(self.num_dims)

    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        return self.log_norm - 0.5 * energy


class Spectrum(Residual):
    """A variance per dropped component, its eigenvalue; the same for every image."""

    params_per_image = 0

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues

    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        return self.log_norm - 0.5 * energy


class Scaled(Residual):
    """The eigenvalues times one factor per image from the decoder: pictures differ most in how smooth they are."""

    params_per_image = 1
    max_log_scale = 8.0  # a factor of 3000 either way; tanh keeps the exponential and its gradient finite

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues

    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        log_scale = self.max_log_scale * torch.tanh(params[:, 0].float() / self.max_log_scale)
        return self.log_norm - 0.5 * (energy * torch.exp(-log_scale) + self.num_dims * log_scale)


RESIDUALS: dict[str, type[Residual]] = {"isotropic": Isotropic, "spectrum": Spectrum, "scaled": Scaled}
