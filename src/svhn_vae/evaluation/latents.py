"""What the latents are used for: how much they say, in which dimensions, and whether the digit can be read from them.

Shapes: N images, Z latent dimensions. Units: nats per image.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svhn_vae.evaluation.bound import as_double
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE

CHUNK = 500  # samples compared with all posteriors at a time: bounds memory
INVERSE_PENALTY = 0.01  # of the probe: with more freedom a few thousand images are learnt by heart


@torch.no_grad()
def posteriors_of(vae: VAE, batches: Iterable[Features]) -> tuple[Tensor, Tensor]:
    """Means and log-variances (N, Z) of the posteriors of all images."""
    vae.eval()
    parts = [vae.networks.encode(batch.y) for batch in batches]  # pyright: ignore[reportCallIssue]
    mean, log_variance = (torch.cat(arrays).float() for arrays in zip(*parts, strict=True))
    return mean, log_variance


def mutual_information(mean: Tensor, log_variance: Tensor, z: Tensor) -> float:
    """I_q(x; z) between an image of the N and its latents: the mean of log q(z | x) - log q(z), where the aggregate
    posterior q(z) is the mean of the N posteriors (Hoffman and Johnson 2016).

    mean, log_variance, z (N, Z): posteriors and one sample of each. Of the N images themselves this is exact but for
    the sampling; of the law that they come from it says too little, since it cannot exceed log N.
    """
    mean, log_variance, z = map(as_double, (mean, log_variance, z))
    # -2 log q(z | x_j), less Z log 2 pi, is linear in (z^2, z): one matrix product for all pairs.
    precision = (-log_variance).exp()
    slopes = torch.cat([precision, -2 * mean * precision], dim=1).T  # (2 Z, N)
    constant = (mean.square() * precision + log_variance).sum(1)
    information = 0.0
    for start in range(0, len(z), CHUNK):
        part = z[start : start + CHUNK]
        log_q = -0.5 * (torch.cat([part.square(), part], dim=1) @ slopes + constant)  # (CHUNK, N)
        information += (log_q.diagonal(start) - log_q.logsumexp(1)).sum().item()
    return information / len(z) + math.log(len(z))


def of_the_aggregate(mean: Tensor, log_variance: Tensor, z: Tensor, kl: Tensor) -> dict[str, float]:
    """The mean of the KL to the prior, kl (N,), in two parts: what the latents tell of the image, and how far the
    aggregate posterior is from the prior, where samples of the prior fall and no image does (Hoffman and Johnson 2016).

    Where the first is near its limit log N, its missing rest is counted to the second.
    """
    information = mutual_information(mean, log_variance, z)
    return {"mutual_information": information, "aggregate_kl": as_double(kl).mean().item() - information}


def readers(codes: np.ndarray, labels: Tensor) -> dict[str, Any]:
    """Pipelines that read a label from codes, fitted on codes (N, Z), standardised, with labels (N,), at least two
    different: a logistic regression, and the most frequent label of the 5 nearest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    laws = {
        "probe_accuracy": LogisticRegression(C=INVERSE_PENALTY, max_iter=1000),
        "neighbour_accuracy": KNeighborsClassifier(min(5, len(codes))),
    }
    return {name: make_pipeline(StandardScaler(), law).fit(codes, labels.numpy()) for name, law in laws.items()}
