"""What a model without a network scores, fitted on the training images: densities of the same dequantised pixels, and a
causal code of their levels.

Shapes: N images, D pixels; x (N, D) in [0, 1). Units: log-densities in nats per image, scores in bits per dimension.
Of the code: B images, levels (B, 3, H, W) uint8; inside, colours are in ORDER and a level is u = 2 level / 255 - 1 in
[-1, 1]. M logistics, N knots of the table; sizes are logarithms of an error in u.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from svhn_vae.data.batches import dequantised_chunks, every_nth
from svhn_vae.data.cache import MAX_IMAGES
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset
from svhn_vae.model.coordinates import cosine_basis
from svhn_vae.model.covariance import NUM_LEVELS, Moments, fit_degrees_of_freedom, floored, student_t_log_prob
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.model.vae import VAE
from svhn_vae.model.variance.logistic import log_mass_of_level
from svhn_vae.model.variance.neighbours import HALF_A_LEVEL, ORDER, Predictor
from svhn_vae.runs.files import read_json, write_json
from svhn_vae.seeds import Stream

FORMAT = 6  # to be raised with any change of what is scored, so that older files are not read
MAX_IMAGES_AT_ONCE = 10_000  # for what is fitted on the images themselves, not on their moments
REACH = 3  # of the causal code: rows above, and pixels to either side
MAX_CODED = 5_000  # images that it is fitted on
CODED_AT_ONCE = 50  # images: bounds memory
NUM_KNOTS, NUM_LOGISTICS = 24, 3
NUM_STEPS, VALUES_PER_STEP, LEARNING_RATE = 400, 50_000, 0.02  # of the table's fit


class Elliptical:
    """A Gaussian by its mean (D,) and variances (D,) along orthonormal axes, rows (D, D); with finite degrees of
    freedom the multivariate Student-t with that scatter, a Gaussian with one scale per image, integrated out."""

    def __init__(self, mean: Tensor, axes: Tensor, scatter: Tensor, degrees: float = math.inf) -> None:
        self.mean, self.axes, self.scatter, self.degrees = mean.float(), axes.float(), scatter.double(), degrees

    def distances(self, x: Tensor) -> Tensor:
        """x (N, D) -> squared Mahalanobis distances (N,) float64."""
        return (((x - self.mean) @ self.axes.T).double().square() / self.scatter).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Images x (N, D) -> log-densities (N,) float64, in nats."""
        of_distance = student_t_log_prob(self.distances(x).numpy(), self.degrees, len(self.mean))
        return torch.from_numpy(of_distance) - 0.5 * self.scatter.log().sum()


def baselines(
    dataset: Dataset, moments: Callable[[str], Moments], num_components: int | None, cache: Path
) -> dict[str, float]:
    """Test bits per dimension of each baseline, PPCA at K if one is given; kept in `cache`, each K's apart.

    moments: gives the training images' moments, each of covariance.SCATTERS; not called where the scores are kept.
    """

    def kept(name: str, densities: Callable[[], dict[str, Elliptical]]) -> dict[str, float]:
        path, found = cache / f"baselines-{FORMAT}-{dataset.digest}{name}.json", {}
        with contextlib.suppress(OSError):  # another user's: the run can do without; the moments beside it have said so
            found = read_json(path)
        if found and found.get("sha256") == checksum(found.get("scores")):
            return found["scores"]
        scores = score(dataset.test.images, densities())
        with contextlib.suppress(OSError):
            write_json(path, {"scores": scores, "sha256": checksum(scores)})
        return scores

    scores = kept("", lambda: fitted(dataset.train.images, moments, None))
    if num_components is None:
        return scores
    return scores | kept(f"-{num_components}", lambda: ppca(moments("sample"), num_components))


def checksum(scores: dict[str, float] | None) -> str:
    """Of what is read: a number with another digit is a number, too."""
    return hashlib.sha256(json.dumps(scores).encode()).hexdigest()


def score(images: Tensor, densities: dict[str, Elliptical]) -> dict[str, float]:
    """Mean bits per dimension of images (N, C, H, W) uint8, with the noise that every variant is evaluated on, beside
    that of a law which finds all images alike."""
    totals = dict.fromkeys(densities, 0.0)
    for x in dequantised_chunks(images, Stream.EVALUATION_NOISE):
        for name, density in densities.items():
            totals[name] += density.log_prob(x.flatten(1)).sum().item()
    num_dims = images[0].numel()
    return {"uniform": 8.0} | {name: bits_per_dim(total / len(images), num_dims) for name, total in totals.items()}


