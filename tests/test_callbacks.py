"""What a person is told while a run trains."""

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from svhn_vae.training import callbacks
from svhn_vae.training.callbacks import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41, "41 s"), (119, "119 s"), (700, "12 min"), (7201, "2.0 h"), (157_352, "43.7 h"), (1e6, "11.6 days")],
)
def test_duration_in_words(seconds, text):
    assert duration(seconds) == text


def trainer_at(step: int) -> SimpleNamespace:
    """As far as Progress looks at it, in the second of 20 epochs."""
    device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    return SimpleNamespace(
        global_step=step, max_epochs=20, current_epoch=1, world_size=1, strategy=device,
        callback_metrics={"val/bits_per_dim": torch.tensor(3.25)},
    )  # fmt: skip


BATCHES = [SimpleNamespace(y=torch.zeros(100, 2))]


def begun(monkeypatch, *, is_terminal: bool, seconds: float = 30) -> Progress:
    """A run of 100 steps, 10 of which have taken 10 s."""
    monkeypatch.setattr(callbacks, "updates_per_epoch", lambda trainer: 5)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    progress = Progress(seconds_between_lines=seconds)
    progress.console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    progress.on_train_start(trainer_at(0), None)
    progress._start = progress._last_line = time.monotonic() - 10
    progress.on_validation_end(trainer_at(5), None)
    return progress


def test_where_there_is_no_terminal_a_line_now_and_then_tells_how_far_it_is(monkeypatch, capsys):
    progress = begun(monkeypatch, is_terminal=False, seconds=5)
    for step in (10, 11):  # the second is at once after the first
        progress.on_train_batch_end(trainer_at(step), None, None, BATCHES, 0)
    assert capsys.readouterr().out == "  90 s left, epoch 2/20, val 3.250 bits/dim, 100 images/s\n"
    begun(monkeypatch, is_terminal=False).on_train_batch_end(trainer_at(10), None, None, BATCHES, 0)
    assert capsys.readouterr().out == ""


def test_a_log_beside_a_terminal_has_its_lines_too(monkeypatch, capsys):
    """python src/train.py | tee log: the bar is on the terminal, the lines are in the log."""
    progress = begun(monkeypatch, is_terminal=True, seconds=5)
    progress.on_train_batch_end(trainer_at(10), None, None, BATCHES, 0)
    progress._stop()
    assert "90 s left" in capsys.readouterr().out
    assert "90 s left" in progress.console.file.getvalue()


def test_the_jobs_that_are_left_are_told_with_the_time_they_take(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "num_jobs_left", 3)
    monkeypatch.setattr(Progress, "seconds_per_job", 600.0)
    progress = begun(monkeypatch, is_terminal=False, seconds=5)
    progress.on_train_batch_end(trainer_at(10), None, None, BATCHES, 0)
    until = [time.strftime("%H:%M", time.localtime(time.time() + 90 + 1800 - lag)) for lag in (0, 2)]
    assert re.search(rf"then 3 jobs until (\d\d \w+ )?({'|'.join(until)}), val", capsys.readouterr().out)


@pytest.mark.parametrize("width", [40, 64, 80, 100, 140])
def test_in_a_terminal_of_any_width_each_figure_is_whole_or_left_out(width, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "num_jobs_left", 12)
    progress = begun(monkeypatch, is_terminal=True)
    progress.console.width = width
    progress.on_train_batch_end(trainer_at(10), None, None, BATCHES, 0)
    progress._stop()
    progress.console.file = io.StringIO()
    progress.console.print(progress._bar.get_renderable())
    [line] = progress.console.file.getvalue().splitlines()
    text = re.sub("[^ -~].*", "", line).strip()  # without the bar
    whole = ["90 s left", "epoch 2/20", r"then 12 jobs until .*\d\d:\d\d", r"val 3\.250 bits/dim", "100 images/s"]
    shown = text.split(", ")
    assert len(shown) >= (2 if width < 120 else 5)
    assert all(re.fullmatch(pattern, part) for pattern, part in zip(whole, shown, strict=False))
    assert capsys.readouterr().out == ""
