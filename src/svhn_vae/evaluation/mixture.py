"""A mixture of probabilistic principal component analysers (Tipping and Bishop 1999), fitted by EM.

Each component is a Gaussian with K axes of their own variance and one variance for all the others: a mixture can say
that smooth pictures and rough ones differ in more than their scale.

Shapes: N images, D pixels, M components of the mixture, K axes of each. Units: nats per image.
"""

import math
from typing import Self

import torch
from torch import Tensor

from svhn_vae.evaluation.densities import Density
from svhn_vae.model.covariance import DEQUANTISATION_VARIANCE

MAX_STEPS = 20  # of EM
TOLERANCE = 5e-3  # nats per pixel that a further step must gain
MIN_RESPONSIBILITY = 1e-6  # images that a component has less of are left out of its fit: nearly all of them, in high D


class PPCA(Density):
    """A Gaussian with variance_k along K axes, and one variance along all other directions."""

    def __init__(self, mean: Tensor, axes: Tensor, variances: Tensor, isotropic: float) -> None:
        self.mean, self.axes, self.variances, self.isotropic = mean, axes, variances.double(), isotropic

    @classmethod
    def fit(cls, x: Tensor, weights: Tensor, num_axes: int) -> Self:
        """Maximum likelihood on images x (N, D) with weights (N,); no variance is below the dequantisation noise's."""
        from sklearn.utils.extmath import randomized_svd

        D = x.shape[1]
        shares = weights / weights.sum()
        mean = shares @ x
        rows = (x - mean) * shares.sqrt()[:, None]
        _, _, axes = randomized_svd(rows.numpy(), min(num_axes, len(x), D), random_state=0)
        scores, rest = along(torch.from_numpy(axes), rows)
        isotropic = max(rest.sum().item() / max(D - len(axes), 1), DEQUANTISATION_VARIANCE)
        return cls(mean, torch.from_numpy(axes), scores.sum(0).clamp(min=isotropic), isotropic)

    def log_prob(self, x: Tensor) -> Tensor:
        K, D = self.axes.shape
        scores, rest = along(self.axes, x - self.mean)
        distances = (scores / self.variances).sum(1) + rest / self.isotropic
        log_det = self.variances.log().sum() + (D - K) * math.log(self.isotropic)
        return -0.5 * (D * math.log(2 * math.pi) + log_det + distances)


def along(axes: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """Axes (K, D), centred images (N, D) -> their energy along each axis (N, K) and off all of them (N,), float64."""
    scores = centred @ axes.T
    rest = centred - scores @ axes  # the energies' difference would cancel
    return scores.double().square(), rest.double().square().sum(1)


class Mixture(Density):
    """Components, and their log-weights (M,)."""

    def __init__(self, components: list[PPCA], log_weights: Tensor) -> None:
        self.components, self.log_weights = components, log_weights

    def joint_log_prob(self, x: Tensor) -> Tensor:
        """x (N, D) -> log of weight times density of each component (N, M)."""
        return torch.stack([component.log_prob(x) for component in self.components], dim=1) + self.log_weights

    def log_prob(self, x: Tensor) -> Tensor:
        return self.joint_log_prob(x).logsumexp(1)


def fit_mixture(x: Tensor, responsibilities: Tensor, num_axes: int) -> Mixture:
    """EM on images x (N, D) float32, from first responsibilities (N, M) on; a component that loses all is dropped."""
    before = -math.inf
    for _ in range(MAX_STEPS):
        mixture = maximise(x, responsibilities, num_axes)
        joint = mixture.joint_log_prob(x)
        log_likelihood = joint.logsumexp(1).mean().item()
        if log_likelihood - before < TOLERANCE * x.shape[1]:
            break
        before, responsibilities = log_likelihood, joint.softmax(1)
    return mixture


def maximise(x: Tensor, responsibilities: Tensor, num_axes: int) -> Mixture:
    """The M step."""
    components, shares = [], []
    for weights in responsibilities.T.float():
        own = weights > MIN_RESPONSIBILITY
        if own.any():
            components.append(PPCA.fit(x[own], weights[own], num_axes))
            shares.append(weights.mean().item())
    return Mixture(components, torch.tensor(shares, dtype=torch.float64).log())


def by_smoothness(images: Tensor, num_components: int) -> Tensor:
    """Images (N, C, H, W) -> first responsibilities (N, M): equal groups, from the smoothest to the roughest."""
    roughness = sum(images.diff(dim=dim).square().sum((1, 2, 3)) for dim in (2, 3))
    groups = roughness.argsort().argsort() * num_components // len(images)
    return torch.nn.functional.one_hot(groups, num_components).double()
