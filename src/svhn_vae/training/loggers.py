"""A run's learning curves: TensorBoard's, for people to watch, and history.csv, for programs and people to read."""

import contextlib
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from torch.utils.tensorboard.summary import hparams

from svhn_vae.runs.files import replacing

SECONDS_BETWEEN_WRITES = 5.0
PLACE = ("epoch", "step", "seconds")  # the columns before those of the metrics
HPARAMS_METRICS = ("best/negative_elbo", "best/bits_per_dim", "test/bits_per_dim", "test/kl", "test/active_units")

# TensorBoard's custom scalars: category -> chart -> the metrics in it
DASHBOARD = {
    "the bound": {
        "bits/dim": ["Multiline", ["train/bits_per_dim", "val/bits_per_dim"]],
        "negative ELBO, nats": ["Multiline", ["train/negative_elbo", "val/negative_elbo"]],
        "KL, nats": ["Multiline", ["train/kl", "val/kl"]],
        "log p(y | z), nats": ["Multiline", ["train/log_likelihood", "val/log_likelihood"]],
        "log p(r | z), nats": ["Multiline", ["train/residual", "val/residual"]],
        "the post's loss, nats": ["Multiline", ["train/post_loss", "val/post_loss"]],
    },
    "sigma": {
        "share of elements": ["Multiline", [f"val/sigma/{name}_fraction" for name in ("floor", "ceiling", "dead")]]
    },
    "latents and gradients": {
        "active units": ["Multiline", ["val/active_units"]],
        "norm of an epoch's last gradient": ["Multiline", ["train/gradient_norm"]],
        "skipped updates": ["Multiline", ["train/skipped_updates"]],
    },
}


class TensorBoard(TensorBoardLogger):
    """Lightning's logger. Where it cannot write, the run goes on without it, with one notice; and where a run that was
    killed is continued, the points that it makes anew replace those in the files from before."""

    _has_failed = False
    _has_begun = False

    @property
    def experiment(self) -> Any:
        return self.attempt(lambda: super(TensorBoard, self).experiment) or DummyExperiment()

    def attempt(self, write: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        """What `write` returns; None from the first OSError on."""
        try:
            return None if self._has_failed else write(*args, **settings)
        except OSError as error:
            self._has_failed = True
            print(f"  TensorBoard cannot be written ({error}): the run goes on without it", flush=True)

    @rank_zero_only
    def announce(self, hyperparameters: dict[str, bool | float | str]) -> None:
        """The layout of the custom scalars, and the HPARAMS tab's entry with the tags of the real metrics, which get
        their values when they are logged. Lightning's way logs a placeholder, which then stands in the curves."""
        board = self.experiment
        for summary in hparams(hyperparameters, dict.fromkeys(HPARAMS_METRICS, 0.0)):
            self.attempt(lambda each=summary: board.file_writer.add_summary(each))
        self.attempt(board.add_custom_scalars, DASHBOARD)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.attempt(self._log, metrics, step)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        board = self.experiment
        if not self._has_begun:  # what earlier files have from this step on no longer counts
            board.file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)
            self._has_begun = True
        for name, value in metrics.items():
            board.add_scalar(name, value, step)
        board.flush()  # else a killed run would lose what a continuation does not make again

    def save(self) -> None:
        """Writes no hparams.yaml beside the events: .hydra/config.yaml has it all, and is whole or not there."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.attempt(super().finalize, status)


class History(Checkpoint):
    """history.csv: a row per epoch, with its number, the step, seconds since training began, and the metrics.

    The rows are this callback's state in last.ckpt, too, and a continued run takes up those: the file may be behind or
    ahead. A Checkpoint, because Lightning calls these when an epoch's metrics are there. To stand before what saves.
    """

    state_key: str = "history"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._validated: dict[str, float] = {}
        self._written = -SECONDS_BETWEEN_WRITES

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic() - max((row["seconds"] for row in self.rows), default=0.0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._validated = of_split(trainer, "val/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = time.monotonic() - self._start
        place = dict(zip(PLACE, (trainer.current_epoch, trainer.global_step - 1, seconds), strict=True))
        self.rows.append({**place, **self._validated, **of_split(trainer, "train/")})
        self._validated = {}
        if trainer.is_global_zero and time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._write()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            with contextlib.suppress(OSError):  # the exception is what is told
                self._write()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]

    def _write(self) -> None:
        if not self.rows or not self.path.parent.is_dir():  # whoever removed the folder does not want it back
            return
        metrics = sorted({name for row in self.rows for name in row} - set(PLACE))
        with replacing(self.path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*PLACE, *metrics])
            table.writeheader()
            table.writerows(self.rows)
        self._written = time.monotonic()


def of_split(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The latest metrics whose names begin so."""
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}


def history_of(trainer: L.Trainer) -> History:
    return next(callback for callback in trainer.callbacks if isinstance(callback, History))  # pyright: ignore[reportAttributeAccessIssue]


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history.csv, each without the metrics that it has not; [] where there is none or a damaged one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *cells = csv.reader(file)
            is_cut_off = any(len(row) != len(header) for row in cells) or not path.read_bytes().endswith(b"\n")
            rows = [] if is_cut_off else [as_numbers(header, row) for row in cells]
    except (OSError, ValueError):
        return []
    return rows if all(set(PLACE) <= set(row) for row in rows) else []


def as_numbers(header: list[str], cells: list[str]) -> dict[str, float]:
    return {name: float(text) for name, text in zip(header, cells, strict=True) if text}
