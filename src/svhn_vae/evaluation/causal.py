"""A code length without a network: each colour value given the pixels before it, in raster order; green, red, blue.

The least-squares prediction of model/variance/neighbours.py and a table: for each size of error that it expects, a
mixture of logistics, discretised to the 256 levels.

Shapes: B images, levels (B, 3, H, W) uint8; inside, colours are in ORDER and a level is u = 2 level / 255 - 1 in
[-1, 1]. M logistics, N knots of the table. Units: sizes are logarithms of an error in u.
"""

import math

import torch
from torch import Tensor

from svhn_vae.data.batches import every_nth
from svhn_vae.model.covariance import NUM_LEVELS
from svhn_vae.model.variance.logistic import log_mass_of_level
from svhn_vae.model.variance.neighbours import HALF_A_LEVEL, ORDER, Predictor

REACH = 3  # rows above, and pixels to either side
MAX_IMAGES = 5_000  # fitted on
CHUNK = 50  # images at a time: bounds memory
NUM_KNOTS, NUM_LOGISTICS = 24, 3
NUM_STEPS, VALUES_PER_STEP, LEARNING_RATE = 400, 50_000, 0.02  # of the table's fit


class CausalCode:
    """The probability of 256 levels of each value, given those before it."""

    def __init__(self, image_shape: torch.Size) -> None:
        _, height, width = image_shape
        self.predictor = Predictor(height, width, REACH)
        self.knots = torch.zeros(3, NUM_KNOTS)  # sizes, of each colour
        spread = torch.linspace(-1.0, 1.0, NUM_LOGISTICS)
        first = torch.stack([torch.zeros_like(spread), torch.zeros_like(spread), spread - 0.5])
        self.table = first.repeat(3, NUM_KNOTS, 1, 1)  # logits, offsets and log scales in units of the size

    def fit(self, images: Tensor) -> None:
        """Images (N, 3, H, W) uint8."""
        parts = [coloured(part) for part in every_nth(images, MAX_IMAGES).split(CHUNK)]
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
        return torch.cat([self._log_prob(coloured(part)) for part in images.split(CHUNK)])

    def _log_prob(self, u: Tensor) -> Tensor:
        flat = (each.transpose(0, 1).flatten(1) for each in (u, *self.predictor(u)))
        return self.log_mass(*flat).double().view(3, len(u), -1).sum((0, 2))


def bits_of_code(code: CausalCode, images: Tensor) -> float:
    """Mean bits per dimension of images (N, 3, H, W) uint8: exact, a probability of levels."""
    return -code.log_prob(images).mean().item() / (images[0].numel() * math.log(2))


def coloured(images: Tensor) -> Tensor:
    """Levels uint8 -> u, colours in ORDER."""
    return images[:, ORDER] * (2 * HALF_A_LEVEL) - 1
