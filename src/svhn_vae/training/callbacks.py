"""Lightning callbacks: what a person sees of a run while it trains."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from svhn_vae.errors import counted
from svhn_vae.evaluation import order_of_learning
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.gallery import Subject, draw
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs.tensors import save_tensors
from svhn_vae.training.loggers import TensorBoard
from svhn_vae.training.module import LitVAE, updates_per_epoch

HOUR = 3600.0


class Progress(ProgressBar):
    """How far the run is: epoch, time left, jobs left, validation bits per dimension, images/s. A bar where stderr is a
    terminal. Where it or stdout is none, a line on stdout every `seconds_between_lines`: a log of a long run is alive.
    """

    # Of the command's jobs after this run; the sweep notes both.
    num_jobs_left: int = 0
    seconds_per_job: float | None = None

    def __init__(self, *, seconds_between_lines: float) -> None:
        super().__init__()
        self.seconds_between_lines = seconds_between_lines
        self.console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._is_disabled = False
        self.num_images = 0  # trained on

    def disable(self) -> None:
        """Lightning calls this in all processes of a run but the first."""
        self._is_disabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first_step, self._score = None, trainer.global_step, ""
        self._is_bar = sys.stderr.isatty()  # no bar where colours are forced into a file
        self._last_line = time.monotonic()
        self._bar = RichProgress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)), BarColumn(bar_width=None),
            console=self.console, transient=True, expand=True, disable=self._is_disabled or not self._is_bar,
            refresh_per_second=4, redirect_stdout=sys.stdout.isatty(),  # else what is printed belongs in a file
        )  # fmt: skip
        self._total = trainer.max_epochs * updates_per_epoch(trainer)  # pyright: ignore[reportOptionalOperand]
        self._task = self._bar.add_task("", total=self._total)
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        batch_size = trainer.world_size * len(batch[0].y)
        self.num_images += batch_size * len(batch)
        if self._start is None:  # the first step pays for lazy initialisation and compilation
            self._start, self._first_step = time.monotonic(), trainer.global_step
            return
        if not self._is_disabled:
            self._tell(trainer, batch_size)

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
        return time.monotonic() - self._start  # pyright: ignore[reportOperatorIssue]

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _tell(self, trainer: L.Trainer, batch_size: int) -> None:
        now, per_step = time.monotonic(), self._seconds / (trainer.global_step - self._first_step)
        is_log = not (self._is_bar and sys.stdout.isatty())
        is_due = is_log and now - self._last_line >= self.seconds_between_lines
        if not (self._is_bar or is_due):
            return
        left = per_step * (self._total - trainer.global_step)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        speed = f"{batch_size / per_step:,.0f} images/s"
        parts = [f"{duration(left)} left", epoch, self._jobs(left), self._score, speed]
        if self._is_bar:
            text = fitting(parts, self.console.width)
            self._bar.update(self._task, completed=trainer.global_step, description=text)  # pyright: ignore[reportOptionalMemberAccess]
        if is_due:
            self._last_line = now
            print(f"  {', '.join(part for part in parts if part)}", flush=True)

    def _jobs(self, left: float) -> str:
        """How many jobs are left after this run, and until when, each taking as long as those before."""
        if not self.num_jobs_left:
            return ""
        each = self._seconds + left if self.seconds_per_job is None else self.seconds_per_job
        end = time.localtime(time.time() + left + self.num_jobs_left * each)
        is_today = end[:3] == time.localtime()[:3]
        jobs = counted(self.num_jobs_left, "job")
        return f"then {jobs} until {time.strftime('%H:%M' if is_today else '%d %b %H:%M', end)}"


def fitting(parts: list[str], width: int) -> str:
    """The first of the parts that together fit in a line, whole; the rest of the line is the bar's."""
    shown: list[str] = []
    for part in (part for part in parts if part):
        if len(", ".join([*shown, part])) >= width:
            break
        shown.append(part)
    return ", ".join(shown)


class Pictures(Callback):
    """Samples, reconstructions and histograms of sigma in TensorBoard, at every n-th validation of the training."""

    def __init__(self, *, every_n_validations: int) -> None:
        self.every_n_validations = every_n_validations
        self._num_validations = 0

    @torch.no_grad()
    def on_validation_end(self, trainer: L.Trainer, pl_module: LitVAE) -> None:
        logger = next((logger for logger in trainer.loggers if isinstance(logger, TensorBoard)), None)
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero or logger is None:
            return
        self._num_validations += 1
        if self._num_validations % self.every_n_validations != 1 % self.every_n_validations:
            return
        vae, board, step = pl_module.vae, logger.experiment, trainer.global_step - 1
        subject = Subject(vae, trainer.datamodule.dataset, f"epoch {trainer.current_epoch + 1}", 0, 1.0)  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("samples", "reconstructions"):
            logger.log_picture(name, draw(subject, name), step)
        with torch.random.fork_rng():
            likelihood = vae(next(iter(trainer.datamodule.val_dataloader()))).likelihood  # pyright: ignore[reportAttributeAccessIssue]
        log_sigma = likelihood.stddev.clamp(min=torch.finfo(torch.float32).tiny).log10().flatten()[:100_000]
        finite = log_sigma[log_sigma.isfinite()]
        if len(finite):  # else the next updates will be left out, and the run ends as diverged
            logger.attempt(board.add_histogram, "sigma/log10", finite, step)


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
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        self._num_validations += 1
        now, before = (self._time(number) for number in (self._num_validations, self._num_validations - 1))
        if now > before:
            self._epochs.append(trainer.current_epoch + 1)
            batch = next(iter(trainer.datamodule.val_dataloader()))  # pyright: ignore[reportAttributeAccessIssue]
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
