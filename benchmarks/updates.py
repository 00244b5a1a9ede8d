"""The framework's own updates, timed in turns with a bare float32 loop over tensors that are in place, which makes the
same updates of the same network; and the spectrum of the pixels' covariance.

The bare network is the 2017 post's with its sampling corrected, written down once more. On a machine that does other
things beside, only what was measured in one round can be compared.

Shapes: N images, B of a batch, K components, Z latents. Units: nats per image.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightning as L  # noqa: N812  its usual name
import torch
from omegaconf import DictConfig
from sklearn.decomposition import PCA
from torch import Tensor, nn

from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.data.cache import fitted_moments
from svhn_vae.data.module import DataModule
from svhn_vae.data.sources import LabelledImages, Source
from svhn_vae.experiment.build import build_data, build_module, build_trainer
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.loggers import history_of
from svhn_vae.training.module import LitVAE

NUM_COMPONENTS = 500
MAX_HELD = 100_000  # images that scikit-learn is given: in float64 they are 2.5 GB
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


@dataclass(frozen=True, kw_only=True)
class Noise(Source):
    """Images without content: what is timed does not depend on it."""

    num_train: int
    is_synthetic = True
    name = "noise"  # pyright: ignore[reportAssignmentType]
    image_shape = (3, 32, 32)  # pyright: ignore[reportAssignmentType]

    def read(self, split: str) -> LabelledImages:
        num, seed = (self.num_train, 0) if split == "train" else (100, 1)
        levels = torch.randint(0, 256, (num, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
        return LabelledImages(levels.to(torch.uint8), torch.zeros(num, dtype=torch.uint8))


class Fit(NamedTuple):
    """A training that can be begun."""

    module: LitVAE
    data: DataModule
    trainer: L.Trainer
    size: Size


def fit_of(cfg: DictConfig, folder: Path, num_images: int) -> Fit:
    """Of a composed configuration, on so many training images, without validations and checkpoints."""
    module, run = build_module(cfg), RunFolder(folder)
    run.begin("", {}, {})
    trainer = build_trainer(cfg, run, loggers=[])
    trainer.limit_val_batches, trainer.callbacks[:] = 0, [history_of(trainer)]  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit_loop.max_epochs = 10**9
    data = build_data(cfg, module.vae)
    data.source = Noise(
        splits=["train"], division="contiguous", limit=num_images, held_out=0.1, num_train=2 * num_images
    )
    data.setup()
    networks = module.vae.networks
    size = Size(cfg.pca.n_components, networks.mean.in_features, networks.latent_dim, cfg.batch_size)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return Fit(module, data, trainer, size)


def bare_loop_of(fit: Fit) -> Callable[[int], float]:
    """At the same size on the same features, on the trainer's device."""
    images, representation = fit.data.dataset.train.images, fit.module.vae.representation
    y = torch.cat([batch.y for batch in EvaluationBatches(images, representation)])
    return bare_loop(fit.size, y.to(fit.trainer.strategy.root_device))


class Rounds(L.Callback):
    """Stops the clock of its fit after every `num_epochs`, for the other way to make as many updates. The first round,
    in which everything is for the first time, does not count."""

    def __init__(self, other: Callable[[int], float], *, num_epochs: int, num_rounds: int) -> None:
        self.other, self.num_epochs, self.num_rounds = other, num_epochs, num_rounds
        self.seconds: list[tuple[float, float]] = []  # of an update: ours, the other's

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch % self.num_epochs == 0:
            synchronise()
            self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.num_epochs:
            return
        synchronise()
        own = time.perf_counter() - self._start
        num_updates = self.num_epochs * trainer.train_dataloader.num_batches
        found = own / num_updates, self.other(num_updates) / num_updates
        if trainer.current_epoch >= self.num_epochs:
            self.seconds.append(found)
        trainer.should_stop = len(self.seconds) == self.num_rounds


def timed(
    fit: Fit, other: Callable[[int], float], *, num_epochs: int, num_rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of an update in each round: the framework's, and the other way's in the same round."""
    rounds = Rounds(other, num_epochs=num_epochs, num_rounds=num_rounds)
    fit.trainer.callbacks.append(rounds)  # pyright: ignore[reportAttributeAccessIssue]
    fit.trainer.fit(fit.module, datamodule=fit.data)
    own, others = zip(*rounds.seconds, strict=True)
    return list(own), list(others)


def spectrum_times(num: int, device: torch.device) -> dict[str, float]:
    """Seconds for the mean and whole spectrum of uint8 images, dequantised on the way, and for some components by
    scikit-learn's automatic choice of what it is given in float64."""
    images = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8)
    found = {"whole spectrum": seconds_of(lambda: fitted_moments(images, "sample", device))}
    if num <= MAX_HELD:
        x, automatic = images.flatten(1).double().numpy(), PCA(NUM_COMPONENTS, random_state=0)
        found[f"scikit-learn, automatic, {NUM_COMPONENTS} components"] = seconds_of(lambda: automatic.fit(x))
    return found
