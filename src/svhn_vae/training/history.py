"""A run's learning curves as a table, history.csv: what TensorBoard draws, for programs and people to read."""

import csv
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from lightning.pytorch.utilities import rank_zero_only

from svhn_vae.runs.files import replacing

SECONDS_BETWEEN_WRITES = 5.0
PLACE = ("epoch", "step", "seconds")  # the columns before those of the metrics


class History(Logger):
    """One row per step at which metrics were logged: epoch, step, seconds since training began, and the metrics.

    Its rows are kept in last.ckpt, too, and a continued run takes up those: the file may be behind, or ahead.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, float]] = {}
        self._start: float | None = None
        self._written = -SECONDS_BETWEEN_WRITES
        self._ended = False

    name = "history"
    version = ""

    @property
    def experiment(self) -> DummyExperiment:
        return DummyExperiment()

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """They are in status.json."""

    def log_graph(self, *args: object, **kwargs: object) -> None:
        """Lightning calls this when training begins: the clock starts, or goes on."""
        if self._start is None:
            self._start = time.monotonic() - max((row["seconds"] for row in self._rows.values()), default=0.0)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if self._ended:  # the best checkpoint's, which are no part of the curve
            return
        row = self._rows.setdefault(step, {})
        row |= {**metrics, "step": step, "seconds": time.monotonic() - self._start}

    @property
    def rows(self) -> list[dict[str, float]]:
        return list(self._rows.values())

    def rows_with(self, metrics: Mapping[str, float], step: int, epoch: int) -> list[dict[str, float]]:
        """The rows so far, with what will be logged when this epoch's checkpoint has been written."""
        row = {**self._rows.get(step, {}), "epoch": epoch, **metrics, "step": step}
        row.setdefault("seconds", time.monotonic() - self._start)
        return list({**self._rows, step: row}.values())

    def take_up(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Goes on from `rows_with`, before training begins."""
        self._rows = {int(row["step"]): dict(row) for row in rows}

    def save(self) -> None:
        """Lightning calls this after every row; the file is written now and then."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def finalize(self, status: str) -> None:
        self._write()
        self._ended = True

    @rank_zero_only
    def _write(self) -> None:
        rows = [self._rows[step] for step in sorted(self._rows)]
        if not rows or not self.path.parent.is_dir():  # whoever removed the folder does not want it back
            return
        metrics = sorted({name for row in rows for name in row} - set(PLACE))
        with replacing(self.path) as beside, beside.open("w", newline="") as file:
            table = csv.DictWriter(file, [*PLACE, *metrics])
            table.writeheader()
            table.writerows(rows)
        self._written = time.monotonic()


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history.csv, each without the metrics that it has not; [] where there is none or a damaged one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *cells = csv.reader(file)
            is_cut_off = any(len(row) != len(header) for row in cells) or not ends_with_a_line(path)
            rows = [] if is_cut_off else [as_numbers(header, row) for row in cells]
    except (OSError, ValueError):
        return []
    return rows if all(set(PLACE) <= set(row) for row in rows) else []


def as_numbers(header: list[str], cells: list[str]) -> dict[str, float]:
    return {name: float(text) for name, text in zip(header, cells, strict=True) if text}


def ends_with_a_line(path: Path) -> bool:
    return path.read_bytes().endswith(b"\n")
