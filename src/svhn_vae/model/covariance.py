"""Mean and covariance spectrum of the training pixels: all that a representation, or a Gaussian, is fitted on.

Shapes: N training images, B of them at a time, D pixels of an image.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import torch
from torch import Tensor

NUM_LEVELS = 256
DEQUANTISATION_VARIANCE = 1 / (12 * NUM_LEVELS**2)  # of u / 256, u uniform in [0, 1): no variance is below it
MAX_STEPS = 20  # of EM: it takes 5 to 8
FAR = 1e3  # widths of a kernel: beyond, its Hilbert transform is that of a point, to a millionth
ROWS_AT_ONCE = 500  # of the square of all pairs of eigenvalues: bounds memory
TOLERANCE = 1e-3  # nats per pixel that a further step of EM must gain


class Moments(NamedTuple):
    mean: Tensor  # (D,) float64
    components: Tensor  # (D, D) float32, orthonormal rows, largest variance first
    eigenvalues: Tensor  # (D,) float64, as estimated: those beyond the number of images are 0
    degrees_of_freedom: Tensor  # () float64: of the Student-t whose scatter this is; infinite for the covariance
    total_variance: Tensor  # () float64: of the pixels of the training images

    @property
    def variances(self) -> Tensor:
        """(D,): the eigenvalues, of the size that the pixels' total variance has."""
        return self.eigenvalues * (self.total_variance / self.eigenvalues.sum())


def sample_moments(batches: Iterable[Tensor]) -> Moments:
    """Images x (B, D) float64, all on one device -> their mean and covariance.

    What scikit-learn's PCA(svd_solver="covariance_eigh") computes, which wants all images at once: 15 GB of SVHN's
    604,388. float64 because X'X is centred after it is formed, which in float32 loses the small eigenvalues.
    """
    first, *more = itertools.islice(remaining := iter(batches), 2)
    if not more and are_few(first):
        return moments_of_few(first)
    num_images, total, products = 0, torch.tensor(0.0), torch.tensor(0.0)
    for x in itertools.chain([first], more, remaining):
        num_images, total, products = num_images + len(x), total + x.sum(0), products + gram(x)
    mean = total / num_images
    covariance = (products - num_images * torch.outer(mean, mean)) / (num_images - 1)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    rank = min(num_images - 1, len(mean))  # beyond it an eigenvalue is 0, or rounding of it
    eigenvalues = eigenvalues.flip(0).clamp(min=0)
    eigenvalues[rank:] = 0
    return as_moments(mean, with_signs(vectors.T.flip(0)), eigenvalues, math.inf, eigenvalues.sum())


def are_few(x: Tensor) -> bool:
    """Whether D^3 of images (N, D) can be avoided: 500 of 64 x 64 pixels then take half a minute, not half an hour."""
    return 2 * len(x) <= x.shape[1]


def moments_of_few(x: Tensor) -> Moments:
    """As `sample_moments`, by the singular vectors of the centred images (N, D)."""
    mean, rank = x.mean(0), len(x) - 1
    _, singular, rows = torch.linalg.svd(x - mean, full_matrices=False)
    eigenvalues = singular.new_zeros(x.shape[1])
    eigenvalues[:rank] = singular[:rank].square() / rank
    return as_moments(mean, with_signs(completed(rows[:rank])), eigenvalues, math.inf, eigenvalues.sum())


def completed(rows: Tensor) -> Tensor:
    """Orthonormal rows (R, D) -> (D, D): the same up to signs, and any others that make a basis."""
    return torch.linalg.qr(rows.T, mode="complete").Q.T


def gram(x: Tensor) -> Tensor:
    """x (B, D) -> x'x (D, D). On a CPU by numpy, which sees that it is symmetric: in half of torch's time."""
    return torch.from_numpy(x.numpy().T @ x.numpy()) if x.device.type == "cpu" else x.T @ x


