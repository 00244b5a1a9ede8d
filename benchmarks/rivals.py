"""What the framework's training is measured against: other ways to make the same updates of the same network.

The network is the 2017 post's with its sampling corrected, written down once more with nothing around it: its float32
loop over tensors that are in place is what a framework can at best come near to.

Shapes: N images, B of a batch, K components, Z latents. Units: nats per image.
"""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import lightning as L  # noqa: N812  its usual name
import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from .clock import stopwatch, synchronise

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


def flops_of_update(size: Size) -> float:
    """Of the matrix products forward and backward: 6 for each weight and image."""
    weights = sum(layer.weight.numel() for layer in Bare(size).modules() if isinstance(layer, nn.Linear))
    return 6.0 * weights * size.batch_size


Way = Callable[[int], float]  # makes so many updates; the seconds that they took, without what comes before the first


def ways(size: Size, y: Tensor, images: np.ndarray, pca: PCA) -> dict[str, Way]:
    """Features y (N, K) on the device; the same as images (N, D) in float64, and the PCA that made y of them."""
    return {
        "bare loop": bare_loop(size, y),
        "ordinary Lightning, DataLoader": ordinary_lightning(size, y),
        "scikit-learn on the fly": on_the_fly(size, images, pca, y.device),
    }


def bare_loop(size: Size, y: Tensor) -> Way:
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


def on_the_fly(size: Size, images: np.ndarray, pca: PCA, device: torch.device) -> Way:
    """The post's way: each batch is projected by scikit-learn when its turn comes."""
    model = Bare(size).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def updates(num: int) -> float:
        with stopwatch() as seconds:
            for _, indices in zip(range(num), forever(len(images), size.batch_size, torch.device("cpu")), strict=False):
                y = torch.from_numpy(pca.transform(images[indices.numpy()])).float().to(device)
                optimizer.zero_grad()
                model(y).backward()
                optimizer.step()
        return seconds[0]

    return updates


class Ordinary(L.LightningModule):
    """As most are written: a metric logged in each step."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.model = Bare(size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.model(batch[0])
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss


class Span(L.Callback):
    """From the end of the first step to the end of the last."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 1:
            synchronise()
            self._start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        synchronise()
        self.seconds = time.perf_counter() - self._start


def ordinary_lightning(size: Size, y: Tensor) -> Way:
    module, data = Ordinary(size), TensorDataset(y.cpu())

    def updates(num: int) -> float:
        span = Span()
        trainer = L.Trainer(
            max_steps=num + 1, accelerator="gpu" if y.device.type == "cuda" else "cpu", devices=1, callbacks=[span],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that workers would be faster: for tensors in memory they are slower
            trainer.fit(module, DataLoader(data, size.batch_size, shuffle=True, drop_last=True))
        return span.seconds

    return updates
