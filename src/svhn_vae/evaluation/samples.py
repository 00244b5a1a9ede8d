"""How good a model's images are: samples and analogies as a judge sees them, reconstructions as pixels tell.

Torchmetrics computes the Frechet distance of given features; it has no precision and recall. All of these depend on how
many samples there are, so samples are as many as test images.

Shapes: N, M, S images (N, 3, 32, 32), uint8 or x in [0, 1); F features (N, F); D dimensions of a point.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from svhn_vae.data.batches import every_nth
from svhn_vae.data.sources import Dataset
from svhn_vae.errors import UserError
from svhn_vae.evaluation.judge import CONFIDENT, NUM_DIGITS, Judge, Opinion
from svhn_vae.model.coordinates import Features, Representation
from svhn_vae.model.covariance import NUM_LEVELS
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.gallery import Subject, analogy_rows
from svhn_vae.seeds import Stream, derive_seed, seeded

MAX_PAIRS = 20_000_000  # held at a time: 160 MB
MAX_KNOWN = 100_000  # training images that samples may be copies of
BATCH = 250  # images generated at a time
NUM_NEIGHBOURS = 3  # k of precision and recall
MAX_CHECKED, NUM_BINS = 2_000, 32  # images in a posterior predictive check, and bins of its histograms


class References(NamedTuple):
    images: Tensor  # (M, 3, 32, 32) uint8, of the test
    test: Opinion  # of these
    train: Tensor  # (N, F), features of training images


class SampleScores(NamedTuple):
    metrics: dict[str, float]  # by the judge
    checks: dict[str, dict[str, list]]  # without one: what `posterior_predictive` says of samples and of test images


def sample_scores(vae: VAE, dataset: Dataset, judge: Judge) -> SampleScores:
    """The judge's figures of samples without and with the decoder's noise, of validation images, which are real, and
    of analogies. The same at every call; worth no more than the judge, whose own figures stand beside."""
    num, (against, of_validation) = len(dataset.test.labels), references(judge, dataset)
    made = {"samples": generated(vae, num, noisy=False), "noisy_samples": generated(vae, num, noisy=True)}
    rows = to_levels(analogy_rows(Subject(vae, dataset, "", seed=0, temperature=1.0))).cpu()
    found = {
        **{kind: judge_scores(judge, images, against) for kind, images in made.items()},
        "validation": of_validation,
        "analogies": agreement(judge, rows[:, 0], rows[:, 1:]),
    }
    named = {f"{kind}/{name}": value for kind, scores in found.items() for name, value in scores.items()}
    metrics = {name: value for name, value in (named | judge.metrics).items() if math.isfinite(value)}
    return SampleScores(
        metrics,
        {kind: posterior_predictive(images) for kind, images in ({"test": dataset.test.images} | made).items()},
    )


def posterior_predictive(images: Tensor) -> dict[str, list]:
    """What needs no judge, of images (N, C, H, H) uint8: the power spectrum of their grey values, by the frequency in
    cycles per image from 1 on, the mean over directions and images; mean, standard deviation, skewness and excess
    kurtosis of each channel's pixels (4, C); and the share of these in each bin of 256 / NUM_BINS levels (C, NUM_BINS).
    """
    x = every_nth(images, MAX_CHECKED).float() / NUM_LEVELS
    height, grey = x.shape[-1], x.mean(1)
    power = torch.fft.fft2(grey).abs().square().mean(0) / height**2
    cycles = torch.fft.fftfreq(height, 1 / height)
    radius = torch.hypot(cycles[:, None], cycles).round().long().flatten()
    spectrum = (torch.bincount(radius, power.flatten()) / torch.bincount(radius))[1 : height // 2 + 1]
    pixels = x.transpose(0, 1).flatten(1).double()
    mean, stddev = pixels.mean(1), pixels.std(1, correction=0)
    z = (pixels - mean[:, None]) / stddev[:, None].clamp(min=1e-6)  # images may be of one colour
    moments = torch.stack([mean, stddev, z.pow(3).mean(1), z.pow(4).mean(1) - 3])
    histograms = torch.stack([torch.histc(channel, NUM_BINS, 0, 1) for channel in pixels]) / pixels.shape[1]
    found = {"spectrum": spectrum, "moments": moments, "histograms": histograms}
    return {name: of.double().mul(1e6).round().div(1e6).tolist() for name, of in found.items()}  # enough for a plot


def to_levels(x: Tensor) -> Tensor:
    """x, clipped to [0, 1) -> uint8."""
    return (x * NUM_LEVELS).clamp(0, NUM_LEVELS - 1).byte()


@torch.no_grad()
def generated(vae: VAE, num: int, *, noisy: bool) -> Tensor:
    """num samples of the prior as images (num, 3, 32, 32) uint8: the decoder's mean, or with its own noise (of a
    truncated basis, what is cut off stays at its mean). The same latents at every call."""
    latents = vae.prior.sample(num, torch.Generator().manual_seed(derive_seed(Stream.PICTURES, num)), 1.0)
    parts = []
    with seeded(vae.device, derive_seed(Stream.PICTURES, num, 1)):
        for z in latents.split(BATCH):
            likelihood = vae.variance(vae.networks.decode(z)[0])
            parts.append(vae.representation.inverse(likelihood.sample() if noisy else likelihood.mean).cpu())
    return to_levels(torch.cat(parts))


@functools.lru_cache(maxsize=1)
def references(judge: Judge, dataset: Dataset) -> tuple[References, dict[str, float]]:
    """What samples are compared with, and the scores of validation images; made once for all runs of a process."""
    known = judge.opinion(every_nth(dataset.train.images, MAX_KNOWN)).features
    against = References(dataset.test.images, judge.opinion(dataset.test.images), known)
    return against, judge_scores(judge, dataset.val.images, against)


def judge_scores(judge: Judge, samples: Tensor, against: References) -> dict[str, float]:
    (features, digits, confidence), (images, real, known) = judge.opinion(samples), against
    legible, legible_of_real = ((each >= CONFIDENT).double().mean() for each in (confidence, real.confidence))
    return {
        "frechet": frechet_distance(features, real.features),
        "precision": share_among(features, real.features),
        "recall": share_among(real.features, features),
        "legibility": (legible / legible_of_real).item(),
        "digit_entropy": digit_entropy(digits),
        "memorised": memorised(features, real.features, known),
        "sharpness": sharpness(samples / NUM_LEVELS, images / NUM_LEVELS),
    }


class GivenFeatures(nn.Identity):
    """Features as they are; torchmetrics asks for their number."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features: int = num_features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians with the moments of features a (N, F) and b (M, F); squared, as the FID is.

    Not the FID, which is of Inception's features (Heusel et al. 2017): figures of different judges do not compare.
    """
    metric = FrechetInceptionDistance(feature=GivenFeatures(a.shape[1]))
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return metric.compute().item()


def share_among(points: Tensor, others: Tensor) -> float:
    """Share of the points that are no farther from one of the others than its k-th neighbour among the others is, k = 3
    (Kynkaanniemi et al. 2019): precision, of samples among real images; recall, of real images among samples."""
    if len(others) <= NUM_NEIGHBOURS:
        raise UserError(f"precision and recall need more than k = {NUM_NEIGHBOURS} images of a kind, got {len(others)}")
    points, others = points.double(), others.double()
    radii = torch.cat([rows.kthvalue(NUM_NEIGHBOURS + 1).values for rows in distances(others, others)])  # 1: itself
    return torch.cat([(rows <= radii).any(1) for rows in distances(points, others)]).double().mean().item()


def distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of a (N, D) to b (M, D), some rows of N at a time."""
    return (torch.cdist(rows, b) for rows in a.split(max(1, MAX_PAIRS // len(b))))


def digit_entropy(digits: Tensor) -> float:
    """digits (N,) int64 -> nats, how evenly they are drawn: at most log 10."""
    frequencies = torch.bincount(digits, minlength=NUM_DIGITS).double() / len(digits)
    return torch.special.entr(frequencies).sum().item()


def memorised(generated: Tensor, real: Tensor, known: Tensor) -> float:
    """Share of the pairs of a sample and a test image of which the sample is the nearer to its nearest training image.

    0.5 if samples are as far from training images, `known`, as new images are; 1 for copies (Meehan et al. 2020: the
    Mann-Whitney statistic). Of features, not of pixels: there a blurred image is nearer to all images.
    """
    of_samples, of_test = (nearest(points, known).numpy() for points in (generated, real))
    return share_of_pairs(of_test, of_samples)


def share_of_pairs(larger: np.ndarray, smaller: np.ndarray) -> float:
    """In which the first is the larger one, ties counted half: the area under the ROC curve."""
    return mannwhitneyu(larger, smaller).statistic.item() / (len(larger) * len(smaller))


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """Distances (N,) of points (N, D) to the nearest of others (M, D)."""
    indices = torch.cat([rows.argmin(1) for rows in distances(points, others)])
    return (points - others[indices]).norm(dim=1)  # anew: from a matrix product it is inexact


def agreement(judge: Judge, sources: Tensor, variants: Tensor) -> dict[str, float]:
    """What V variants (S, V, 3, 32, 32) of each of S sources (S, 3, 32, 32) share with it, uint8: the share of variants
    in which the judge sees the source's digit, the mean distance of the mean colours in [0, 1)^3, and that to the
    other sources, which chance would have."""
    digits = judge.opinion(variants.flatten(0, 1)).digits.view(variants.shape[:2])
    colours, due = (images.double().mean((-2, -1)) / NUM_LEVELS for images in (variants, sources))
    apart = torch.cdist(colours.flatten(0, 1), due).view(*digits.shape, len(due))  # (S, V, S)
    is_own = torch.eye(len(due), dtype=torch.bool)[:, None].expand_as(apart)
    return {
        "digit_agreement": (digits == judge.opinion(sources).digits[:, None]).double().mean().item(),
        "colour_distance": apart[is_own].mean().item(),
        "colour_distance_of_others": apart[~is_own].mean().item(),
    }


def reconstruction_metrics(vae: VAE, x: Tensor, features: Features) -> dict[str, float]:
    """Of reconstructions by the posterior's and the decoder's mean, clipped: psnr in dB, and sharpness."""
    back = vae.reconstruct(features).clamp(0, 1)
    return {"reconstruction/psnr": psnr(back, x), "reconstruction/sharpness": sharpness(back, x)}


def round_trip_metrics(representation: Representation, x: Tensor, features: Features) -> dict[str, float]:
    """Of images that keep their K coordinates alone, as an 8-bit picture: levels beyond 0..255 clipped, or wrapped as
    an integer wraps them (the post's corruption)."""
    back = representation.inverse(features.y)
    return {"round_trip/psnr_clipped": psnr(back.clamp(0, 1), x), "round_trip/psnr_wrapped": psnr(back.remainder(1), x)}


def psnr(images: Tensor, originals: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over images; at most that of one level of 256."""
    error = (images - originals).square().flatten(1).mean(1).clamp(min=256.0**-2)
    return (-10 * error.log10()).mean().item()


def sharpness(images: Tensor, originals: Tensor) -> float:
    """The energy of the images' differences between neighbouring pixels, relative to that of the originals (M, 3, H,
    W), which may be others: 1 is as sharp, 0 has no detail, noise is sharper than images."""
    of_images, of_originals = (
        x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean() for x in (images, originals)
    )
    return (of_images / of_originals).item()
