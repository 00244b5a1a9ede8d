"""The Lightning DataModule: loads the images once, fits the representation on them, gives batches of features."""

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.pytorch.utilities import rank_zero_only

from svhn_vae.data.augmentation import Augmentation
from svhn_vae.data.batches import EvaluationBatches, TrainingBatches, every_nth
from svhn_vae.data.cache import cached_moments
from svhn_vae.data.sources import Dataset, Mapped, Source, known_labels, load_once
from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import Representation
from svhn_vae.model.covariance import Moments
from svhn_vae.seeds import Stream, derive_seed

MAX_SEEN = 2_000  # training images, evenly spaced: 500 variances estimated from them are off by 0.1 nats together


class EvaluationSplits:
    """The images that a model is evaluated on, in its coordinates: `test`, `val`, and some training images, `seen`.

    labels: the share of training images whose label is known.
    Each is projected when it is first asked for, and once for all that look at it.
    """

    def __init__(self, dataset: Dataset, representation: Representation, labels: float = 1.0) -> None:
        self.dataset, self.labels = dataset, labels
        self.test = EvaluationBatches(dataset.test.images, representation)
        self.val = EvaluationBatches(dataset.val.images, representation)
        self.seen = EvaluationBatches(every_nth(dataset.train.images, MAX_SEEN), representation)


class DataModule(L.LightningDataModule):
    """Batches of a source's images in the coordinates of a representation, which `setup` fits in place.

    fit_device: where the covariance of the images is computed, if it is not in `cache`.
    """

    def __init__(
        self,
        source: Source | Mapped,
        representation: Representation,
        *,
        batch_size: int,
        updates_per_step: int | None,
        augmentation: Augmentation,
        dequantise: bool,
        epochs_per_noise: int,
        shuffle: bool,
        seed: int,
        labels: float,
        cache: Path,
        fit_device: torch.device,
    ) -> None:
        super().__init__()
        self.source, self.representation, self.cache = source, representation, cache
        self.batch_size, self.dequantise, self.epochs_per_noise = batch_size, dequantise, epochs_per_noise
        self.updates_per_step, self.shuffle, self.seed = updates_per_step, shuffle, seed
        self.labels, self.augmentation, self.fit_device = labels, augmentation, fit_device
        self.dataset: Any = None  # a Dataset, from `setup` on

    def setup(self, stage: str | None = None) -> None:
        if self.dataset is not None:
            return
        self.dataset = load_once(self.source)
        self._check_size()
        if rank_zero_only.rank == 0:  # and gives the others what it fits: see LitVAE
            self.representation.fit(self.moments(self.representation.scatter))
        self.evaluation = EvaluationSplits(self.dataset, self.representation, self.labels)

    def moments(self, scatter: str) -> Moments:
        """The training images' moments, `sample` or `robust`; from the cache, or fitted."""
        return cached_moments(
            self.dataset.train.images, self.dataset.train_digest, scatter, self.cache, self.fit_device
        )

    def train_dataloader(self) -> TrainingBatches:
        """Of several processes each has images, an order and noise of its own, and a share of every batch."""
        rank, num = self.trainer.global_rank, self.trainer.world_size
        images, labels = self.dataset.train.images, known_labels(self.dataset.train.labels, self.labels)
        return TrainingBatches(
            images[rank::num][: len(images) // num],
            self.representation,
            labels=labels[rank::num],
            batch_size=self.batch_size // num,
            per_step=self.updates_per_step,
            augmentation=self.augmentation,
            add_noise=self.dequantise,
            epochs_per_noise=self.epochs_per_noise,
            shuffle=self.shuffle,
            seed=self.seed if num == 1 else derive_seed(Stream.SHARD, self.seed, rank),
            # Not current_epoch: in a continued run it is still the last run's when the first batch is asked for.
            epoch=lambda: self.trainer.fit_loop.epoch_progress.current.processed,  # pyright: ignore[reportAttributeAccessIssue]
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """They are made where they are needed."""
        return batch

    def val_dataloader(self) -> EvaluationBatches:
        return self.evaluation.val

    def _check_size(self) -> None:
        """N images less their mean span N - 1 directions: more components would be arbitrary ones."""
        if not self.representation.has_fitted_axes:
            return
        num_images, num_components = len(self.dataset.train.labels), self.representation.event_shape.numel()
        if num_images <= num_components:
            raise UserError(
                f"pca.n_components={num_components} needs more training images than components, got {num_images}: "
                f"lower it, or raise data.limit"
            )
