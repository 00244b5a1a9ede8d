"""The pictures of a run: one function each, PICTURES names them all.

Images and latents derive from the subject's seed and data alone: runs show the same ones, so that they compare.

Shapes: N images x (N, C, H, W), B of a batch, D pixels of an image; Z latents; E = event_shape of y; K components kept.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from svhn_vae.data.batches import EvaluationBatches, centred
from svhn_vae.data.sources import Dataset
from svhn_vae.model.coordinates import Projection, Representation
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.model.networks import Inferred
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.sheet import captioned, grid, labelled, stacked
from svhn_vae.seeds import Stream, derive_seed, seeded

COLUMNS = 10
BLOCK_GAP = 12  # pixels between blocks of rows that belong together
PRIOR, DECODER, POSTERIOR, CANDIDATES = range(4)  # places in the stream of random numbers
NUM_PASSES, NUM_KEPT, NUM_CANDIDATES = 1000, 9, 100  # the post's, for its analogies
NUM_DRAWS = 500  # of the decoder's noise, for sigma to within 3 %
NUM_STEPS = 10  # of an interpolation, and of a traversal
MAX_TRAVERSED = 1000  # images that say which latents vary most
BATCH = 100  # images in the networks at a time, where there are many: bounds memory
MAX_MEAN_CODES = 5000  # images that the mean code of a digit is taken over
NUM_COMPONENTS = (10, 50, 100, 300, 500, 1000)


class Subject(NamedTuple):
    vae: VAE  # in evaluation mode
    dataset: Dataset
    name: str  # for the captions
    seed: int  # of latents and noise
    temperature: float  # of samples of the prior


Picture = tuple[np.ndarray, str]  # with what it shows


@torch.no_grad()
def draw(subject: Subject, name: str) -> np.ndarray:
    picture, what = (PICTURES | OF_LABELS)[name](subject)
    return captioned(picture, f"{what}, {subject.dataset.name} data, {subject.name}")


def data(subject: Subject) -> Picture:
    return grid(pixels(subject.dataset.train.images, 100), COLUMNS), "training images"


def samples(subject: Subject) -> Picture:
    return grid(subject.vae.decode_mean(prior(subject)), COLUMNS), "samples of the prior, the decoder's mean"


def samples_noisy(subject: Subject) -> Picture:
    vae = subject.vae
    params, _ = vae.networks.decode(prior(subject))
    with decoder_noise(subject):
        y = vae.variance(params).sample()
    num_dropped = vae.representation.residual.num_dims
    dropped = f", the {num_dropped} components that are cut off at their mean" if num_dropped else ""
    return grid(vae.representation.inverse(y), COLUMNS), f"samples of the prior with the decoder's noise{dropped}"


def reconstructions(subject: Subject) -> Picture:
    x = pixels(subject.dataset.val.images, 50).to(subject.vae.device)
    picture = stacked(blocks(x, subject.vae.reconstruct(subject.vae.representation(x))))
    return picture, "validation images, below each row its reconstructions"


def analogies(subject: Subject) -> Picture:
    """The post's: an image of each digit, and 9 of 1000 noisy passes of it that differ much."""
    what = f"analogies: a validation image of each digit, and {NUM_KEPT} of {NUM_PASSES} noisy passes"
    return grid(analogy_rows(subject).flatten(0, 1), 1 + NUM_KEPT), what


@torch.no_grad()
def analogy_rows(subject: Subject) -> Tensor:
    """(number of digits, 1 + NUM_KEPT, C, H, W) in [0, 1]: of each row the first is the original."""
    vae, (images, labels), rows = subject.vae, subject.dataset.val, []
    noise = torch.randn(NUM_PASSES, vae.networks.latent_dim, generator=generator(subject, POSTERIOR)).to(vae.device)
    for x in centred(images[first_of_each(labels)[0]], 0).to(vae.device).split(1):
        y = vae.representation(x).y
        params = (vae.networks(y.expand(len(part), *y.shape[1:]), part).params for part in noise.split(BATCH))
        passes = torch.cat([vae.representation.inverse(vae.variance(part).mean) for part in params]).clamp(0, 1)
        kept = farthest(passes, x, NUM_KEPT, NUM_CANDIDATES, generator(subject, CANDIDATES))
        rows.append(torch.cat([x, kept]))
    return torch.stack(rows)