def fitted(images: Tensor, moments: Callable[[str], Moments], num_components: int | None) -> dict[str, Elliptical]:
    """Every baseline, fitted on training images (N, C, H, W) uint8 and their moments."""
    sample, shrunk, robust = moments("sample"), moments("shrunk"), moments("robust")
    x = torch.cat(list(dequantised_chunks(every_nth(images, MAX_IMAGES_AT_ONCE), Stream.BASIS_NOISE)))
    degrees = robust.degrees_of_freedom.item()
    return {
        **gaussians(sample, num_components),
        "full covariance, Ledoit-Wolf": ledoit_wolf(sample, x.flatten(1), len(every_nth(images, MAX_IMAGES["sample"]))),
        "full covariance, shrunk": Elliptical(shrunk.mean, shrunk.components, floored(shrunk.eigenvalues)),
        "Student-t, full covariance": Elliptical(robust.mean, robust.components, robust.eigenvalues, degrees),
        "cosine transform, one scale per image": cosine_student_t(robust, x),
    }


def gaussians(moments: Moments, num_components: int | None) -> dict[str, Elliptical]:
    """Independent pixels, PPCA if there is a K, the full covariance as estimated and floored."""
    mean, components, eigenvalues = moments.mean, moments.components, moments.eigenvalues
    pixel_variance = (components.double().square() * eigenvalues[:, None]).sum(0)
    densities: dict[str, Elliptical] = {
        "independent Gaussian": Elliptical(mean, torch.eye(len(mean)), floored(pixel_variance))
    }
    if num_components is not None:
        densities |= ppca(moments, num_components)
    if eigenvalues.min() > 0:  # with no more images than pixels it has no density
        densities["full covariance"] = Elliptical(mean, components, eigenvalues)
    densities["full covariance, floored"] = Elliptical(mean, components, floored(eigenvalues))
    return densities


def ppca(moments: Moments, num_components: int) -> dict[str, Elliptical]:
    kept, dropped = floored(moments.eigenvalues).tensor_split([num_components])
    variances = torch.cat([kept, dropped.mean().expand(len(dropped))])
    return {f"PPCA, K = {num_components}": Elliptical(moments.mean, moments.components, variances)}


def ledoit_wolf(moments: Moments, x: Tensor, num_images: int) -> Elliptical:
    """The covariance shrunk towards a multiple of the identity (Ledoit and Wolf 2004), which keeps its axes.

    moments: of `num_images` images, of which x (N, D) are all or some.
    """
    eigenvalues = moments.eigenvalues * (1 - 1 / num_images)  # of the covariance divided by N, as in the paper
    mean_eigenvalue = eigenvalues.mean()
    fourth_moment = (x - moments.mean).square().sum(1).square().mean()
    error = (fourth_moment - eigenvalues.square().sum()) / num_images  # of the covariance, squared
    spread = (eigenvalues - mean_eigenvalue).square().sum()
    shrinkage = (error / spread).clamp(0, 1)
    shrunk = (1 - shrinkage) * eigenvalues + shrinkage * mean_eigenvalue
    return Elliptical(moments.mean, moments.components, floored(shrunk))  # of two images nothing is shrunk


def cosine_student_t(robust: Moments, x: Tensor) -> Elliptical:
    """Independent cosine coefficients times one scale per image; images x (N, C, H, W).

    The scatter is the robust one's diagonal in that basis; the degrees of freedom are fitted to it.
    """
    as_gaussian = robust._replace(total_variance=robust.eigenvalues.sum())  # its variances are the scatter
    axes, scatter = cosine_basis(as_gaussian, x.shape[1:])
    scatter = floored(scatter)
    distances = Elliptical(robust.mean, axes, scatter).distances(x.flatten(1))
    degrees, _ = fit_degrees_of_freedom(distances.numpy(), x[0].numel())
    return Elliptical(robust.mean, axes, scatter, degrees)


@torch.no_grad()
def gaussian_post_loss(vae: VAE, splits: EvaluationSplits) -> float | None:
    """The test images' post_loss under independent Gaussians of the coordinates y, with their variances over training
    images and the head's floor: what a network has to beat. None of pixels."""
    if not vae.representation.is_projection:
        return None
    floor = math.exp(vae.variance.log_variance_range[0])
    train, test = (
        torch.cat([batch.y.flatten(1).cpu() for batch in batches]).double() for batches in (splits.seen, splits.test)
    )
    variance = train.var(0).clamp(min=floor)
    return 0.5 * ((test - train.mean(0)).square() / variance + (2 * math.pi * variance).log()).sum(1).mean().item()


