"""A run's learning curves: what is logged is in the table, also of a run that was continued."""

import pytest

from svhn_vae.training import history
from svhn_vae.training.history import History, read_history


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""
    now = {"seconds": 100.0}
    monkeypatch.setattr(history.time, "monotonic", lambda: now["seconds"])
    return now


def logged(path, clock, rows, *, finish=True, before=()):
    table = History(path)
    table.take_up(before)
    table.log_graph(None)
    for step, metrics in rows:
        clock["seconds"] += 10
        table.log_metrics(metrics, step)
        table.save()
    if finish:
        table.finalize("success")
    return table


def test_metrics_of_one_step_are_one_row(tmp_path, clock):
    logged(tmp_path / "h.csv", clock, [(5, {"epoch": 0, "val/a": 1.5}), (5, {"epoch": 0, "train/b": 2.5})])
    assert read_history(tmp_path / "h.csv") == [{"epoch": 0, "step": 5, "seconds": 20, "val/a": 1.5, "train/b": 2.5}]


def test_a_metric_that_was_not_logged_is_missing(tmp_path, clock):
    logged(tmp_path / "h.csv", clock, [(5, {"epoch": 0, "val/a": 1}), (9, {"epoch": 1, "train/b": 2})])
    first, second = read_history(tmp_path / "h.csv")
    assert "train/b" not in first
    assert "val/a" not in second


def test_floats_come_back_exactly(tmp_path, clock):
    logged(tmp_path / "h.csv", clock, [(1, {"epoch": 0, "a": 1 / 3, "b": 1e-300, "c": float("inf")})])
    [row] = read_history(tmp_path / "h.csv")
    assert (row["a"], row["b"], row["c"]) == (1 / 3, 1e-300, float("inf"))


def test_a_continued_run_takes_up_the_checkpoints_rows_and_clock(tmp_path, clock):
    """What its file holds, it makes again: it may be ahead of the checkpoint, behind it or damaged."""
    path = tmp_path / "h.csv"
    table = logged(path, clock, [(5, {"epoch": 0, "a": 1}), (10, {"epoch": 1, "a": 2})])
    kept = table.rows_with({"b": 7.0}, 10, 1)
    assert [(row["step"], row.get("b")) for row in kept] == [(5, None), (10, 7)]
    path.write_text("damaged")
    clock["seconds"] += 1000  # it was not running
    logged(path, clock, [(15, {"epoch": 2, "a": 4})], before=kept)
    rows = read_history(path)
    assert [(row["step"], row["a"], row.get("b")) for row in rows] == [(5, 1, None), (10, 2, 7), (15, 4, None)]
    assert [row["seconds"] for row in rows] == [10, 20, 30]


def test_a_row_that_is_yet_to_come_is_kept_and_changes_nothing(tmp_path, clock):
    table = logged(tmp_path / "h.csv", clock, [(5, {"epoch": 0, "a": 1})])
    assert table.rows_with({"train/b": 2.0}, 9, 1)[-1] == {"epoch": 1, "train/b": 2, "step": 9, "seconds": 10}
    assert [row["step"] for row in table.rows] == [5]


def test_a_folder_that_was_removed_is_not_made_again(tmp_path, clock):
    table = logged(tmp_path / "h.csv", clock, [(5, {"epoch": 0, "a": 1})], finish=False)
    table.path = tmp_path / "gone" / "h.csv"
    table.finalize("success")
    assert not table.path.parent.exists()


def test_what_is_logged_after_training_is_no_part_of_the_curve(tmp_path, clock):
    table = logged(tmp_path / "h.csv", clock, [(5, {"epoch": 0, "a": 1})])
    table.log_metrics({"epoch": 0, "a": 7}, 5)
    table.finalize("success")
    assert [row["a"] for row in read_history(tmp_path / "h.csv")] == [1]


def test_the_file_is_written_now_and_then(tmp_path, clock):
    path = tmp_path / "h.csv"
    table = logged(path, clock, [(5, {"epoch": 0, "a": 1})], finish=False)
    assert len(read_history(path)) == 1
    table.log_metrics({"epoch": 1, "a": 2}, 10)
    table.save()
    assert len(read_history(path)) == 1
    clock["seconds"] += history.SECONDS_BETWEEN_WRITES
    table.save()
    assert len(read_history(path)) == 2


@pytest.mark.parametrize(
    "text", ["", "epoch,step\n1,2\n", "\x00\x01", "epoch,step,seconds,a\n1,2,3,x\n", "a\n\n1,2,3\n",
             "epoch,step,seconds,a\n0,5,1.5,2.25\n1,9,2", "epoch,step,seconds,a\n0,5,1.5,2.25\n1,9,2.5,2.2"],
)  # fmt: skip
def test_a_damaged_table_is_no_table(tmp_path, text):
    (tmp_path / "h.csv").write_text(text)
    assert read_history(tmp_path / "h.csv") == []
    assert read_history(tmp_path / "none.csv") == []


def test_a_run_without_an_epoch_leaves_no_table(tmp_path):
    History(tmp_path / "h.csv").finalize("failed")
    assert list(tmp_path.iterdir()) == []