def farthest(passes: Tensor, first: Tensor, num_kept: int, num_candidates: int, candidates: torch.Generator) -> Tensor:
    """Of passes (N, C, H, W), `num_kept` that differ from each other and from `first` (1, C, H, W).

    The post's greedy rule, read so: each time `num_candidates` of the passes are drawn, and the one is kept whose
    nearest among those kept before, `first` included, is farthest; the distance is the mean absolute difference.
    """
    distance_to_kept, kept = torch.full((len(passes),), torch.inf, device=passes.device), [first]
    for _ in range(num_kept):
        distance_to_kept = distance_to_kept.minimum((passes - kept[-1]).abs().flatten(1).mean(1))
        drawn = torch.randperm(len(passes), generator=candidates)[:num_candidates].to(passes.device)
        best = drawn[distance_to_kept[drawn].argmax()]
        kept.append(passes[best][None])
    return torch.cat(kept[1:])


def interpolations(subject: Subject) -> Picture:
    """Straight lines between posterior means; each row ends at the image that the next one starts from."""
    x = pixels(subject.dataset.val.images, 10).to(subject.vae.device)
    z = infer(subject.vae, x).z
    path = torch.lerp(z[:, None], z.roll(-1, 0)[:, None], torch.linspace(0, 1, NUM_STEPS, device=z.device)[:, None])
    decoded = subject.vae.decode_mean(path.flatten(0, 1)).unflatten(0, path.shape[:2])
    rows = torch.cat([x[:, None], decoded, x.roll(-1, 0)[:, None]], dim=1)
    what = "interpolations between two validation images (on the sides), linear between their posteriors' means"
    return grid(rows.flatten(0, 1), NUM_STEPS + 2), what


