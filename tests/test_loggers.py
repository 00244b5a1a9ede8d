"""Learning curves: what is logged is in history.csv, and TensorBoard reads it, also of a run that was continued."""

import errno
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from svhn_vae.training import loggers
from svhn_vae.training.loggers import History, TensorBoard, read_history
from test_checkpoints import train

# --- history.csv ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""
    now = {"seconds": 100.0}
    monkeypatch.setattr(loggers.time, "monotonic", lambda: now["seconds"])
    return now


def epoch_of(table: History, clock: dict, epoch: int, *, val=None, train=None) -> None:
    """What Lightning calls in an epoch of 5 updates and 10 seconds; metrics of splits stay until they are made anew."""
    metrics = {name: torch.tensor(value) for name, value in {**(val or {}), **(train or {})}.items()}
    trainer = SimpleNamespace(
        callback_metrics={"val/a": torch.tensor(-1.0), **metrics}, current_epoch=epoch, global_step=5 * epoch + 5,
        is_global_zero=True, state=SimpleNamespace(fn=TrainerFn.FITTING),
    )  # fmt: skip
    clock["seconds"] += 10
    if val:
        table.on_validation_end(trainer, None)
    table.on_train_epoch_end(trainer, None)


def begun(path, before=()) -> History:
    table = History(path)
    table.load_state_dict({"rows": before})
    table.on_train_start(None, None)
    return table


def test_an_epoch_is_a_row_and_a_metric_that_was_not_logged_is_missing(tmp_path, clock):
    table = begun(tmp_path / "h.csv")
    epoch_of(table, clock, 0, val={"val/a": 1 / 3}, train={"train/b": 1e-30})
    epoch_of(table, clock, 1, train={"train/b": float("inf")})
    table.on_train_end(SimpleNamespace(is_global_zero=True), None)
    as_float32 = torch.tensor([1 / 3, 1e-30]).tolist()
    assert read_history(tmp_path / "h.csv") == [
        {"epoch": 0, "step": 4, "seconds": 10, "val/a": as_float32[0], "train/b": as_float32[1]},
        {"epoch": 1, "step": 9, "seconds": 20, "train/b": float("inf")},
    ]


def test_a_continued_run_takes_up_the_checkpoints_rows_and_clock(tmp_path, clock):
    """What its file holds, it makes again: it may be ahead of the checkpoint, behind it or damaged."""
    path = tmp_path / "h.csv"
    table = begun(path)
    epoch_of(table, clock, 0, train={"train/b": 1.0})
    kept = table.state_dict()["rows"]
    path.write_text("damaged", encoding="utf-8")
    clock["seconds"] += 1000  # it was not running
    table = begun(path, kept)
    epoch_of(table, clock, 1, train={"train/b": 2.0})
    table.on_train_end(SimpleNamespace(is_global_zero=True), None)
    assert [(row["step"], row["train/b"], row["seconds"]) for row in read_history(path)] == [(4, 1, 10), (9, 2, 20)]


def test_a_folder_that_was_removed_is_not_made_again(tmp_path, clock):
    table = begun(tmp_path / "gone" / "h.csv")
    epoch_of(table, clock, 0, train={"train/b": 1.0})
    assert not table.path.parent.exists()


def test_the_file_is_written_now_and_then(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(loggers, "SECONDS_BETWEEN_WRITES", 15)
    table = begun(tmp_path / "h.csv")
    written = []
    for epoch in range(4):
        epoch_of(table, clock, epoch, train={"train/b": 1.0})
        written.append(len(read_history(tmp_path / "h.csv")))
    assert written == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "text", ["", "epoch,step\n1,2\n", "\x00\x01", "epoch,step,seconds,a\n1,2,3,x\n", "a\n\n1,2,3\n",
             "epoch,step,seconds,a\n0,5,1.5,2.25\n1,9,2", "epoch,step,seconds,a\n0,5,1.5,2.25\n1,9,2.5,2.2"],
)  # fmt: skip
def test_a_damaged_table_is_no_table(tmp_path, text):
    (tmp_path / "h.csv").write_text(text, encoding="utf-8")
    assert read_history(tmp_path / "h.csv") == []
    assert read_history(tmp_path / "none.csv") == []


def test_a_run_without_an_epoch_leaves_no_table(tmp_path, clock):
    begun(tmp_path / "h.csv").on_exception(SimpleNamespace(is_global_zero=True), None, OSError())
    assert list(tmp_path.iterdir()) == []


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def board(folder) -> TensorBoard:
    return TensorBoard(save_dir=folder, name="", version="tensorboard", default_hp_metric=False)


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def logged(logger: TensorBoard) -> None:
    """As a run does: metrics, pictures and histograms, an end, and some after that."""
    logger.announce({"variance": "fixed"})
    for step in range(3):
        logger.log_metrics({"val/a": 1.5 * step}, step)
        logger.save()
    logger.attempt(logger.experiment.add_image, "picture", np.zeros((4, 4, 3), np.uint8), 0, dataformats="HWC")
    logger.attempt(logger.experiment.add_histogram, "values", torch.arange(5.0), 0)
    logger.finalize("success")
    logger.log_metrics({"test/a": 9.0}, 3)
    logger.finalize("success")


def test_tensorboard_reads_it(tmp_path):
    logged(board(tmp_path))
    assert threading.active_count() == 1
    assert [event.value for event in read(tmp_path).Scalars("val/a")] == [0, 1.5, 3]
    assert [event.value for event in read(tmp_path).Scalars("test/a")] == [9]
    assert {"images": ["picture"], "histograms": ["values"]}.items() <= read(tmp_path).Tags().items()


def test_a_killed_run_loses_nothing_that_was_logged(tmp_path):
    logger = board(tmp_path)
    logger.log_metrics({"val/a": 2.0}, 1)
    assert [event.value for event in read(tmp_path).Scalars("val/a")] == [2]
    logger.finalize("success")


def test_a_killed_run_that_is_continued_has_every_point_once(tmp_path, monkeypatch):
    """It is killed two epochs after its checkpoint: those are made again. Three updates an epoch."""
    few = ("checkpoint_every_n_epochs=2", "trainer.max_epochs=8")

    def killed(self, *_):
        if len(self.rows) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", killed)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            train(tmp_path / "run", *few)
    assert [event.step for event in read(tmp_path / "run").Scalars("train/kl")] == [2, 5, 8, 11, 14]
    train(tmp_path / "run", *few)
    steps = [event.step for event in read(tmp_path / "run").Scalars("train/kl")]
    assert sorted(set(steps)) == steps
    assert steps[-1] == 23
    assert len(steps) == 8
    tags = read(tmp_path / "run")
    assert [event.step for event in tags.Scalars("val/kl")] == steps
    assert len(tags.Tags()["scalars"]) > 10


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # in TensorBoard's own thread
@pytest.mark.parametrize("left", [0, 1, 3, 5])
def test_a_full_disk_is_one_notice(left, tmp_path, monkeypatch, capsys):
    writer = "tensorboard.summary.writer.event_file_writer.RecordWriter"
    monkeypatch.setattr(writer, lambda _: RecordWriter(Full(left)))
    before = threading.enumerate()
    logged(board(tmp_path))
    for thread in set(threading.enumerate()) - set(before):
        thread.join()  # its exception is this test's, and not the next one's
    [line] = capsys.readouterr().out.splitlines()
    assert line == "  TensorBoard cannot be written ([Errno 28] No space left on device): the run goes on without it"


def test_a_folder_that_cannot_be_made_is_one_notice(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file", encoding="utf-8")
    logged(board(tmp_path))
    assert len(capsys.readouterr().out.splitlines()) == 1
