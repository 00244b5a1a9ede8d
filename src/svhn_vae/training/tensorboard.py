"""TensorBoard that cannot end a run: where it cannot be written, the run goes on without it, with one notice.

TensorBoard's own writer is a thread. If it fails, its error appears at whatever is logged next, as another error.
"""

import os
import socket
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

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

_numbers = count()  # two files of one second would be one


class TensorBoard(TensorBoardLogger):
    """Lightning's logger with the writer below."""

    @property
    def experiment(self) -> "Board":
        if self._experiment is None:
            self._experiment = Board(self.log_dir)
        return self._experiment

    def save(self) -> None:
        """Writes no hparams.yaml beside the events: .hydra/config.yaml has it all, and is whole or not there."""


class Board(SummaryWriter):
    """A SummaryWriter that writes where it is called, until that fails."""

    def __init__(self, log_dir: str) -> None:
        self._gave_up = False
        super().__init__(log_dir)

    def attempt(self, write: Callable[..., Any], *args: Any) -> Any:
        """What `write` returns; None, from the first OSError on."""
        if self._gave_up:
            return None
        try:
            return write(*args)
        except OSError as error:
            self._gave_up = True
            print(f"  TensorBoard cannot be written ({error}): the run goes on without it", flush=True)

    def announce(self, hyperparameters: dict[str, bool | float | str]) -> None:
        """The layout of the custom scalars, and the HPARAMS tab's entry with the tags of the real metrics, which get
        their values when they are logged. Lightning's way logs a placeholder, which then stands in the curves."""
        for summary in hparams(hyperparameters, dict.fromkeys(HPARAMS_METRICS, 0.0)):
            self.file_writer.add_summary(summary)
        self.add_custom_scalars(DASHBOARD)

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = Files(self)
            self.all_writers = {self.log_dir: self.file_writer}
        return self.file_writer


class Files(FileWriter):
    """torch's, with the event writer below."""

    def __init__(self, board: Board) -> None:
        self.event_writer = Events(board)


class Events:
    """An event file, as tensorboard's EventFileWriter writes it, without its thread."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._records = board.attempt(open_records, Path(board.log_dir))
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        if self._records is not None:
            self._board.attempt(self._records.write, event.SerializeToString())

    def flush(self) -> None:
        """Nothing waits: the file has no buffer, whose content would be lost where the run is killed."""

    def close(self) -> None:
        if self._records is not None:
            self._board.attempt(self._records.close)


def open_records(folder: Path) -> RecordWriter:
    folder.mkdir(parents=True, exist_ok=True)
    words = (f"{time.time():010.0f}", socket.gethostname(), str(os.getpid()), str(next(_numbers)))
    return RecordWriter((folder / f"events.out.tfevents.{'.'.join(words)}").open("wb", buffering=0))