def traversals(subject: Subject) -> Picture:
    """What one latent changes of the image with the most contrast, on which changes are seen best: the ten whose means
    vary most, each through three of the prior's standard deviations to both sides of the prior's mean, where all others
    stay those of the image."""
    vae = subject.vae
    x = pixels(subject.dataset.val.images, MAX_TRAVERSED).to(vae.device)
    start = x[x.flatten(1).std(1).argmax()][None]
    spread = torch.cat([infer(vae, chunk).mean for chunk in x.split(BATCH)]).std(0, correction=0)
    values, widest = spread.topk(min(10, len(spread)))
    centre, unit = vae.prior.moments()
    rows = torch.arange(len(widest))
    z = infer(vae, start).z.repeat(len(widest), NUM_STEPS, 1)
    z[rows, :, widest] = centre[widest, None] + unit[widest, None] * torch.linspace(-3, 3, NUM_STEPS, device=vae.device)
    decoded = vae.decode_mean(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    shown = torch.cat([start.expand(len(widest), 1, -1, -1, -1), decoded], dim=1)
    what = (
        f"the validation image of most contrast (left); below each other the {len(widest)} latents whose means vary "
        f"most (sd {values[0]:.2f} to {values[-1]:.2f}), each from -3 to 3 standard deviations of the prior"
    )
    return grid(shown.flatten(0, 1), 1 + NUM_STEPS), what


def arithmetic(subject: Subject) -> Picture:
    """z(image of digit a) - mean code of a + mean code of b, for every b."""
    vae = subject.vae
    images, labels = (evenly(array, MAX_MEAN_CODES) for array in subject.dataset.val)
    codes = torch.cat([infer(vae, centred(chunk, 0).to(vae.device)).z for chunk in images.split(BATCH)])
    first, digits = first_of_each(labels)
    means = torch.stack([codes[labels == digit].mean(0) for digit in digits])  # (number of digits, Z)
    moved = (codes[first] - means)[:, None] + means  # from each digit to each
    decoded = vae.decode_mean(moved.flatten(0, 1)).unflatten(0, moved.shape[:2])
    rows = torch.cat([centred(images[first], 0).to(vae.device)[:, None], decoded], dim=1)
    targets = ", ".join(map(str, digits.tolist()))
    what = f"arithmetic: validation images, their codes moved from the mean code of their digit to that of {targets}"
    return grid(rows.flatten(0, 1), 1 + len(digits)), what


def digits(subject: Subject) -> Picture:
    vae = subject.vae
    prior: Any = vae.prior  # of labels
    labels = torch.arange(vae.num_labels, device=vae.device)
    z = prior.sample_of(labels.repeat_interleave(COLUMNS), generator(subject, PRIOR), subject.temperature)
    x = pixels(subject.dataset.val.images, COLUMNS).to(vae.device)
    style = infer(vae, x).mean[:, None].expand(-1, len(labels), -1)
    told = torch.eye(len(labels), device=vae.device).expand(len(x), -1, -1)
    carried = vae.decode_mean(torch.cat([style, told], dim=2).flatten(0, 1)).unflatten(0, (len(x), len(labels)))
    rows = torch.cat([x[:, None], carried], dim=1).flatten(0, 1)
    picture = stacked([grid(vae.decode_mean(z), COLUMNS), grid(rows, 1 + len(labels))], BLOCK_GAP)
    return (
        picture,
        "samples of each digit, a row each; below, validation images, and the style of each in all digits",
    )


def sigma(subject: Subject) -> Picture:
    vae = subject.vae
    x = pixels(subject.dataset.val.images, 30).to(vae.device)
    likelihood = vae.variance(infer(vae, x).params)
    with decoder_noise(subject):
        stddev = pixel_stddev(vae.representation, likelihood, NUM_DRAWS)
    white = stddev.quantile(0.99)  # not the largest: a head without a ceiling may have one that darkens all others
    picture = stacked(blocks(x, vae.representation.inverse(likelihood.mean), stddev / white), BLOCK_GAP)
    return picture, f"validation images, their reconstructions, and sigma of each pixel (white: {white:.2g} or more)"


def pixel_stddev(representation: Representation, likelihood: Distribution, num_draws: int) -> Tensor:
    """p(y | z) of B images -> the standard deviation of each pixel (B, C, H, W), without what is cut off.

    Where y are pixels, the head says it. Else from draws, to a relative error of 1 / sqrt(2 num_draws): some heads'
    errors are correlated (low_rank, spectral), so that the variances of y's elements do not tell those of the pixels.
    """
    if not representation.is_projection:
        return likelihood.stddev * representation.y_scale
    mean = representation.inverse(likelihood.mean)
    errors = (representation.inverse(likelihood.sample()) - mean for _ in range(num_draws))
    return (sum((error.square() for error in errors), start=torch.zeros_like(mean)) / num_draws).sqrt()


def likely(subject: Subject) -> Picture:
    """By the same bound and noise as the run's own test."""
    images = subject.dataset.test.images
    elbo = elbos(subject.vae, images)
    order, num = elbo.argsort(descending=True), min(5 * COLUMNS, -(-len(elbo) // 2))
    ends = order[:num], order[-num:]
    picture = stacked([grid(centred(images[end], 0), COLUMNS) for end in ends], BLOCK_GAP)
    score = bits_per_dim(elbo, images[0].numel()) if subject.vae.variance.is_density else -elbo
    unit = "bits/dim" if subject.vae.variance.is_density else "nats of a loss that is no density"
    most, least = (f"{score[end[0]]:.2f} to {score[end[-1]]:.2f}" for end in ends)
    return picture, f"the most likely test images, {most} {unit}, and the least likely, {least}"


def elbos(vae: VAE, images: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) -> the bound on log p(x) of each (N,), in nats."""
    found = []
    for index, batch in enumerate(EvaluationBatches(images, vae.representation)):
        with seeded(vae.device, derive_seed(Stream.EVALUATION_LATENTS, index)):
            found.append(vae(batch).terms.elbo.cpu())
    return torch.cat(found)


def pca_round_trip(subject: Subject) -> Picture:
    """What an image keeps in K coordinates of a basis; without clipping, levels beyond 0..255 wrap around."""
    basis = subject.vae.representation
    assert isinstance(basis, Projection)
    x = pixels(subject.dataset.val.images, COLUMNS).to(subject.vae.device)
    sizes = [size for size in NUM_COMPONENTS if size <= len(basis.components)]
    rows = torch.cat([x, *(round_trip(basis, x, size) for size in sizes)])
    labels = ["original", *(f"K = {size}" for size in sizes)]
    # An 8-bit integer keeps a level modulo 256, and a level is 256 x.
    pictures = [labelled(grid(shown, len(x)), labels) for shown in (rows, rows.remainder(1))]
    what = f"the K largest coordinates of {type(basis).__name__} and back: above clipped, below levels wrap around"
    return stacked(pictures, BLOCK_GAP), what


def round_trip(basis: Projection, x: Tensor, num_components: int) -> Tensor:
    """Images with all but the `num_components` coordinates of largest variance set to their mean."""
    order = basis.scale.argsort(descending=True, stable=True)  # as they are, but for Frequencies, an image of them
    kept = basis.components[order[:num_components]]
    return ((x.flatten(1) - basis.mean) @ kept.T @ kept + basis.mean).view_as(x)


DRAWN = (data, samples, samples_noisy, reconstructions, analogies, interpolations, traversals, arithmetic, sigma,
         likely, pca_round_trip)  # fmt: skip
PICTURES: dict[str, Callable[[Subject], Picture]] = {function.__name__: function for function in DRAWN}
OF_LABELS: dict[str, Callable[[Subject], Picture]] = {"digits": digits}  # of models that are told the label
OF_PROJECTIONS = {"pca_round_trip"}


def possible(vae: VAE) -> list[str]:
    of_all = [name for name in PICTURES if vae.representation.is_projection or name not in OF_PROJECTIONS]
    return [*of_all, *(OF_LABELS if vae.num_labels else [])]


def prior(subject: Subject) -> Tensor:
    """100 latents (100, Z); with N(0, I), the same for every variant with as many dimensions."""
    return subject.vae.prior.sample(100, generator(subject, PRIOR), subject.temperature)


def generator(subject: Subject, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(Stream.PICTURES, subject.seed, place))


def decoder_noise(subject: Subject) -> AbstractContextManager[None]:
    """Within it, distributions draw from the subject's seed: they know no generator but torch's own."""
    return seeded(subject.vae.device, derive_seed(Stream.PICTURES, subject.seed, DECODER))


def infer(vae: VAE, x: Tensor) -> Inferred:
    """Images -> what the networks make of them at the posterior's mean."""
    return vae.at_mean(vae.representation(x).y)


def pixels(images: Tensor, count: int) -> Tensor:
    """uint8 images -> x of `count` of them, evenly spaced."""
    return centred(evenly(images, count), 0)


def evenly(array: Tensor, count: int) -> Tensor:
    """`count` entries or all, evenly spaced: SVHN's files are in picture order, and neighbours look alike."""
    return array[:: max(1, len(array) // count)][:count]


def first_of_each(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (N,) -> the index of the first of each digit, and the digits that occur."""
    digits = labels.unique()
    return torch.stack([(labels == digit).nonzero()[0, 0] for digit in digits]), digits


def blocks(*parts: Tensor) -> list[np.ndarray]:
    """Parts (N, C, H, W) -> pictures of a row of the first part, below it the same images of the second, and so on."""
    return [grid(torch.cat(rows), len(rows[0])) for rows in zip(*(part.split(COLUMNS) for part in parts), strict=True)]
