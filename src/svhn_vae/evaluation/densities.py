"""Densities of whole images that need no network: a Gaussian and a Student-t with given axes.

Shapes: N images, D pixels; x (N, D) in [0, 1). Units: log-densities in nats per image.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from svhn_vae.model.covariance import student_t_log_prob


class Density(ABC):
    """A law of x (N, D)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Images x (N, D) -> log-densities (N,) float64, in nats."""


class Uniform(Density):
    """Every x in [0, 1)^D alike."""

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64)


class Elliptical(Density):
    """A law of the distance to the mean (D,), in units of the scatter (D,) along orthonormal axes, rows (D, D)."""

    def __init__(self, mean: Tensor, axes: Tensor, scatter: Tensor) -> None:
        self.mean, self.axes, self.scatter = mean.float(), axes.float(), scatter.double()

    def distances(self, x: Tensor) -> Tensor:
        """x (N, D) -> squared Mahalanobis distances (N,) float64."""
        return (((x - self.mean) @ self.axes.T).double().square() / self.scatter).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.radial_log_prob(self.distances(x)) - 0.5 * self.scatter.log().sum()

    @abstractmethod
    def radial_log_prob(self, distances: Tensor) -> Tensor:
        """Squared distances (N,) -> log-densities (N,) where the scatter is the identity."""


class Gaussian(Elliptical):
    def radial_log_prob(self, distances: Tensor) -> Tensor:
        return -0.5 * (len(self.mean) * math.log(2 * math.pi) + distances)


class StudentT(Elliptical):
    """The multivariate Student-t: a Gaussian with one scale per image, integrated out."""

    def __init__(self, mean: Tensor, axes: Tensor, scatter: Tensor, degrees: float) -> None:
        super().__init__(mean, axes, scatter)
        self.degrees = degrees

    def radial_log_prob(self, distances: Tensor) -> Tensor:
        return torch.from_numpy(student_t_log_prob(distances.numpy(), self.degrees, len(self.mean)))
