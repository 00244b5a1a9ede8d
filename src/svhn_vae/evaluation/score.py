"""All scores of a trained model: on one split, as a run writes them and src/evaluate.py prints them again; of images of
another kind.

Shapes: N images of the split, B of a batch, Z latent dimensions. Units: nats per image unless a name says otherwise.
"""

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svhn_vae.data.batches import EvaluationBatches, centred, every_nth
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import known_labels
from svhn_vae.evaluation.bound import Estimate, evaluate, evaluation_pass, importance_weighted, summarise
from svhn_vae.evaluation.calibration import Calibration, Residuals, calibration, residuals
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.latents import of_the_aggregate, readers
from svhn_vae.evaluation.samples import reconstruction_metrics, round_trip_metrics, sample_scores, share_of_pairs
from svhn_vae.model.elbo import ElboTerms, bits_of_parts, bits_per_dim
from svhn_vae.model.networks.interface import OneLevel
from svhn_vae.model.vae import VAE

SPLITS = ("test", "val")
# Images looked at, evenly spaced: a logarithm more would change the aggregate posterior by less than a nat, and some
# heads' variances are sums over 256 levels.
MAX_AGGREGATED, MAX_CALIBRATED, MAX_PROBED = 10_000, 1_000, 5_000
MAX_RECONSTRUCTED = 1_000
SCORES = ("bits_per_dim", "bits_less_png", "kl")  # each is larger for what a model finds strange


class Score(NamedTuple):
    metrics: dict[str, float]  # split/quantity
    parts: dict[str, float]  # bits per dimension of each part of the bound; {} where there is no density
    details: dict[str, Any]  # what is no single number: iw_curve and kl_per_latent
    per_image: dict[str, Tensor]  # (N,) each: the bound, its terms, label and index
    calibration: Calibration | None  # None where there is no density


class Passes(NamedTuple):
    evaluated: list[dict[str, Tensor]]  # by batch, as bound.evaluate gives it
    kl_per_latent: list[Tensor]  # by batch, their part of the mean over all images (G,): G = Z with N(0, I), else 1
    posteriors: list[tuple[Tensor, ...]]  # by batch, of some images: mean, log-variance, sample (B, Z), and KL (B,)
    residuals: list[Residuals]  # by batch, of some images


@torch.no_grad()
def score_run(vae: VAE, splits: EvaluationSplits, *, split: str, iw_samples: int) -> Score:
    """The scores of one of SPLITS, importance-weighted with so many samples per image; 0 leaves that out.

    The same figures at every call. Where the bound is not finite there is nothing but it.
    """
    vae.eval()
    (images, labels), batches = getattr(splits.dataset, split), getattr(splits, split)
    is_density = vae.variance.is_density
    passes = run_passes(vae, batches)
    bound = {name: value.item() for name, value in summarise(split, passes.evaluated, num_dims=vae.num_dims).items()}
    score = Score(bound, parts_of(vae, split, bound), {}, per_image(passes, labels), None)
    if not math.isfinite(bound[f"{split}/elbo"]):
        return score
    weighted = importance_scores(vae, batches, iw_samples)
    calibrated = calibration(passes.residuals) if is_density else None
    found = {
        **weighted.metrics,
        **(of_the_aggregate(*concatenated(passes.posteriors)) if passes.posteriors else {}),
        **label_metrics(vae, splits, batches, labels),
        **(calibrated.metrics if calibrated else {}),
        **picture_metrics(vae, images),
    }
    details = {
        "iw_curve": weighted.curve,
        "kl_per_latent": torch.stack(passes.kl_per_latent).sum(0).tolist(),
    }
    return score._replace(
        metrics=bound | {f"{split}/{name}": value for name, value in found.items()},
        details=details,
        per_image=score.per_image | weighted.per_image,
        calibration=calibrated,
    )


