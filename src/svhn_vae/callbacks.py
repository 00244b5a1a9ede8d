"""Lightning callbacks: what a person sees of a run while it trains. They change nothing of it."""

import time

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from svhn_vae import pictures
from svhn_vae.lit import LitVAE

HOUR = 3600.0


class Progress(ProgressBar):
    """One bar for the whole run: epochs, validation bits per dimension, images/s, time left.

    After a few steps it also says whether the run would take more than an hour, and what would shorten it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._warned = False
        self.num_images = 0  # trained on

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first_step, self._score = None, trainer.global_step, ""
        self._bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.description}"),
            TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), TextColumn("left at most"), TimeRemainingColumn(),
            console=self.console, disable=not self.console.is_terminal, transient=True, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=trainer.estimated_stepping_batches, epoch="0", speed="")
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        self.num_images += len(batch.y)
        if self._start is None:  # the first step pays for the projection, lazy initialisation and compilation
            self._start, self._first_step = time.monotonic(), trainer.global_step
            return
        epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        per_step = self._seconds / (trainer.global_step - self._first_step)
        speed = f"{len(batch.y) / per_step:,.0f} images/s"
        self._bar.update(self._task, completed=trainer.global_step, epoch=epoch, speed=speed, description=self._score)
        if not self._warned and self._seconds > 5 and trainer.global_step - self._first_step >= 3:
            self._warned = True
            self._warn_if_long(trainer, len(batch.y))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        bits = trainer.callback_metrics.get("val/bits_per_dim")
        self._score = "" if bits is None else f"val {bits:.3f} bits/dim"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    @property
    def _seconds(self) -> float:
        """Since the first step ended, validation included."""
        return time.monotonic() - self._start

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _warn_if_long(self, trainer: L.Trainer, batch_size: int) -> None:
        per_step = self._seconds / (trainer.global_step - self._first_step)
        left = per_step * (trainer.estimated_stepping_batches - trainer.global_step)
        if left > HOUR:
            self.console.print(
                f"  This run may take {duration(left)} on this {trainer.strategy.root_device.type}, unless early "
                f"stopping ends it: {trainer.max_epochs} epochs at {batch_size / per_step:,.0f} images/s.\n"
                "  Shorter: a GPU, trainer=demo, network_scale=0.25, data.limit=0.1 or trainer.max_epochs=50.",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


class Pictures(Callback):
    """Samples, reconstructions and histograms of sigma in TensorBoard, at every n-th validation of the training."""

    def __init__(self, *, every_n_validations: int) -> None:
        self.every_n_validations = every_n_validations
        self._num_validations = 0

    @torch.no_grad()
    def on_validation_end(self, trainer: L.Trainer, pl_module: LitVAE) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not isinstance(trainer.logger, TensorBoardLogger):
            return
        self._num_validations += 1
        if self._num_validations % self.every_n_validations != 1 % self.every_n_validations:
            return
        vae, board, step = pl_module.vae, trainer.logger.experiment, trainer.global_step
        dataset = trainer.datamodule.dataset
        shown = {
            "samples": pictures.samples(vae, 5, 10),
            "reconstructions": pictures.reconstructions(vae, dataset.val.images[:30], 10),
        }
        for name, picture in shown.items():
            caption = f"{name}, {dataset.name} data, epoch {trainer.current_epoch + 1}"
            board.add_image(name, pictures.captioned(picture, caption), step, dataformats="HWC")
        with torch.random.fork_rng():
            likelihood = vae(next(iter(trainer.datamodule.val_dataloader()))).likelihood
        log_sigma = likelihood.stddev.clamp(min=torch.finfo(torch.float32).tiny).log10().flatten()
        board.add_histogram("sigma/log10", log_sigma[:100_000], step)


def duration(seconds: float) -> str:
    """For instance 41 s, 12 min, 3.2 h, 5.1 days."""
    for limit, unit, name in ((120, 1, "s"), (2 * HOUR, 60, "min"), (48 * HOUR, HOUR, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"
