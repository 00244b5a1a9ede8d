"""What a person is told while a run trains."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from svhn_vae.training.callbacks import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41, "41 s"), (119, "119 s"), (700, "12 min"), (7201, "2.0 h"), (157_352, "43.7 h"), (1e6, "11.6 days")],
)
def test_duration_in_words(seconds, text):
    assert duration(seconds) == text


def told(steps_left: int) -> str:
    """What Progress prints after 10 steps in 10 seconds, with `steps_left` to go."""
    progress = Progress()
    progress.console = Console(file=io.StringIO(), width=200)
    trainer = SimpleNamespace(
        global_step=10, max_epochs=2000,
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
    )  # fmt: skip
    progress._start, progress._first_step, progress._total = time.monotonic() - 10, 0, 10 + steps_left
    progress._warn_if_long(trainer, 1000)
    return progress.console.file.getvalue()


def test_a_run_of_more_than_an_hour_says_so_and_what_shortens_it():
    text = told(7200)
    assert "may take 2.0 h on this cpu" in text or "may take 120 min on this cpu" in text
    assert "2000 epochs at 1,000 images/s" in text
    for way in ("a GPU", "trainer=demo", "network_scale=", "data.limit=", "trainer.max_epochs="):
        assert way in text


def test_a_run_of_less_says_nothing():
    assert told(3000) == ""
