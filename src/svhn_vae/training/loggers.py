"""A run's learning curves: TensorBoard's and other loggers', to watch, and history.csv, for programs and people."""

import contextlib
import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import numpy as np
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from torch.utils.tensorboard.summary import hparams

from svhn_vae.runs.files import replacing

SECONDS_BETWEEN_WRITES = 5.0
PLACE = ("epoch", "step", "seconds")  # the columns before those of the metrics
BOTH_SIDES = ("test/bits_per_dim", "samples/frechet")
HPARAMS_METRICS = (*BOTH_SIDES, "best/negative_elbo", "test/kl", "test/active_units")
# Curves for comparisons are logged a second time: without the first tenth of the training, whose values are far above
# all later ones, and without what is worse than no model, 8 bits/dim. Else both decide the scale of the axis.
LATER, FIRST_SHARE, NO_MODEL = "later", 0.1, 8.0
COMPARED = ("bits_per_dim", "negative_elbo", "kl", "log_likelihood")


def chart(quantity: str, split: str = "val") -> list[Any]:
    """Of one split alone, because the gap between two would decide the axis."""
    return ["Multiline", [f"{LATER}/{split}/{quantity}"]]


# TensorBoard's custom scalars: category -> chart -> the metrics in it
DASHBOARD = {
    "both sides: density and pictures": {
        "bits/dim of validation images": chart("bits_per_dim"),
        "Frechet distance of samples": ["Multiline", ["samples/frechet"]],
    },
    "the bound, without the beginning": {
        "bits/dim of training images": chart("bits_per_dim", "train"),
        "negative ELBO, nats": chart("negative_elbo"),
        "KL, nats": chart("kl"),
        "log p(y | z), nats": chart("log_likelihood"),
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
    _first_compared = 1.0  # the epoch from which on curves are compared, counted from 0

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
    def announce(self, hyperparameters: Mapping[str, Any], num_epochs: int) -> None:
        """The layout of the custom scalars, and the HPARAMS tab's entry with the tags of the real metrics, which get
        their values when they are logged. Lightning's way logs a placeholder, which then stands in the curves.

        num_epochs: of the training, at most; -1 where no number ends it.
        """
        board, self._first_compared = self.experiment, min(max(1, FIRST_SHARE * num_epochs), max(num_epochs - 1, 1))
        for summary in hparams(as_cells(hyperparameters), dict.fromkeys(HPARAMS_METRICS, 0.0)):
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
        for name, value in (metrics | self._compared(metrics)).items():
            board.add_scalar(name, value, step)
        board.flush()  # else a killed run would lose what a continuation does not make again

    def _compared(self, metrics: dict[str, float]) -> dict[str, float]:
        """Those of an epoch's row that charts of comparisons show; none of a row that would decide their scale."""
        named = {f"{split}/{quantity}" for split in ("train", "val") for quantity in COMPARED}
        bits = [value for name, value in metrics.items() if name in ("train/bits_per_dim", "val/bits_per_dim")]
        if metrics.get("epoch", 0) < self._first_compared or not all(value <= NO_MODEL for value in bits):
            return {}
        return {f"{LATER}/{name}": value for name, value in metrics.items() if name in named}

    @rank_zero_only
    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """picture: (H, W, 3), uint8."""
        self.attempt(self.experiment.add_image, name, picture, step, dataformats="HWC")

    def save(self) -> None:
        """Writes no hparams.yaml beside the events: .hydra/config.yaml has it all, and is whole or not there."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.attempt(super().finalize, status)


def as_cells(settings: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Settings as TensorBoard's table takes them: what is neither a number nor text, as null and lists, as text,
    because it leaves out all else, and then runs have not the same columns."""
    shown = {
        key: isinstance(value, int | float | str) and not isinstance(value, bool) for key, value in settings.items()
    }
    return {key: value if shown[key] else json.dumps(value, default=str) for key, value in settings.items()}


class MLflow(MLFlowLogger):
    """Lightning's, of one run of MLflow per run folder: a continued run goes on with it, and leaves out the points that
    it had before it was killed."""

    def __init__(self, save_dir: Path, *, experiment_name: str, tracking_uri: str) -> None:
        self._noted = save_dir / "mlflow.txt"
        known = self._noted.read_text(encoding="utf-8") if self._noted.is_file() else None
        super().__init__(experiment_name, run_name=save_dir.name, tracking_uri=tracking_uri, run_id=known)
        self._last: dict[str, int] = {}  # name -> the last step that it had before this process

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._noted.write_text(str(self.run_id), encoding="utf-8")
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name in metrics.keys() - self._last.keys():
            points = self.experiment.get_metric_history(str(self.run_id), name)
            self._last[name] = max((point.step for point in points), default=-1)
        super().log_metrics({name: value for name, value in metrics.items() if step > self._last[name]}, step)

    @rank_zero_only
    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """picture: (H, W, 3), uint8."""
        self.experiment.log_image(str(self.run_id), picture, f"{name}.png")


class Wandb(WandbLogger):
    """Lightning's, of one run of W&B per run folder: a continued run goes on with it. `end` says that it is over."""

    def __init__(self, save_dir: Path, *, project: str, group: str, offline: bool) -> None:
        name, settings = save_dir.name, {"silent": True}
        super().__init__(name, save_dir, project=project, group=group, offline=offline, id=f"{group}-{name}",
                         resume="allow", settings=settings)  # fmt: skip

    @rank_zero_only
    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """picture: (H, W, 3), uint8."""
        self.log_image(name, [picture], step)

    @rank_zero_only
    def end(self) -> None:
        """Else the next run of this process would be logged to it."""
        self.experiment.finish()


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
