"""TensorBoard reads what is written; where nothing can be written, the run goes on, with one notice."""

import errno
import threading

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svhn_vae.training import tensorboard as board
from svhn_vae.training.tensorboard import TensorBoard


def logged(logger: TensorBoard) -> None:
    """As a run does: metrics, pictures and histograms, an end, and some after that."""
    for step in range(3):
        logger.log_metrics({"val/a": 1.5 * step}, step)
        logger.save()
    logger.experiment.add_image("picture", np.zeros((4, 4, 3), np.uint8), 0, dataformats="HWC")
    logger.experiment.add_histogram("values", torch.arange(5.0), 0)
    logger.finalize("success")
    logger.log_metrics({"test/a": 9.0}, 3)
    logger.finalize("success")


def test_tensorboard_reads_it(tmp_path):
    logged(TensorBoard(tmp_path, name="", version="tensorboard"))
    assert threading.active_count() == 1
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("val/a")] == [0, 1.5, 3]
    assert [event.value for event in events.Scalars("test/a")] == [9]
    assert {"images": ["picture"], "histograms": ["values"]}.items() <= events.Tags().items()


def test_a_killed_run_loses_nothing_that_was_logged(tmp_path):
    logger = TensorBoard(tmp_path, name="", version="tensorboard")
    logger.log_metrics({"val/a": 2.0}, 1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("val/a")] == [2]
    logger.finalize("success")


class Full:
    """A file on a full disk, from its n-th write on."""

    def __init__(self, left: int) -> None:
        self.left = left

    def write(self, data: bytes) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize("left", [0, 1, 3, 5])
def test_a_full_disk_is_one_notice(left, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(board, "open_records", lambda _: board.RecordWriter(Full(left)))
    logged(TensorBoard(tmp_path, name="", version="tensorboard"))
    [line] = capsys.readouterr().out.splitlines()
    assert line == "  TensorBoard cannot be written ([Errno 28] No space left on device): the run goes on without it"


def test_a_folder_that_cannot_be_made_is_one_notice(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    logged(TensorBoard(tmp_path, name="", version="tensorboard"))
    assert len(capsys.readouterr().out.splitlines()) == 1