def with_signs(rows: Tensor) -> Tensor:
    """Eigenvectors (D, D) with their largest element positive, whatever found them, as scikit-learn has it."""
    return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def robust_moments(batches: Iterable[Tensor]) -> Moments:
    """Images x (B, D) float64 -> mean, scatter and degrees of freedom of a multivariate Student-t, by EM on the CPU.

    An image is mean + s_i * e with e Gaussian and a scale s_i of its own, which the fit takes out. PX-EM (Kent, Tyler
    and Vardi 1994; Liu, Rubin and Wu 1998), the degrees of freedom maximised in each step (ECME). The dequantisation
    variance is added in every direction: it regularises, and where there are few images it makes the fit possible.
    Few images are fitted in the directions that they span: in all others the scatter is 0.
    """
    images = list(batches)
    num_pixels = images[0].shape[1]
    if len(images) > 1 or not are_few(images[0]):
        return as_moments(*student_t([batch.numpy(force=True) for batch in images], num_pixels))
    few = moments_of_few(images[0].cpu())
    rows, centre = few.components[: len(images[0]) - 1].double(), few.mean
    scores = (images[0].cpu() - centre) @ rows.T
    mean, within, spread, degrees, total_variance = student_t([scores.numpy()], num_pixels)
    eigenvalues = spread.new_full((num_pixels,), DEQUANTISATION_VARIANCE)
    eigenvalues[: len(spread)] = spread
    return as_moments(centre + mean @ rows, with_signs(completed(within @ rows)), eigenvalues, degrees, total_variance)


