"""What a model without a network scores: Gaussians of the same dequantised pixels, fitted on the training images.

All but one are a spectrum on the same basis, so that one projection of the test images scores them all.
Shapes: N images, D pixels, K components kept. Units: bits per dimension.
"""

import contextlib
import math
from pathlib import Path

import torch
from torch import Tensor

from svhn_vae.data.batches import dequantised_chunks
from svhn_vae.data.dataset import Dataset
from svhn_vae.elbo import bits_per_dim
from svhn_vae.runs import read_json, write_json
from svhn_vae.scatter import Moments, floored
from svhn_vae.seeds import Stream

FORMAT = 1  # to be raised with any change of what is scored, so that older files are not read


def baselines(dataset: Dataset, moments: Moments, num_components: int | None, cache: Path) -> dict[str, float]:
    """Test bits per dimension of each baseline, PPCA at K if one is given; kept in `cache` for later runs."""
    path = cache / f"baselines-{FORMAT}-{dataset.digest}-{num_components}.json"
    kept = read_json(path)
    if kept:
        return kept
    scores = score(dataset.test.images, moments, num_components)
    with contextlib.suppress(OSError):  # the run can do without; the moments beside it have said so
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, scores)
    return scores


def score(images: Tensor, moments: Moments, num_components: int | None) -> dict[str, float]:
    """Mean bits per dimension of images (N, 3, 32, 32) uint8, with the noise that every variant is evaluated on."""
    num_dims = len(moments.mean)
    pixel_variance = (moments.components.double().square() * moments.eigenvalues[:, None]).sum(0)
    spectra = spectra_on_the_basis(moments.eigenvalues, num_components)
    totals = dict.fromkeys(["uniform", "independent Gaussian", *spectra], 0.0)
    for x in dequantised_chunks(images, Stream.EVALUATION_NOISE):
        centred = x.flatten(1) - moments.mean.float()
        scores = (centred @ moments.components.T).double()
        totals["independent Gaussian"] += gaussian_log_prob(centred.double(), floored(pixel_variance)).sum().item()
        for name, variance in spectra.items():
            totals[name] += gaussian_log_prob(scores, variance).sum().item()
    return {name: bits_per_dim(total / len(images), num_dims) for name, total in totals.items()}


def spectra_on_the_basis(eigenvalues: Tensor, num_components: int | None) -> dict[str, Tensor]:
    """The variances (D,) along the principal components, by baseline."""
    spectra = {}
    if num_components is not None:
        kept, dropped = floored(eigenvalues).tensor_split([num_components])
        spectra[f"PPCA, K = {num_components}"] = torch.cat([kept, dropped.mean().expand(len(dropped))])
    if eigenvalues.min() > 0:  # with no more images than pixels it has no density
        spectra["full covariance"] = eigenvalues
    spectra["full covariance, floored"] = floored(eigenvalues)
    return spectra


def gaussian_log_prob(centred: Tensor, variance: Tensor) -> Tensor:
    """centred (N, D), variance (D,) -> log-density (N,) of an independent Gaussian, in nats."""
    log_norm = -0.5 * (2 * math.pi * variance).log().sum()
    return log_norm - 0.5 * (centred.square() / variance).sum(1)
