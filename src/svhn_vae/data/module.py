"""The Lightning DataModule: loads the images once, fits the representation on them, gives batches of features."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.pytorch.utilities import rank_zero_only

from svhn_vae.data.batches import Batching, EvaluationBatches, TrainingBatches, every_nth
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

    labels: the share of training images whose label is known.
    fit_device: where the covariance of the images is computed, if it is not in `cache`.
    """

    def __init__(
        self,
        source: Source | Mapped,
        representation: Representation,
        batching: Batching,
        *,
        labels: float,
        cache: Path,
        fit_device: torch.device,
    ) -> None:
        super().__init__()
        self.source, self.representation, self.batching = source, representation, batching
        self.labels, self.cache, self.fit_device = labels, cache, fit_device
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
        """The training images' moments, one of covariance.SCATTERS; from the cache, or fitted."""
        return cached_moments(
            self.dataset.train.images, self.dataset.train_digest, scatter, self.cache, self.fit_device
        )

    def train_dataloader(self) -> TrainingBatches:
        """Of several processes each has images, an order and noise of its own, and a share of every batch."""
        rank, num, batching = self.trainer.global_rank, self.trainer.world_size, self.batching
        if num > 1:
            batching = replace(
                batching, batch_size=batching.batch_size // num, seed=derive_seed(Stream.SHARD, batching.seed, rank)
            )
        images, labels = self.dataset.train.images, known_labels(self.dataset.train.labels, self.labels)
        own = images[rank::num][: len(images) // num]
        return TrainingBatches(own, labels[rank::num], self.representation, batching, self._epoch)

    def _epoch(self) -> int:
        """Not current_epoch: in a continued run it is still the last run's when the first batch is asked for."""
        return self.trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
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
                f"lower it, or take model=conv or pca=dct, which fit no components"
            )