def run_passes(vae: VAE, batches: EvaluationBatches) -> Passes:
    num_images = len(batches.images)
    passes = Passes([], [], [], [])
    for index, batch in enumerate(batches):
        result = evaluation_pass(vae, batch, index)
        inferred = result.inferred
        passes.evaluated.append(evaluate(vae, result))
        kl = vae.prior.kl(inferred.mean, inferred.log_variance, inferred.z)
        passes.kl_per_latent.append(kl.sum(0) / num_images)
        if isinstance(vae.networks, OneLevel):  # in a hierarchy q(z | y) depends on the z before
            some = slice(None, None, -(-num_images // MAX_AGGREGATED))
            posterior = (inferred.mean, inferred.log_variance, inferred.z, kl.sum(1))
            passes.posteriors.append(tuple(array[some] for array in posterior))
        if vae.variance.is_density:
            some = slice(None, None, -(-num_images // MAX_CALIBRATED))
            passes.residuals.append(residuals(vae.variance(inferred.params[some]), batch.y[some]))
    return passes


def concatenated(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(arrays) for arrays in zip(*parts, strict=True)]


def parts_of(vae: VAE, split: str, metrics: dict[str, float]) -> dict[str, float]:
    if vae.num_dims is None:
        return {}
    terms = ElboTerms(*(torch.tensor(metrics[f"{split}/{name}"], dtype=torch.float64) for name in ElboTerms._fields))
    parts = bits_of_parts(terms, vae.num_dims, vae.representation.event_shape.numel())
    return {name: value.item() for name, value in parts.items()}


def per_image(passes: Passes, labels: Tensor) -> dict[str, Tensor]:
    """The bound and its terms, for comparisons of runs image by image."""
    terms = ElboTerms(*torch.cat([batch["per_image"] for batch in passes.evaluated]).cpu()[:, :-1].unbind(1))
    columns = {"elbo": terms.elbo, **terms._asdict(), "label": labels, "index": torch.arange(len(labels))}
    return {name: column.contiguous() for name, column in columns.items()}


class Weighted(NamedTuple):
    """The importance-weighted bound of a split; all empty without samples."""

    metrics: dict[str, float]  # of the bound with all samples
    curve: list[dict[str, float | None]]  # means from k = 1, 2, 4, ... samples per image
    per_image: dict[str, Tensor]  # iw_elbo (N,)


def importance_scores(vae: VAE, batches: EvaluationBatches, num_samples: int) -> Weighted:
    parts = [importance_weighted(vae, batch, num_samples, index) for index, batch in enumerate(batches)]
    estimates = {k: Estimate(*concatenated([part[k] for part in parts])) for k in parts[0]}
    curve = []
    for k, estimate in estimates.items():
        elbo, size = (array.mean().item() for array in estimate)
        bits = bits_per_dim(elbo, vae.num_dims) if vae.num_dims else None
        curve.append({"k": k, "elbo": elbo, "bits_per_dim": bits, "effective_sample_size": size})
    if not curve:
        return Weighted({}, [], {})
    size = curve[-1]["effective_sample_size"]
    last = {f"iw_{name}": curve[-1][name] for name in ("k", "elbo", "bits_per_dim")} | {"effective_sample_size": size}
    metrics = {name: value for name, value in last.items() if value is not None}
    return Weighted(metrics, curve, {"iw_elbo": estimates[num_samples].log_px.float().cpu()})


def picture_metrics(vae: VAE, images: Tensor) -> dict[str, float]:
    """Of reconstructions and, where the representation cuts something off, of what it leaves."""
    x = centred(every_nth(images, MAX_RECONSTRUCTED), 0).to(vae.device)
    features = vae.representation(x)
    found = reconstruction_metrics(vae, x, features)
    return found | (round_trip_metrics(vae.representation, x, features) if vae.representation.is_projection else {})


def label_metrics(vae: VAE, splits: EvaluationSplits, batches: EvaluationBatches, labels: Tensor) -> dict[str, float]:
    """The accuracy of the label: by a linear probe and by nearest neighbours in the latents, from training images whose
    label is known, {} where they show one label alone; and by an encoder that was told labels."""
    train, told = splits.dataset.train, known_labels(splits.dataset.train.labels, splits.labels)
    images, digits = (every_nth(array[told >= 0], MAX_PROBED) for array in (train.images, told))
    if len(digits.unique()) < 2:
        return {}
    known, found = (
        np.concatenate(list(codes(vae, of))) for of in (EvaluationBatches(images, vae.representation), batches)
    )
    read = {name: reader.predict(found) for name, reader in readers(known, digits).items()}
    if vae.num_labels:
        read["label_accuracy"] = torch.cat([vae.labels_of(batch.y) for batch in batches]).cpu().numpy()  # pyright: ignore[reportArgumentType, reportCallIssue]
    return {name: float((digits == labels.numpy()).mean()) for name, digits in read.items()}


def codes(vae: VAE, batches: EvaluationBatches) -> Iterator[np.ndarray]:
    """The posterior means (B, Z) of each batch."""
    for batch in batches:
        yield vae.at_mean(batch.y).mean.cpu().numpy()


def lacks(result: dict[str, Any], *, judge: bool, iw_samples: int) -> bool:
    """Whether a finished run's result has no scores of samples, or a bound from fewer samples, than is asked for."""
    metrics = result["metrics"]
    return (judge and "judge/legible" not in metrics) or iw_samples > metrics.get("test/iw_k", 0)


def completed(
    result: dict[str, Any], vae: VAE, splits: EvaluationSplits, judge: Judge | None, *, iw_samples: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A finished run's result with what it lacks, computed from its weights: the scores of samples if there is a judge,
    and the importance-weighted bound if it has fewer samples; and the columns by image that are new.

    What the result has already is left as it is: on another device the last digits would differ.
    """
    vae.eval()
    metrics, details, columns = dict(result["metrics"]), dict(result["details"]), {}
    if iw_samples > metrics.get("test/iw_k", 0):
        weighted = importance_scores(vae, splits.test, iw_samples)
        metrics |= {f"test/{name}": value for name, value in weighted.metrics.items()}
        details["iw_curve"], columns = weighted.curve, weighted.per_image
    if judge is not None:
        scores = sample_scores(vae, splits.dataset, judge)
        metrics, details["posterior_predictive"] = metrics | scores.metrics, scores.checks
    return {**result, "metrics": metrics, "details": details}, columns


# --- images of another kind -----------------------------------------------------------------------------------------


class Outliers(NamedTuple):
    """Of one kind of images: mean scores, and how well each tells them from test images: the share of pairs in which
    the outlier has the larger one (the area under the ROC curve): 0.5 is chance, below it outliers seem more usual."""

    means: dict[str, float]
    auroc: dict[str, float]


def outliers(vae: VAE, test: Tensor, others: dict[str, Tensor]) -> dict[str, Outliers]:
    """Does a model tell images (N, C, H, W) uint8 of another kind from its own? Density models are known to like smooth
    images better than those that they learnt (Nalisnick et al. 2019), so the bound is looked at beside the bits that a
    PNG takes, and the KL.

    Of a model of densities, in evaluation mode: name of a kind -> its scores; test images are the first.
    """
    own = strangeness(vae, test)
    found = {"test images": Outliers({name: each.mean().item() for name, each in own.items()}, {})}
    for kind, images in others.items():
        scores = strangeness(vae, images)
        areas = {name: share_of_pairs(scores[name], own[name]) for name in SCORES}
        found[kind] = Outliers({name: each.mean().item() for name, each in scores.items()}, areas)
    return found


@torch.no_grad()
def strangeness(vae: VAE, images: Tensor) -> dict[str, np.ndarray]:
    """SCORES of each image, (N,) each."""
    terms = [
        evaluation_pass(vae, batch, index).terms
        for index, batch in enumerate(EvaluationBatches(images, vae.representation))
    ]
    elbo, kl = (torch.cat([getattr(each, name) for each in terms]).cpu().double() for name in ("elbo", "kl"))
    bits = bits_per_dim(elbo, images[0].numel()).numpy()
    return dict(zip(SCORES, (bits, bits - png_bits(images), kl.numpy()), strict=True))


def png_bits(images: Tensor) -> np.ndarray:
    """(N,): bits per dimension of each image as a PNG, the header included."""
    sizes = []
    for pixels in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        sizes.append(8 * file.tell() / pixels.size)
    return np.array(sizes)


def plain_outliers(num: int, image_shape: torch.Size) -> dict[str, Tensor]:
    """Images of no kind: independent uniform pixels, and one colour each; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (num, *image_shape), generator=generator, dtype=torch.uint8)
    colours = torch.randint(0, 256, (num, image_shape[0], 1, 1), generator=generator, dtype=torch.uint8)
    return {"noise": noise, "constant images": colours.expand_as(noise).contiguous()}
