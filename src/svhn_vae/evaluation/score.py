"""All scores of a trained model on one split: what a run writes at its end, and what src/evaluate.py prints again.

Shapes: N images of the split, B of a batch, Z latent dimensions. Units: nats per image unless a name says otherwise.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svhn_vae.data.batches import EvaluationBatches, centred, every_nth
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import LabelledImages
from svhn_vae.evaluation.bound import evaluate, evaluation_pass, summarise
from svhn_vae.evaluation.calibration import Calibration, Residuals, calibration, residuals
from svhn_vae.evaluation.importance import Estimate, importance_weighted
from svhn_vae.evaluation.latents import linear_probe, of_the_aggregate
from svhn_vae.evaluation.reconstruction import reconstruction_metrics, round_trip_metrics
from svhn_vae.model.elbo import ElboTerms, bits_of_parts, bits_per_dim, kl_to_standard_normal
from svhn_vae.model.networks.interface import OneLevel
from svhn_vae.model.vae import VAE

SPLITS = ("test", "val")
# Images looked at, evenly spaced: a logarithm more would change the aggregate posterior by less than a nat, and some
# heads' variances are sums over 256 levels.
MAX_AGGREGATED, MAX_CALIBRATED, MAX_PROBED = 10_000, 1_000, 5_000
MAX_RECONSTRUCTED = 1_000


class Score(NamedTuple):
    metrics: dict[str, float]  # split/quantity
    parts: dict[str, float]  # bits per dimension of each part of the bound; {} where there is no density
    details: dict[str, Any]  # what is no single number: iw_curve, kl_per_latent, worst_calibrated
    per_image: dict[str, Tensor]  # (N,) each: the bound, its terms, label and index
    calibration: Calibration | None  # None where there is no density


class CurvePoint(NamedTuple):
    """The bound from k samples per image, the mean over the images."""

    k: int
    elbo: float
    bits_per_dim: float | None  # None where there is no density
    effective_sample_size: float


class Passes(NamedTuple):
    """One pass of all images through the model."""

    evaluated: list[dict[str, Tensor]]  # by batch, as lit.evaluate gives it
    kl_per_latent: Tensor  # (Z,)
    posteriors: list[tuple[Tensor, Tensor, Tensor]]  # by batch, of some images: mean, log-variance, sample (B, Z)
    residuals: list[Residuals]  # by batch, of some images


@torch.no_grad()
def score_run(vae: VAE, represented: EvaluationSplits, *, split: str, iw_samples: int) -> Score:
    """The scores of one of SPLITS, importance-weighted with so many samples per image; 0 leaves that out.

    The same figures at every call. Where the bound is not finite there is nothing but it.
    """
    vae.eval()
    (images, labels), batches = getattr(represented.dataset, split), getattr(represented, split)
    is_density = vae.variance.is_density
    passes = run_passes(vae, batches)
    bound = {name: value.item() for name, value in summarise(split, passes.evaluated, num_dims=vae.num_dims).items()}
    score = Score(bound, parts_of(vae, split, bound), {}, per_image(passes, labels), None)
    if not math.isfinite(bound[f"{split}/elbo"]):
        return score
    estimates = importance_estimates(vae, batches, iw_samples)
    curve = [curve_point(k, estimate, num_dims=vae.num_dims) for k, estimate in estimates.items()]
    calibrated = calibration(passes.residuals) if is_density else None
    found = {
        **(importance_metrics(curve[-1]) if curve else {}),
        **(aggregate_metrics(passes.posteriors) if passes.posteriors else {}),
        **probe_metrics(vae, represented.dataset.train, batches, labels),
        **(calibrated.metrics if calibrated else {}),
        **picture_metrics(vae, images),
    }
    details = {
        "iw_curve": [point._asdict() for point in curve],
        "kl_per_latent": passes.kl_per_latent.tolist(),
        "worst_calibrated": calibrated.worst if calibrated else [],
    }
    if curve:
        score.per_image["iw_elbo"] = estimates[iw_samples].log_px.float()
    metrics = bound | {f"{split}/{name}": value for name, value in found.items()}
    return score._replace(metrics=metrics, details=details, calibration=calibrated)


def run_passes(vae: VAE, batches: EvaluationBatches) -> Passes:
    num_images = len(batches.images)
    passes = Passes([], torch.zeros(vae.networks.latent_dim, device=vae.device), [], [])
    for index, batch in enumerate(batches):
        result = evaluation_pass(vae, batch, index)
        inferred = result.inferred
        passes.evaluated.append(evaluate(vae, result))
        passes.kl_per_latent.add_(kl_to_standard_normal(inferred.mean, inferred.log_variance).sum(0) / num_images)
        if isinstance(vae.networks, OneLevel):  # in a hierarchy q(z | y) depends on the z before
            some = slice(None, None, -(-num_images // MAX_AGGREGATED))
            passes.posteriors.append((inferred.mean[some], inferred.log_variance[some], inferred.z[some]))
        if vae.variance.is_density:
            some = slice(None, None, -(-num_images // MAX_CALIBRATED))
            passes.residuals.append(residuals(vae.variance(inferred.params[some]), batch.y[some]))
    return passes


def parts_of(vae: VAE, split: str, metrics: dict[str, float]) -> dict[str, float]:
    if vae.num_dims is None:
        return {}
    terms = ElboTerms(*(metrics[f"{split}/{name}"] for name in ElboTerms._fields))
    return bits_of_parts(terms, vae.num_dims, vae.representation.event_shape.numel())


def per_image(passes: Passes, labels: Tensor) -> dict[str, Tensor]:
    """The bound and its terms, for comparisons of runs image by image."""
    terms = ElboTerms(*torch.cat([batch["per_image"] for batch in passes.evaluated]).cpu()[:, :-1].unbind(1))
    columns = {"elbo": terms.elbo, **terms._asdict(), "label": labels, "index": torch.arange(len(labels))}
    return {name: column.contiguous() for name, column in columns.items()}


def importance_estimates(vae: VAE, batches: EvaluationBatches, num_samples: int) -> dict[int, Estimate]:
    """k -> the estimates of all images from the first k samples of each, on the CPU; {} without any."""
    parts = [importance_weighted(vae, batch, num_samples, index) for index, batch in enumerate(batches)]
    return {
        k: Estimate(*(torch.cat(arrays).cpu() for arrays in zip(*(part[k] for part in parts), strict=True)))
        for k in parts[0]
    }


def curve_point(k: int, estimate: Estimate, *, num_dims: int | None) -> CurvePoint:
    elbo, size = (array.mean().item() for array in estimate)
    return CurvePoint(k, elbo, bits_per_dim(elbo, num_dims) if num_dims else None, size)


def importance_metrics(last: CurvePoint) -> dict[str, float]:
    """Of the bound with all samples."""
    bits = {} if last.bits_per_dim is None else {"iw_bits_per_dim": last.bits_per_dim}
    return {"iw_k": last.k, "iw_elbo": last.elbo, **bits, "effective_sample_size": last.effective_sample_size}


def aggregate_metrics(posteriors: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    return of_the_aggregate(*(torch.cat(arrays) for arrays in zip(*posteriors, strict=True)))


def picture_metrics(vae: VAE, images: Tensor) -> dict[str, float]:
    """Of reconstructions and, where the representation cuts something off, of what it leaves."""
    x = centred(every_nth(images, MAX_RECONSTRUCTED), 0).to(vae.device)
    features = vae.representation(x)
    found = reconstruction_metrics(vae, x, features)
    return found | (round_trip_metrics(vae.representation, x, features) if vae.representation.is_projection else {})


def probe_metrics(vae: VAE, train: LabelledImages, batches: EvaluationBatches, labels: Tensor) -> dict[str, float]:
    """The accuracy of a linear probe of the digit, fitted on training images; {} where they show one digit alone."""
    images, digits = (every_nth(array, MAX_PROBED) for array in train)
    if len(digits.unique()) < 2:
        return {}
    probe = linear_probe(np.concatenate(list(codes(vae, EvaluationBatches(images, vae.representation)))), digits)
    read = np.concatenate([probe.predict(batch) for batch in codes(vae, batches)])
    return {"probe_accuracy": float((read == labels.numpy()).mean())}


def codes(vae: VAE, batches: EvaluationBatches) -> Iterator[np.ndarray]:
    """The posterior means (B, Z) of each batch."""
    for batch in batches:
        noise = torch.zeros(len(batch.y), vae.networks.latent_dim, device=vae.device)
        yield vae.networks(batch.y, noise).mean.cpu().numpy()