# --- a code of levels -------------------------------------------------------------------------------------------------


class CausalCode:
    """The probability of 256 levels of each colour value given those before it, in raster order: green, red, blue.

    The least-squares prediction of model/variance/neighbours.py and a table: for each size of error that it expects, a
    mixture of logistics, discretised to the levels.
    """

    def __init__(self, image_shape: torch.Size) -> None:
        _, height, width = image_shape
        self.predictor = Predictor(height, width, REACH)
        self.knots = torch.zeros(3, NUM_KNOTS)  # sizes, of each colour
        spread = torch.linspace(-1.0, 1.0, NUM_LOGISTICS)
        first = torch.stack([torch.zeros_like(spread), torch.zeros_like(spread), spread - 0.5])
        self.table = first.repeat(3, NUM_KNOTS, 1, 1)  # logits, offsets and log scales in units of the size

    def fit(self, images: Tensor) -> None:
        """Images (N, 3, H, W) uint8."""
        parts = [coloured(part) for part in every_nth(images, MAX_CODED).split(CODED_AT_ONCE)]
        self.predictor.fit(parts)
        self.fit_table(parts)

    def fit_table(self, parts: list[Tensor]) -> None:
        """By gradient, on values drawn from all images."""
        generator = torch.Generator().manual_seed(0)
        found = [(u, *self.predictor(u)) for u in parts]
        u, location, size = (torch.cat([each[i].transpose(0, 1).flatten(1) for each in found], 1) for i in range(3))
        shares = torch.linspace(0.001, 0.999, NUM_KNOTS)
        some = size[:, torch.randint(size.shape[1], (VALUES_PER_STEP,), generator=generator)]
        self.knots = some.quantile(shares, dim=1).T + 1e-4 * torch.arange(NUM_KNOTS)  # no two alike
        self.table.requires_grad_()
        optimizer = torch.optim.Adam([self.table], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
        for _ in range(NUM_STEPS):
            drawn = torch.randint(u.shape[1], (VALUES_PER_STEP,), generator=generator)
            loss = -self.log_mass(u[:, drawn], location[:, drawn], size[:, drawn]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.table.requires_grad_(False)

    def mixtures(self, location: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions (3, n) -> log-weights, locations and log scales of the logistics (3, n, M)."""
        knots = self.knots
        bounded = size.clamp(knots[:, :1], knots[:, -1:])
        above = torch.searchsorted(knots, bounded.detach().contiguous()).clamp(1, NUM_KNOTS - 1)
        low, high = (knots.gather(1, index) for index in (above - 1, above))
        share = ((bounded - low) / (high - low))[..., None, None]
        colour = torch.arange(3)[:, None]
        entry = torch.lerp(self.table[colour, above - 1], self.table[colour, above], share)
        logits, offset, log_scale = entry.unbind(2)
        unit = size[..., None]
        return logits.log_softmax(2), location[..., None] + offset * unit.exp(), unit + log_scale

    def log_mass(self, u: Tensor, location: Tensor, size: Tensor) -> Tensor:
        """u and predictions (3, n) -> log-probabilities of the levels (3, n)."""
        log_weights, location, log_scale = self.mixtures(location, size)
        level = ((u + 1) / 2 * (NUM_LEVELS - 1)).round()[..., None]
        return (log_weights + log_mass_of_level(level, u[..., None] - location, log_scale, NUM_LEVELS)).logsumexp(2)

    def log_prob(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 -> log-probabilities (N,) float64 of the levels, in nats."""
        return torch.cat([self._log_prob(coloured(part)) for part in images.split(CODED_AT_ONCE)])

    def _log_prob(self, u: Tensor) -> Tensor:
        flat = (each.transpose(0, 1).flatten(1) for each in (u, *self.predictor(u)))
        return self.log_mass(*flat).double().view(3, len(u), -1).sum((0, 2))


def bits_of_code(code: CausalCode, images: Tensor) -> float:
    """Mean bits per dimension of images (N, 3, H, W) uint8: exact, a probability of levels."""
    return -code.log_prob(images).mean().item() / (images[0].numel() * math.log(2))


def coloured(images: Tensor) -> Tensor:
    """Levels uint8 -> u, colours in ORDER."""
    return images[:, ORDER] * (2 * HALF_A_LEVEL) - 1
