"""Representations: an invertible map x -> (y, r). The VAE models y; r, what is cut off, has a law in residual.py.

    log p(x) = log p(y) + log |dy/dx| + log p(r)

so every representation yields a density of the same pixels, and one number can compare them all.

Shapes: B images, N training images, D pixels of an image, K components kept.
Units: x in [0, 1); y has unit average variance unless `scale` is off; log-densities in nats per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.fft
import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least, one_of
from svhn_vae.model.covariance import NUM_LEVELS, SCATTERS, Moments, floored
from svhn_vae.model.residual import RESIDUALS, Residual, Spectrum

UNKNOWN = -1  # the label of an image of which none is known
MARGIN = 0.01  # by which rounding, and a trip through other coordinates, may leave [0, 1]


class Features(NamedTuple):
    y: Tensor  # (B, *event_shape): what the VAE models
    residual: Tensor  # (B, N): energy of what was cut off, in N bands, sums of r_i^2 / variance_i over i > K
    log_det: Tensor  # (B,): log |dy/dx|, in nats
    label: Tensor  # (B,) int64: what is shown, if training is told so; else UNKNOWN


class Representation(nn.Module, ABC):
    """An invertible map of images (C, H, W), fitted once.

    Its state is kept out of the checkpoints (it never changes): `named_buffers` is what a run folder saves.
    """

    image_shape: torch.Size  # (C, H, W)
    event_shape: torch.Size  # the shape of y for one image
    mean: Tensor  # of x
    scale: Tensor  # what x - mean, or its scores, are divided by
    residual: Residual  # the law of what is cut off
    scatter: str  # of which moments it is fitted on: one of SCATTERS
    has_fitted_axes = False  # its first components are directions of the training images: it needs as many of these
    is_projection: bool  # dear to compute and smaller than the image: worth keeping for a whole data set

    @property
    @abstractmethod
    def y_scale(self) -> Tensor:
        """One unit of each element of y, in units of x; broadcasts to event_shape."""

    @abstractmethod
    def fit(self, moments: Moments) -> Self:
        """Takes the map's state from the training images' moments; returns self."""

    def forward(self, x: Tensor) -> Features:
        """Images x (B, C, H, W) in [0, 1] -> Features. Raises UserError for another shape, type or, on a CPU, range."""
        self._check(x)
        return self.features(x)

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """As `forward`, of images that have been checked."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Features y (B, *event_shape) -> images (B, C, H, W), with the residual at its mean, 0."""

    def _check(self, x: Tensor) -> None:
        """On another device a look at the values would wait for it."""
        expected = f"expected images x (B, {', '.join(map(str, self.image_shape))}) of floating point in [0, 1]"
        advice = "data.batches.dequantise(images, seed) makes them of uint8 images"
        if not x.is_floating_point() or x.shape[1:] != self.image_shape:
            raise UserError(f"{expected}, got {tuple(x.shape)} {x.dtype}: {advice}")
        if x.device.type == "cpu" and len(x) and not -MARGIN <= x.min() <= x.max() <= 1 + MARGIN:
            raise UserError(f"{expected}, got values of {x.min():g} to {x.max():g}: {advice}")

    def _state(self, name: str, *shape: int) -> None:
        """A buffer that is NaN until fitted or loaded, so that use before `fit` cannot go unseen."""
        self.register_buffer(name, torch.full(shape, torch.nan), persistent=False)


class Pixels(Representation):
    """y = (x - mean) / scale, with one mean and one scale for all pixels; without `scale`, y = x."""

    is_projection = False
    scatter = "sample"

    def __init__(self, image_shape: Sequence[int], *, scale: bool, whiten: bool, **of_projections: None) -> None:
        super().__init__()
        for name, value in {**of_projections, "whiten": whiten or None}.items():
            if value is not None:
                raise UserError(
                    f"pca.{name}={str(value).lower()} needs a PCA, and this run models the pixels themselves "
                    f"(pca=none, which convolutions imply): drop pca.{name}, or use model=dense"
                )
        self.image_shape = self.event_shape = torch.Size(image_shape)
        self.residual = Spectrum(0, 1)  # nothing is cut off
        self.use_scale = scale
        self._state("mean")
        self._state("scale")

    @property
    def y_scale(self) -> Tensor:
        return self.scale

    def fit(self, moments: Moments) -> Self:
        # Law of total variance: of all pixels of all images, without another pass over them.
        variance = moments.variances.mean() + moments.mean.var(correction=0)
        self.mean.copy_(moments.mean.mean() if self.use_scale else torch.tensor(0.0))
        self.scale.copy_(variance.sqrt() if self.use_scale else torch.tensor(1.0))
        self.residual.fit(moments.eigenvalues[:0])
        return self

    def features(self, x: Tensor) -> Features:
        log_det = -self.image_shape.numel() * self.scale.log()
        y = (x - self.mean) / self.scale
        return Features(y, x.new_zeros(len(x), 1), log_det.expand(len(x)), unknown(x))

    def inverse(self, y: Tensor) -> Tensor:
        return y * self.scale + self.mean


