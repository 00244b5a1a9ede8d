"""The framework's own training, timed in turns with its rivals: a fit of many epochs that stops its clock for them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightning as L  # noqa: N812  its usual name
import numpy as np
import torch
from omegaconf import DictConfig
from sklearn.decomposition import PCA

from svhn_vae.data.batches import EvaluationBatches, dequantised_chunks
from svhn_vae.data.module import DataModule
from svhn_vae.data.sources import LabelledImages, Source
from svhn_vae.experiment.build import build_data, build_module, build_trainer
from svhn_vae.runs.folder import RunFolder
from svhn_vae.seeds import Stream
from svhn_vae.training.loggers import history_of
from svhn_vae.training.module import LitVAE

from .clock import Timed, in_turns, synchronise
from .rivals import Size, Way, ways

OURS = "this framework"


@dataclass(frozen=True, kw_only=True)
class Noise(Source):
    """Images without content: what is timed does not depend on it."""

    num_train: int
    is_synthetic = True
    name = "noise"

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
    trainer = build_trainer(cfg, run)
    trainer.limit_val_batches, trainer.callbacks[:] = 0, [history_of(trainer)]
    trainer.fit_loop.max_epochs = 10**9
    data = build_data(cfg, module.vae)
    data.source = Noise(
        splits=["train"], division="contiguous", limit=num_images, held_out=0.1, num_train=2 * num_images
    )
    data.setup()
    networks = module.vae.networks
    size = Size(cfg.pca.n_components, networks.mean.in_features, networks.latent_dim, cfg.batch_size)
    return Fit(module, data, trainer, size)


def others(fit: Fit) -> dict[str, Way]:
    """The rivals at the same size on the same features, on the trainer's device."""
    images, representation = fit.data.dataset.train.images, fit.module.vae.representation
    y = torch.cat([batch.y for batch in EvaluationBatches(images, representation)])
    x = np.concatenate([chunk.flatten(1).double().numpy() for chunk in dequantised_chunks(images, Stream.BASIS_NOISE)])
    pca = PCA(fit.size.num_components, svd_solver="covariance_eigh").fit(x)
    return ways(fit.size, y.to(fit.trainer.strategy.root_device), x, pca)


class Rounds(L.Callback):
    """Stops the clock of its fit after every `num_epochs`, for the other ways to make as many updates. The first round,
    in which everything is for the first time, does not count."""

    def __init__(self, others: dict[str, Way], *, num_epochs: int, num_rounds: int) -> None:
        self.others, self.num_epochs, self.num_rounds = others, num_epochs, num_rounds
        self.seconds: dict[str, list[float]] = {name: [] for name in (*others, OURS)}

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
        found = {name: way(num_updates) for name, way in self.others.items()} | {OURS: own}
        if trainer.current_epoch >= self.num_epochs:
            for name, seconds in found.items():
                self.seconds[name].append(seconds / num_updates)
        trainer.should_stop = len(self.seconds[OURS]) == self.num_rounds


def timed(fit: Fit, rivals: dict[str, Way], *, num_epochs: int, num_rounds: int) -> dict[str, Timed]:
    """Seconds of an update, in each way; speeds relative to the first rival's."""
    rounds = Rounds(rivals, num_epochs=num_epochs, num_rounds=num_rounds)
    fit.trainer.callbacks.append(rounds)
    fit.trainer.fit(fit.module, datamodule=fit.data)
    return in_turns(rounds.seconds)


def losses(fit: Fit, num_epochs: int) -> list[float]:
    """Of each epoch's updates, the mean."""
    fit.trainer.fit_loop.max_epochs = num_epochs
    fit.trainer.fit(fit.module, datamodule=fit.data)
    return [row["train/objective"] for row in history_of(fit.trainer).rows]
