"""The density of the principal components that a truncated PCA drops: p(r | z).

With K = 500 they are 2,572 of 3,072 dimensions and carry most of the bits, so they are part of the model.
A dropped score r_i has variance_i, and of an image only the energy in each band of neighbouring components counts:
the sum over the band of r_i^2 / variance_i.

Shapes: B images, K components kept, R = num_dims components dropped, N = num_bands. Units: nats per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Residual(nn.Module, ABC):
    """A law of the R dropped scores r_i, by their energy in N bands."""

    params_per_image: int  # numbers that the decoder emits for it, per image
    log_norm: Tensor

    def __init__(self, num_dims: int, num_bands: int) -> None:
        super().__init__()
        num_bands = min(num_bands, max(num_dims, 1))
        self.num_dims, self.num_bands = num_dims, num_bands
        size, larger = divmod(num_dims, num_bands)
        self.band_sizes = [size + 1] * larger + [size] * (num_bands - larger)
        self.register_buffer("log_norm", torch.tensor(torch.nan), persistent=False)  # of N(0, variance), in nats

    def fit(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues (R,) of the dropped components -> the variances (R,) that define the energy."""
        variance = self.variance(eigenvalues)
        self.log_norm.copy_(-0.5 * (2 * math.pi * variance).log().sum())
        return variance

    def energy(self, r: Tensor) -> Tensor:
        """Dropped scores (B, R), each divided by its spread -> the energy of each band (B, N)."""
        return torch.stack([band.square().sum(1) for band in r.split(self.band_sizes, dim=1)], dim=1)

    @abstractmethod
    def variance(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues (R,) -> variances (R,)."""

    @abstractmethod
    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        """Energy (B, N), decoder output (B, params_per_image) -> log p(r | z) (B,), in nats, r in units of x."""


class Constant(Residual):
    """The same for every image: nothing of it depends on z."""

    params_per_image = 0

    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        return self.log_norm - 0.5 * energy.sum(1)


class Isotropic(Constant):
    """One variance for all dropped components, their mean eigenvalue: probabilistic PCA (Tipping and Bishop 1999)."""

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.mean().expand(self.num_dims)


class Spectrum(Constant):
    """A variance per dropped component, its eigenvalue; the same for every image."""

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues


class Banded(Residual):
    """The eigenvalues times one factor per image and band, from the decoder: pictures differ most in how smooth they
    are. With a single band it is the residual called `scaled`."""

    max_log_scale = 8.0  # a factor of 3000 either way; tanh keeps the exponential and its gradient finite
    dims: Tensor  # of each band

    def __init__(self, num_dims: int, num_bands: int) -> None:
        super().__init__(num_dims, num_bands)
        self.params_per_image = self.num_bands
        self.register_buffer("dims", torch.tensor(self.band_sizes, dtype=torch.float32), persistent=False)

    def variance(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues

    def log_prob(self, energy: Tensor, params: Tensor) -> Tensor:
        log_scale = self.max_log_scale * torch.tanh(params.float() / self.max_log_scale)
        return self.log_norm - 0.5 * (energy * torch.exp(-log_scale) + self.dims * log_scale).sum(1)


RESIDUALS: dict[str, Callable[[int, int], Residual]] = {  # name -> num_dims, num_bands -> the law
    "isotropic": lambda num_dims, num_bands: Isotropic(num_dims, 1),
    "spectrum": lambda num_dims, num_bands: Spectrum(num_dims, 1),
    "scaled": lambda num_dims, num_bands: Banded(num_dims, 1),
    "banded": Banded,
}
