"""Representations: an invertible map x -> (y, r). The VAE models y; r, what is cut off, has a law in residual.py.

    log p(x) = log p(y) + log |dy/dx| + log p(r)

so every representation yields a density of the same pixels, and one number can compare them all.

Shapes: B images, N training images, D pixels of an image, K components kept.
Units: x in [0, 1); y has unit average variance unless `scale` is off; log-densities in nats per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from sklearn.decomposition import PCA as SklearnPCA
from torch import Tensor, nn

from svhn_vae.residual import RESIDUALS, Residual, Spectrum

NUM_LEVELS = 256
DEQUANTISATION_VARIANCE = 1 / (12 * NUM_LEVELS**2)  # of u / 256, u uniform in [0, 1): no variance is below it


class Features(NamedTuple):
    """What a representation makes of B images."""

    y: Tensor  # (B, *event_shape): what the VAE models
    residual: Tensor  # (B,): energy of what was cut off, sum over i > K of r_i^2 / variance_i
    log_det: Tensor  # (B,): log |dy/dx|, in nats


class Moments(NamedTuple):
    """Mean and whole covariance spectrum of the training pixels: all that a representation is fitted on."""

    mean: Tensor  # (D,) float64
    components: Tensor  # (D, D) float32, orthonormal rows, largest variance first
    eigenvalues: Tensor  # (D,) float64, as estimated: those beyond the number of images are 0


def fit_moments(x: np.ndarray) -> Moments:
    """Images x (N, D) float64 -> their moments, by scikit-learn's PCA.

    The solver is named because scikit-learn's automatic choice differs between 1,000 and 3,072 features. float64
    because covariance_eigh centres X'X after forming it, which cancels in float32 and loses the small eigenvalues.
    """
    num_images, num_pixels = x.shape
    pca = SklearnPCA(min(num_images, num_pixels), svd_solver="covariance_eigh").fit(x)
    components, eigenvalues = pca.components_, np.zeros(num_pixels)
    rank = min(num_images - 1, num_pixels)  # beyond it an eigenvalue is 0, or rounding of it
    eigenvalues[:rank] = pca.explained_variance_[:rank]
    if num_images < num_pixels:
        # Any orthonormal completion serves: its variance is 0 in the sample.
        completed, _ = np.linalg.qr(components.T, mode="complete")
        components = np.concatenate([components, completed.T[num_images:]])
    return Moments(
        torch.from_numpy(pca.mean_),
        torch.from_numpy(np.ascontiguousarray(components, dtype=np.float32)),
        torch.from_numpy(eigenvalues),
    )


class Representation(nn.Module, ABC):
    """An invertible map of images (C, H, W), fitted once.

    Its state is kept out of the checkpoints (it never changes): `named_buffers` is what a run folder saves.
    """

    event_shape: torch.Size  # the shape of y for one image
    residual: Residual  # the law of what is cut off
    is_projection: bool  # dear to compute and smaller than the image: worth keeping for a whole data set

    @abstractmethod
    def fit(self, moments: Moments) -> Self:
        """Takes the map's state from the training images' moments; returns self."""

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Images x (B, C, H, W) -> Features."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Features y (B, *event_shape) -> images (B, C, H, W), with the residual at its mean, 0."""

    def _state(self, name: str, *shape: int) -> None:
        """A buffer that is NaN until fitted or loaded, so that use before `fit` cannot go unseen."""
        self.register_buffer(name, torch.full(shape, torch.nan), persistent=False)


class Pixels(Representation):
    """y = (x - mean) / scale, with one mean and one scale for all pixels; without `scale`, y = x."""

    is_projection = False

    def __init__(
        self, image_shape: Sequence[int], *, scale: bool, n_components: None, whiten: bool, residual: None
    ) -> None:
        super().__init__()
        given = {"n_components": n_components, "whiten": whiten or None, "residual": residual}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"pca.{name}={str(value).lower()} needs a PCA, and this run models the pixels themselves "
                    f"(pca=none, which model=conv implies): drop pca.{name}, or use model=dense"
                )
        self.event_shape = torch.Size(image_shape)
        self.residual = Spectrum(0)  # nothing is cut off
        self.use_scale = scale
        self._state("mean")
        self._state("scale")

    def fit(self, moments: Moments) -> Self:
        # Law of total variance: of all pixels of all images, without another pass over them.
        variance = moments.eigenvalues.mean() + moments.mean.var(correction=0)
        self.mean.copy_(moments.mean.mean() if self.use_scale else torch.tensor(0.0))
        self.scale.copy_(variance.sqrt() if self.use_scale else torch.tensor(1.0))
        self.residual.fit(moments.eigenvalues[:0])
        return self

    def forward(self, x: Tensor) -> Features:
        log_det = -x[0].numel() * self.scale.log()
        return Features((x - self.mean) / self.scale, x.new_zeros(len(x)), log_det.expand(len(x)))

    def inverse(self, y: Tensor) -> Tensor:
        return y * self.scale + self.mean


class PCA(Representation):
    """y = the first K principal components: each divided by its own spread (`whiten`), by their common one (`scale`),
    or as they are (neither); the other D - K go to the residual.

    Eigenvalues are floored at the dequantisation variance: a smaller one is estimation noise.
    """

    is_projection = True

    def __init__(
        self, image_shape: Sequence[int], *, n_components: int, whiten: bool, scale: bool, residual: str
    ) -> None:
        super().__init__()
        num_pixels = math.prod(image_shape)
        if not 1 <= n_components <= num_pixels:
            raise ValueError(f"pca.n_components must be in 1..{num_pixels}, the pixels of an image, got {n_components}")
        if residual not in RESIDUALS:
            raise ValueError(f"pca.residual must be one of {', '.join(RESIDUALS)}, got {residual}")
        self.image_shape = torch.Size(image_shape)
        self.event_shape = torch.Size([n_components])
        self.whiten, self.use_scale = whiten, scale
        self.residual = RESIDUALS[residual](num_pixels - n_components)
        self._state("mean", num_pixels)
        self._state("components", num_pixels, num_pixels)
        self._state("scale", num_pixels)  # y_i and r_i are the projections divided by these
        self._state("log_det")

    @property
    def num_components(self) -> int:
        return self.event_shape[0]

    def fit(self, moments: Moments) -> Self:
        kept, dropped = moments.eigenvalues.clamp(min=DEQUANTISATION_VARIANCE).split(
            [self.num_components, self.residual.num_dims]
        )
        y_variance, r_variance = self._divisor(kept), self.residual.fit(dropped)
        self.mean.copy_(moments.mean)
        self.components.copy_(moments.components)
        self.scale.copy_(torch.cat([y_variance, r_variance]).sqrt())
        self.log_det.copy_(-0.5 * y_variance.log().sum())
        return self

    def _divisor(self, kept: Tensor) -> Tensor:
        if self.whiten:
            return kept
        return (kept.mean() if self.use_scale else torch.ones_like(kept[0])).expand_as(kept)

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(self, x: Tensor) -> Features:
        scores = (x.flatten(1) - self.mean) @ self.components.T / self.scale  # (B, D)
        y, r = scores.split([self.num_components, self.residual.num_dims], dim=1)
        return Features(y.contiguous(), r.square().sum(1), self.log_det.expand(len(x)))

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def inverse(self, y: Tensor) -> Tensor:
        scores = y.float() * self.scale[: self.num_components]
        return (scores @ self.components[: self.num_components] + self.mean).view(-1, *self.image_shape)
