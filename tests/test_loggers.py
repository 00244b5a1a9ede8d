"""Learning curves: what is logged is in history.csv, and TensorBoard reads it, also of a run that was continued."""

import csv
import errno
import importlib.util
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.trainer.states import TrainerFn
from mlflow import MlflowClient
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import backend_context, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from conftest import composed, rows_of
from svhn_vae.errors import UserError
from svhn_vae.experiment.build import check_loggers
from svhn_vae.experiment.run import of_one_type
from svhn_vae.experiment.settings import NULLABLE
from svhn_vae.training import loggers
from svhn_vae.training.loggers import History, TensorBoard
from test_checkpoints import train
from test_finished_run import finished

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
    assert rows_of(tmp_path / "h.csv") == [
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
    assert [(row["step"], row["train/b"], row["seconds"]) for row in rows_of(path)] == [(4, 1, 10), (9, 2, 20)]


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def board(folder) -> TensorBoard:
    return TensorBoard(save_dir=folder, name="", version="tensorboard", default_hp_metric=False)


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def logged(logger: TensorBoard) -> None:
    """As a run does: metrics, pictures and histograms, an end, and some after that."""
    logger.announce({"variance": "fixed"}, 3)
    for step in range(3):
        logger.log_metrics({"val/a": 1.5 * step}, step)
        logger.save()
    logger.attempt(logger.experiment.add_image, "picture", np.zeros((4, 4, 3), np.uint8), 0, dataformats="HWC")
    logger.attempt(logger.experiment.add_histogram, "values", torch.arange(5.0), 0)
    logger.finalize("success")
    logger.log_metrics({"test/a": 9.0}, 3)
    logger.finalize("success")


def test_tensorboard_reads_it(tmp_path):
    before = set(threading.enumerate())
    logged(board(tmp_path))
    assert set(threading.enumerate()) <= before
    assert [event.value for event in read(tmp_path).Scalars("val/a")] == [0, 1.5, 3]
    assert [event.value for event in read(tmp_path).Scalars("test/a")] == [9]
    assert {"images": ["picture"], "histograms": ["values"]}.items() <= read(tmp_path).Tags().items()


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
@pytest.mark.parametrize("left", [0, 3])
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


def test_hparams_and_custom_scalars_open_with_both_sides_and_have_what_is_swept_alone(tmp_path):
    logger = board(tmp_path)
    logger.announce({"trainer.gradient_clip_val": None, "model.width": [3, 4], "optimizer.lr": 0.1, "shuffle": True}, 5)
    logger.finalize("success")
    whole = read(tmp_path)
    of_run, of_study = (
        HParamsPluginData.FromString(whole.summary_metadata[f"_hparams_/{tag}"].plugin_data.content)
        for tag in ("session_start_info", "experiment")
    )
    both = ["test/bits_per_dim", "samples/frechet"]
    assert [info.name.tag for info in of_study.experiment.metric_infos][:2] == both
    shown = of_run.session_start_info.hparams
    assert {name: value.string_value or value.number_value for name, value in shown.items()} == {
        "trainer.gradient_clip_val": "null", "model.width": "[3, 4]", "optimizer.lr": 0.1, "shuffle": "true"
    }  # fmt: skip
    layout = Layout.FromString(whole.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    first, second = layout.category[0].chart
    assert (first.title, second.title) == ("bits/dim of validation images", "Frechet distance of samples")
    assert list(second.multiline.tag) == both[1:]


@pytest.mark.parametrize(("num_epochs", "shown"), [(30, range(3, 30)), (1, []), (-1, range(1, 30))])
def test_compared_curves_leave_out_what_would_decide_their_axis(num_epochs, shown, tmp_path):
    logger = board(tmp_path)
    logger.announce({}, num_epochs)
    for epoch in range(abs(num_epochs) if num_epochs > 0 else 30):
        bits = 4000.0 if epoch in (0, 4) else 3.0 + 1 / (1 + epoch)
        logger.log_metrics({"val/bits_per_dim": bits, "val/kl": 9.0 * bits, "val/other": 1.0, "epoch": epoch}, epoch)
    logger.finalize("success")
    whole = read(tmp_path)
    due = [epoch for epoch in shown if epoch != 4]
    for name in ("val/bits_per_dim", "val/kl"):
        assert len(whole.Scalars(name)) == (abs(num_epochs) if num_epochs > 0 else 30)  # nothing is lost
        later = whole.Scalars(f"later/{name}") if due else []
        assert [event.step for event in later] == due
    assert "later/val/other" not in whole.Tags()["scalars"]


# --- other loggers ----------------------------------------------------------------------------------------------------


def test_several_loggers_at_once(tmp_path, monkeypatch):
    """What each of them keeps of one run, read back."""
    monkeypatch.chdir(tmp_path)  # MLflow makes mlruns/ there
    folder = finished(tmp_path, 1, "logger=[csv,mlflow,wandb]", f"logger.mlflow.tracking_uri=sqlite:///{tmp_path}/ml.db",
                      "study=mine")  # fmt: skip
    due = folder.result["metrics"]["test/bits_per_dim"]
    [table] = folder.path.glob("csv/version_*/metrics.csv")
    with table.open(newline="", encoding="utf-8") as file:
        values = [row["test/bits_per_dim"] for row in csv.DictReader(file)]
    assert [float(value) for value in values if value] == [pytest.approx(due)]

    client = MlflowClient(f"sqlite:///{tmp_path}/ml.db")
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/bits_per_dim"] == pytest.approx(due)
    assert run.data.params["variance"] == "relu_eps"
    assert run.info.run_name == "run"
    [point] = client.get_metric_history(run.info.run_id, "val/bits_per_dim")
    pictures = {path.name for path in folder.figures.glob("*.png")} - {"calibration.png", "order_of_learning.png"}
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == pictures >= {"samples.png", "data.png"}
    again = loggers.MLflow(folder.path, experiment_name="mine", tracking_uri=f"sqlite:///{tmp_path}/ml.db")
    assert again.run_id == run.info.run_id  # of a run that is continued, from an earlier step on
    for step in (point.step, point.step + 1):
        again.log_metrics({"val/bits_per_dim": 1.0}, step)
    assert [each.step for each in client.get_metric_history(run.info.run_id, "val/bits_per_dim")] == [point.step, step]

    [kept] = folder.path.glob("wandb/offline-run-*/*.wandb")
    assert b"test/bits_per_dim" in kept.read_bytes()
    assert {path.name.split("_")[0] for path in kept.parent.rglob("*.png")} == {name[:-4] for name in pictures}
    assert wandb.run is None  # it has ended: the next run of this process is another
    assert not (folder.path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_without_its_library_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"logger={name} needs .*pip install .*\[{name}\]"):
        check_loggers(composed(f"logger={name}"))


@pytest.mark.parametrize("key", sorted(NULLABLE))
def test_tensorboards_table_can_be_sorted_by_a_setting_that_is_null_in_some_runs(key, tmp_path):
    for number, value in enumerate((None, 5, 0.5, None)):
        logger = TensorBoard(tmp_path / f"run{number}", name="", version="tensorboard", default_hp_metric=False)
        logger.announce({key: of_one_type(key, value)}, 10)
        logger.experiment.flush()
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider, multiplexer=runs, logdir=str(tmp_path)))
    request = ListSessionGroupsRequest(slice_size=9, allowed_statuses=[0, 1, 2, 3])
    request.col_params.add(hparam=key, order=1)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert [group.hparams[key].string_value for group in groups] == ["0.5", "5", "null", "null"]
