"""Lightning callbacks: what a person sees of a run while it trains, and which updates are left out."""

import math
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from svhn_vae.divergence import head_state
from svhn_vae.evaluation import order_of_learning
from svhn_vae.lit import Diverged, LitVAE
from svhn_vae.pictures.gallery import Subject, draw
from svhn_vae.pictures.sheet import write_png
from svhn_vae.representation import Features
from svhn_vae.tensors import save_tensors
from svhn_vae.vae import VAE

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
        batch_size = trainer.world_size * len(batch.y)
        self.num_images += batch_size
        if self._start is None:  # the first step pays for the projection, lazy initialisation and compilation
            self._start, self._first_step = time.monotonic(), trainer.global_step
            return
        epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        per_step = self._seconds / (trainer.global_step - self._first_step)
        speed = f"{batch_size / per_step:,.0f} images/s"
        self._bar.update(self._task, completed=trainer.global_step, epoch=epoch, speed=speed, description=self._score)
        if not self._warned and self._seconds > 5 and trainer.global_step - self._first_step >= 3:
            self._warned = True
            self._warn_if_long(trainer, batch_size)

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


class SkipUpdates(Callback):
    """Leaves out updates whose loss or gradient is not finite, or whose gradient is longer than `max_gradient_norm`
    (null: none is too long), and counts them.

    It is then as if the batch had not been: neither weights nor the optimiser's averages move, nor running statistics.
    The run ends as diverged once more than `max_skips` in a row were skipped, or after an epoch without a finite loss.
    As very deep VAEs are trained (Child 2021). Reads the device once a step. A pass over all gradients takes 3 % of a
    small network's step: without a `max_gradient_norm`, those of `witnesses` are looked at.
    """

    def __init__(self, *, max_gradient_norm: float | None, max_skips: int) -> None:
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise ValueError(
                f"callbacks.skip_updates.max_gradient_norm must be above 0 or null, got {max_gradient_norm}"
            )
        if max_skips < 0:
            raise ValueError(f"callbacks.skip_updates.max_skips must be 0 or more, got {max_skips}")
        self.max_gradient_norm, self.max_skips = max_gradient_norm, max_skips
        self.num_skipped, self.num_in_a_row = 0, 0
        self.last_finite_loss: float | None = None
        self._reason = ""  # of the first in a row
        self._has_finite_loss = False  # this epoch
        self._statistics: list[list[torch.Tensor]] = []
        self._witnesses: list[torch.nn.Parameter] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: LitVAE) -> None:
        self._has_finite_loss = False

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: LitVAE, batch: Features, batch_idx: int) -> None:
        self._batch = batch
        if not self._statistics:
            self._witnesses = witnesses(pl_module.vae)
            self._statistics = running_statistics(pl_module.vae)
            self._before = [[torch.empty_like(each) for each in group] for group in self._statistics]
        for before, now in zip(self._before, self._statistics, strict=True):
            torch._foreach_copy_(before, now)  # one kernel for all of a type

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: LitVAE, optimizer: torch.optim.Optimizer) -> None:
        norm, loss = torch.stack([self._size(pl_module), pl_module.latest_loss]).tolist()
        if math.isfinite(loss):
            self._has_finite_loss, self.last_finite_loss = True, loss
        is_short = self.max_gradient_norm is None or norm <= self.max_gradient_norm
        if math.isfinite(loss) and math.isfinite(norm) and is_short:
            self.num_in_a_row = 0
            return
        if not self.num_in_a_row:
            self._reason = reason(trainer.global_step, loss, norm)
        self.num_skipped += 1
        self.num_in_a_row += 1
        optimizer.zero_grad(set_to_none=True)  # an optimiser leaves weights without a gradient alone
        for now, before in zip(self._statistics, self._before, strict=True):
            torch._foreach_copy_(now, before)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: LitVAE, outputs, batch, batch_idx) -> None:
        if self.num_in_a_row > self.max_skips:
            raise self._diverged(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: LitVAE) -> None:
        if self.num_skipped and not self._has_finite_loss:
            raise self._diverged(trainer, pl_module)
        if self.max_gradient_norm is not None or self.num_skipped:
            pl_module.log("train/skipped_updates", float(self.num_skipped), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("num_skipped", "num_in_a_row", "last_finite_loss", "_reason")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def _size(self, pl_module: LitVAE) -> torch.Tensor:
        """The gradient's norm; without a limit to it, a sum that is finite if all in it are."""
        if self.max_gradient_norm is None:
            found = [weights.grad.flatten() for weights in self._witnesses if weights.grad is not None]
            return torch.cat(found).sum()
        return torch.nn.utils.get_total_norm([each.grad for each in pl_module.parameters() if each.grad is not None])

    def _diverged(self, trainer: L.Trainer, pl_module: LitVAE) -> Diverged:
        first = trainer.global_step - self.num_in_a_row
        loss = self.last_finite_loss
        before = "" if loss is None else f"; the last finite loss was {loss:.1f} nats"
        state = {
            "last_finite_loss": loss, "num_skipped": self.num_skipped, "head": head_state(pl_module.vae, self._batch)
        }  # fmt: skip
        return Diverged(first, f"{self._reason}, and so for {self.num_in_a_row} steps in a row{before}", state)


def reason(step: int, loss: float, norm: float) -> str:
    """Why an update is left out."""
    if not math.isfinite(loss):
        return f"the loss was not finite at step {step}"
    if not math.isfinite(norm):
        return f"the gradient was not finite at step {step}"
    return f"the gradient's norm was {norm:.3g} at step {step}, above callbacks.skip_updates.max_gradient_norm"


def witnesses(vae: VAE) -> list[torch.nn.Parameter]:
    """Of each layer the biases and scales, or else its weights. All that comes back to a layer is summed up in them, so
    that nothing in it is not finite unseen; a weight's gradient is sums of the same, times activations."""
    found = [list(module.parameters(recurse=False)) for module in vae.modules()]
    return [each for own in found for each in [weights for weights in own if weights.ndim <= 1] or own]


def running_statistics(vae: VAE) -> list[list[torch.Tensor]]:
    """What a training pass changes beside the weights, by type: batch normalisation's averages, and those of heads."""
    found = [*vae.networks.buffers(), *vae.variance.buffers()]
    return [[each for each in found if each.dtype == dtype] for dtype in dict.fromkeys(each.dtype for each in found)]


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
        subject = Subject(vae, trainer.datamodule.dataset, f"epoch {trainer.current_epoch + 1}", seed=0)
        for name in ("samples", "reconstructions"):
            board.add_image(name, draw(subject, name), step, dataformats="HWC")
        with torch.random.fork_rng():
            likelihood = vae(next(iter(trainer.datamodule.val_dataloader()))).likelihood
        log_sigma = likelihood.stddev.clamp(min=torch.finfo(torch.float32).tiny).log10().flatten()[:100_000]
        finite = log_sigma[log_sigma.isfinite()]
        if len(finite):  # else the next updates will be left out, and the run ends as diverged
            board.add_histogram("sigma/log10", finite, step)


class OrderOfLearning(Callback):
    """Which components are learnt first: order_of_learning.safetensors in the run folder, and a picture of it.

    Explained variance on the first batch of validation images, at validations whose number grows by equal factors:
    what matters happens early, and a long training leaves a small file all the same.
    """

    def __init__(self, *, times_per_doubling: int) -> None:
        self.times_per_doubling = times_per_doubling
        self._num_validations = 0
        self._epochs: list[int] = []
        self._explained: list[torch.Tensor] = []  # (G,) each

    def on_validation_end(self, trainer: L.Trainer, pl_module: LitVAE) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._num_validations += 1
        now, before = (self._time(number) for number in (self._num_validations, self._num_validations - 1))
        if now > before:
            self._epochs.append(trainer.current_epoch + 1)
            batch = next(iter(trainer.datamodule.val_dataloader()))
            self._explained.append(order_of_learning.explained_variance(pl_module.vae, batch))

    def rank_correlation(self) -> dict[str, float]:
        """Of the order of learning with that of the components, as a metric; {} where there is none to be had."""
        if not self._epochs:
            return {}
        found = order_of_learning.rank_correlation(torch.tensor(self._epochs), torch.stack(self._explained))
        return {} if found is None else {"order/rank_correlation": found}

    def write(self, folder: Path, vae: VAE) -> None:
        """When training has ended, in this process or in an earlier one: then Lightning calls no hook of it."""
        if not self._epochs:
            return
        epochs, explained = torch.tensor(self._epochs), torch.stack(self._explained)
        save_tensors({"epochs": epochs, "explained": explained}, folder / "order_of_learning.safetensors")
        event_shape = vae.representation.event_shape
        picture = order_of_learning.draw(self._epochs, explained, event_shape, folder.name)
        write_png(picture, folder / "figures" / "order_of_learning.png")

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self._num_validations, "epochs": self._epochs, "explained": self._explained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_validations = state_dict["num_validations"]
        self._epochs, self._explained = list(state_dict["epochs"]), list(state_dict["explained"])

    def _time(self, number: int) -> int:
        return math.floor(self.times_per_doubling * math.log2(number)) if number else -1


def duration(seconds: float) -> str:
    """For instance 41 s, 12 min, 3.2 h, 5.1 days."""
    for limit, unit, name in ((120, 1, "s"), (2 * HOUR, 60, "min"), (48 * HOUR, HOUR, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"