def student_t(x: list[np.ndarray], num_pixels: int) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Batches of images (B, R) of which R of `num_pixels` directions are left, as the others have no scatter -> their
    mean (R,), components (R, R), eigenvalues (R,), degrees of freedom and total variance."""
    num_images, num_dims = sum(map(len, x)), x[0].shape[1]  # what is computed of x, is so of a batch: memory
    mean, scatter = weighted_moments(x, np.full(num_images, 1 / num_images))
    total_variance, degrees, before = np.trace(scatter), math.inf, -math.inf
    for _ in range(MAX_STEPS):
        distances, log_det = mahalanobis(x, mean, scatter)
        degrees, log_likelihood = fit_degrees_of_freedom(distances, num_pixels)
        log_likelihood -= 0.5 * (log_det + (num_pixels - num_dims) * math.log(DEQUANTISATION_VARIANCE))
        if log_likelihood - before < TOLERANCE * num_pixels:
            break
        before = log_likelihood
        weights = (degrees + num_pixels) / (degrees + distances)
        mean, scatter = weighted_moments(x, weights / weights.sum())
    eigenvalues, vectors = scipy.linalg.eigh(scatter)
    mean, rows, eigenvalues = map(torch.tensor, (mean, vectors.T[::-1].copy(), eigenvalues[::-1].copy()))
    return mean, rows, eigenvalues + DEQUANTISATION_VARIANCE, degrees, total_variance


FITS = {"sample": sample_moments, "robust": robust_moments}
SCATTERS = (*FITS, "shrunk")


def shrunk(sample: Moments, num_images: int) -> Moments:
    """The same axes with the variances that they are to have in other images, where a sample's spread too far: the
    small ones too small, and those beyond the number of images 0.

    Ledoit and Wolf's analytical nonlinear shrinkage (2020), from the density of the sample's own eigenvalues; then made
    to fall. It supposes independent images. Of fewer than 12 it can say nothing, and they stay as they are.
    """
    num_pixels, num = len(sample.mean), num_images - 1  # the mean is estimated, too
    if num <= 11:
        return sample
    width, ratio, known = num ** (-1 / 3), num_pixels / num, sample.eigenvalues[: min(num_pixels, num)].numpy()
    density, hilbert = spectral_density(known, width)
    if num_pixels <= num:
        size = (np.pi * ratio * known * density) ** 2 + (1 - ratio - np.pi * ratio * known * hilbert) ** 2
        found = known / size
    else:
        reach = np.sqrt(5) * width
        at_null = 1.5 / reach**2 + 0.75 / reach * (1 - 1 / reach**2) * np.log((1 + reach) / (1 - reach))
        of_null = num / (num_pixels - num) / (at_null * (1 / known).mean())
        found = np.full(num_pixels, of_null)
        found[:num] = 1 / (np.pi**2 * known * (density**2 + hilbert**2))
    eigenvalues = torch.from_numpy(np.array(scipy.optimize.isotonic_regression(found, increasing=False).x))
    return sample._replace(eigenvalues=eigenvalues, total_variance=eigenvalues.sum())


def spectral_density(eigenvalues: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Of eigenvalues (R,), at each of them, and its Hilbert transform: by Epanechnikov's kernel, of a width that is
    relative to the eigenvalue."""
    found = []
    for part in np.array_split(eigenvalues, -(-len(eigenvalues) // ROWS_AT_ONCE)):
        x = (part[:, None] - eigenvalues) / (width * eigenvalues)
        bounded = np.where(np.abs(np.abs(x) - np.sqrt(5)) < 1e-9, 2.0, np.clip(x, -FAR, FAR))  # the logarithm is finite
        parabola = 3 / (4 * np.sqrt(5)) * (1 - bounded**2 / 5)
        logarithm = np.log(np.abs((np.sqrt(5) - bounded) / (np.sqrt(5) + bounded)))
        near = -3 / (10 * np.pi) * x + parabola / np.pi * logarithm
        far = -1 / (np.pi * np.where(np.abs(x) > FAR, x, FAR))  # where the difference would be rounding
        transform = np.where(np.abs(x) > FAR, far, near)
        found.append([(each / (width * eigenvalues)).mean(1) for each in (parabola.clip(min=0), transform)])
    density, hilbert = zip(*found, strict=True)
    return np.concatenate(density), np.concatenate(hilbert)


def weighted_moments(x: list[np.ndarray], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Batches of N images, their weights (N,) -> mean (D,), scatter (D, D)."""
    parts = np.split(weights, np.cumsum([len(batch) for batch in x])[:-1])
    num_dims = x[0].shape[1]
    mean = sum((part @ batch for part, batch in zip(parts, x, strict=True)), start=np.zeros(num_dims))
    scatter = np.zeros((num_dims, num_dims))
    for part, batch in zip(parts, x, strict=True):
        centred = (batch - mean) * np.sqrt(part)[:, None]
        scatter += centred.T @ centred
    return mean, scatter


def mahalanobis(x: list[np.ndarray], mean: np.ndarray, scatter: np.ndarray) -> tuple[np.ndarray, float]:
    """Batches of N images, mean (D,), scatter (D, D) -> squared distances (N,), log-determinant; of scatter plus the
    noise's."""
    floored = scatter + DEQUANTISATION_VARIANCE * np.eye(len(scatter))
    factor = scipy.linalg.cholesky(floored, lower=True)
    scores = (scipy.linalg.solve_triangular(factor, (batch - mean).T, lower=True) for batch in x)
    return np.concatenate([np.square(each).sum(0) for each in scores]), 2 * np.log(factor.diagonal()).sum()


def student_t_log_prob(distances: np.ndarray, degrees: float, num_dims: int) -> np.ndarray:
    """Squared distances (N,) -> log-densities (N,) in nats of the multivariate Student-t, less 0.5 log det scatter; of
    a Gaussian where the degrees of freedom are infinite."""
    if math.isinf(degrees):
        return -0.5 * (num_dims * math.log(2 * math.pi) + distances)
    half, halves = 0.5 * degrees, 0.5 * (degrees + num_dims)
    log_norm = scipy.special.gammaln(halves) - scipy.special.gammaln(half) - 0.5 * num_dims * np.log(degrees * np.pi)
    return log_norm - halves * np.log1p(distances / degrees)


def fit_degrees_of_freedom(distances: np.ndarray, num_dims: int) -> tuple[float, float]:
    """Squared distances (N,) -> the degrees of freedom of highest likelihood, and their mean log-density."""
    found: Any = scipy.optimize.minimize_scalar(
        lambda log_degrees: -student_t_log_prob(distances, np.exp(log_degrees), num_dims).mean(),
        bounds=(math.log(0.5), math.log(1e6)),
    )
    return float(np.exp(found.x)), -float(found.fun)


def as_moments(
    mean: Tensor, components: Tensor, eigenvalues: Tensor, degrees: float, total_variance: float | Tensor
) -> Moments:
    """On the CPU."""
    return Moments(
        mean.cpu(),
        components.float().cpu().contiguous(),
        eigenvalues.cpu(),
        torch.tensor(degrees, dtype=torch.float64),
        torch.as_tensor(total_variance, dtype=torch.float64).cpu(),
    )


def floored(variance: Tensor) -> Tensor:
    """No variance of dequantised pixels, in any direction, is below that of the noise."""
    return variance.clamp(min=DEQUANTISATION_VARIANCE)