class Projection(Representation):
    """y = the first K coordinates in an orthonormal basis, each divided by its own spread (`whiten`), by their common
    one (`scale`), or as they are (neither); the other D - K go to the residual.

    Variances are floored at the dequantisation variance: a smaller one is estimation noise.
    pixel_levels: what a pixel's level is divided by in coordinates as they are: 256, or the post's 255.
    """

    is_projection = True
    components: Tensor  # (D, D), orthonormal rows
    log_det: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        n_components: int,
        whiten: bool,
        scale: bool,
        pixel_levels: int,
        scatter: str,
        residual: str,
        num_bands: int,
    ) -> None:
        super().__init__()
        num_pixels = math.prod(image_shape)
        if not 1 <= n_components <= num_pixels:
            raise UserError(f"pca.n_components must be in 1..{num_pixels}, the pixels of an image, got {n_components}")
        one_of("pca", RESIDUALS, residual=residual)
        one_of("pca", SCATTERS, scatter=scatter)
        one_of("pca", (NUM_LEVELS - 1, NUM_LEVELS), pixel_levels=pixel_levels)
        at_least("pca", 1, num_bands=num_bands)
        self.image_shape = torch.Size(image_shape)
        self.event_shape = torch.Size([n_components])
        self.whiten, self.use_scale, self.unit = whiten, scale, NUM_LEVELS / pixel_levels
        self.scatter = scatter
        self.residual = RESIDUALS[residual](num_pixels - n_components, num_bands)
        self._state("mean", num_pixels)
        self._state("components", num_pixels, num_pixels)
        self._state("scale", num_pixels)  # y_i and r_i are the projections divided by these
        self._state("log_det")

    @property
    def num_components(self) -> int:
        return self.event_shape.numel()

    @property
    def y_scale(self) -> Tensor:
        return self.scale[: self.num_components].view(self.event_shape)

    @abstractmethod
    def basis(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """The orthonormal rows (D, D), those to keep first, and the variances (D,) along them."""

    def fit(self, moments: Moments) -> Self:
        components, variances = self.basis(moments)
        kept, dropped = floored(variances).split([self.num_components, self.residual.num_dims])
        common = kept.mean() if self.use_scale else torch.full_like(kept[0], self.unit**-2)
        y_variance, r_variance = kept if self.whiten else common.expand_as(kept), self.residual.fit(dropped)
        self.mean.copy_(moments.mean)
        self.components.copy_(components)
        self.scale.copy_(torch.cat([y_variance, r_variance]).sqrt())
        self.log_det.copy_(-0.5 * y_variance.log().sum())
        return self

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def features(self, x: Tensor) -> Features:
        scores = (x.flatten(1) - self.mean) @ self.components.T / self.scale  # (B, D)
        y, r = scores.split([self.num_components, self.residual.num_dims], dim=1)
        energy, log_det = self.residual.energy(r), self.log_det.expand(len(x))
        return Features(y.reshape(-1, *self.event_shape), energy, log_det, unknown(x))

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def inverse(self, y: Tensor) -> Tensor:
        scores = y.float().flatten(1) * self.scale[: self.num_components]
        return (scores @ self.components[: self.num_components] + self.mean).view(-1, *self.image_shape)


class PCA(Projection):
    """The principal components of the training images, the largest variance first."""

    has_fitted_axes = True

    def basis(self, moments: Moments) -> tuple[Tensor, Tensor]:
        return moments.components, moments.variances


class DCT(Projection):
    """The two-dimensional cosine transform of three decorrelated colours, the largest variance first.

    What the principal components of natural images come close to (Ahmed, Natarajan and Rao 1974), with 3,072 variances
    and a 3 x 3 matrix to estimate instead of 4.7 million numbers: it cannot overfit a small data set.
    """

    def basis(self, moments: Moments) -> tuple[Tensor, Tensor]:
        components, variances = cosine_basis(moments, self.image_shape)
        order = variances.argsort(descending=True)
        return components[order], variances[order]


class Frequencies(Projection):
    """All coefficients of DCT's transform, each divided by its own spread, as an image (C, H, W): by colour, frequency
    down and frequency across."""

    def __init__(self, image_shape: Sequence[int], **settings: Any) -> None:
        super().__init__(image_shape, **settings)
        if not (settings["whiten"] and self.num_components == math.prod(image_shape)):
            raise UserError(
                f"pca=frequencies keeps all {math.prod(image_shape)} coefficients, whitened, got n_components="
                f"{self.num_components} and whiten={str(settings['whiten']).lower()}: use pca=dct for others"
            )
        self.event_shape = torch.Size(image_shape)

    def basis(self, moments: Moments) -> tuple[Tensor, Tensor]:
        return cosine_basis(moments, self.image_shape)


def cosine_basis(moments: Moments, image_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Moments of images (C, H, W) -> the orthonormal rows (D, D), by colour and frequency, and the variances (D,)."""
    channels, height, width = image_shape
    waves = torch.kron(cosines(height), cosines(width))  # (H W, H W): rows are frequencies
    by_colour = moments.components.double().view(-1, channels, height * width) @ waves.T  # (D, C, H W)
    spread = moments.variances.clamp(min=0).sqrt()[:, None, None]
    covariance = torch.einsum("dcf,dkf->fck", by_colour * spread, by_colour * spread)  # of colours, per frequency
    relative = covariance / covariance.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-12)[:, None, None]
    colours = torch.linalg.eigh(relative.mean(0)).eigenvectors.T.flip(0)  # (C, C), brightness first
    variances = torch.einsum("ac,fck,ak->af", colours, covariance, colours).flatten()
    return torch.kron(colours, waves), variances


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (size, size) in float64: rows are frequencies, the constant first."""
    return torch.from_numpy(scipy.fft.dct(np.eye(size), axis=0, norm="ortho"))


def to_frequencies(image: Tensor, waves: Tensor) -> Tensor:
    """image (..., H, H), waves = cosines(H) -> coefficients (..., H, H)."""
    return waves @ image @ waves.T


def to_places(coefficients: Tensor, waves: Tensor) -> Tensor:
    """The inverse of `to_frequencies`."""
    return waves.T @ coefficients @ waves


def unknown(x: Tensor) -> Tensor:
    return torch.full((len(x),), UNKNOWN, device=x.device)
