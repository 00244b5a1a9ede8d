"""What the framework's training is measured against: a bare float32 loop over tensors that are in place.

The network is the 2017 post's with its sampling corrected, written down once more.

Shapes: N images, B of a batch, K components, Z latents. Units: nats per image.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

LEARNING_RATE = 1e-4
EPSILON = 0.010


class Size(NamedTuple):
    """Of the network and its batches."""

    num_components: int
    width: int
    latent_dim: int
    batch_size: int


class Bare(nn.Module):
    """The post's network and its loss, y (B, K) -> ()."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        num_components, width, latent_dim, _ = size
        self.encoder = nn.Sequential(nn.BatchNorm1d(num_components), *blocks(num_components, width, width, width))
        self.mean_of_z = nn.Sequential(*blocks(width, width, width), nn.Linear(width, latent_dim))
        self.log_variance_of_z = nn.Sequential(*blocks(width, width, width), nn.Linear(width, latent_dim))
        self.decoder = nn.Sequential(*blocks(latent_dim, *[width] * 5))
        self.mean = nn.Linear(width, num_components)
        self.raw = nn.Sequential(*blocks(width, num_components), nn.Linear(num_components, num_components))

    def forward(self, y: Tensor) -> Tensor:
        h = self.encoder(y)
        mean_of_z, log_variance_of_z = self.mean_of_z(h).float(), self.log_variance_of_z(h).float()
        h = self.decoder(mean_of_z + (0.5 * log_variance_of_z).exp() * torch.randn_like(mean_of_z))
        mean, variance = self.mean(h).float(), self.raw(h).float().relu() + EPSILON
        fit = 0.5 * ((y - mean).square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)
        kl = 0.5 * (mean_of_z.square() + log_variance_of_z.exp() - 1 - log_variance_of_z).sum(1)
        return (fit + kl).mean()


def blocks(*widths: int) -> list[nn.Module]:
    return [
        layer
        for before, after in itertools.pairwise(widths)
        for layer in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.2))
    ]


def bare_loop(size: Size, y: Tensor) -> Callable[[int], float]:
    """Features y (N, K) on the device -> what makes so many updates, and returns the seconds that they took."""
    model = Bare(size).to(y.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def updates(num: int) -> float:
        with stopwatch() as seconds:
            for _, indices in zip(range(num), forever(len(y), size.batch_size, y.device), strict=False):
                optimizer.zero_grad()
                model(y[indices]).backward()
                optimizer.step()
        return seconds[0]

    return updates


def forever(num: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Indices of batches, epoch after epoch."""
    while True:
        yield from torch.randperm(num, device=device).split(batch_size)[: num // batch_size]


def seconds_of(work: Callable[[], object]) -> float:
    with stopwatch() as seconds:
        work()
    return seconds[0]


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Fills its list when the block, and what it gave to a GPU, has ended."""
    seconds: list[float] = []
    synchronise()
    start = time.perf_counter()
    yield seconds
    synchronise()
    seconds.append(time.perf_counter() - start)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
