"""What a person is told while a run trains."""

import io
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from svhn_vae.callbacks import Progress, SkipUpdates, duration
from svhn_vae.lit import Diverged


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
        global_step=10, estimated_stepping_batches=10 + steps_left, max_epochs=2000,
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
    )  # fmt: skip
    progress._start, progress._first_step = time.monotonic() - 10, 0
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


class TestSkipUpdates:
    """One linear layer under Adam; the callback stands between its gradient and the step."""

    trainer = SimpleNamespace(global_step=5)

    def setup_method(self) -> None:
        self.layer = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.1)
        self.skip = SkipUpdates(max_gradient_norm=10.0, max_skips=2)

    def step(self, gradient: float) -> None:
        for weights in self.layer.parameters():
            weights.grad = torch.full_like(weights, gradient)
        self.skip.on_before_optimizer_step(self.trainer, self.layer, self.optimizer)
        self.optimizer.step()

    def state(self) -> list[torch.Tensor]:
        averages = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value.clone() for value in (*self.layer.parameters(), *averages)]

    @pytest.mark.parametrize("gradient", [float("nan"), float("inf"), 6.0])  # 6: a norm of 10.4
    def test_an_exploding_update_changes_nothing_and_is_counted(self, gradient):
        self.step(1.0)
        before = self.state()
        self.step(gradient)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert self.skip.num_skipped == 1
        assert SkipUpdates.state_dict(self.skip) == {"num_skipped": 1}

    def test_others_are_made(self):
        self.step(1.0)
        before = self.state()
        self.step(5.0)
        assert not torch.equal(self.state()[0], before[0])
        assert self.skip.num_skipped == 0

    def test_more_than_the_cap_is_divergence(self):
        self.step(7.0)
        self.step(7.0)
        with pytest.raises(Diverged, match="3 updates were skipped, the last for a gradient of norm nan at step 5"):
            self.step(float("nan"))

    def test_no_norm_no_skips(self):
        self.skip = SkipUpdates(max_gradient_norm=None, max_skips=0)
        self.step(7.0)
        assert self.skip.num_skipped == 0

    def test_a_norm_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="max_gradient_norm must be above 0 or null, got 0"):
            SkipUpdates(max_gradient_norm=0, max_skips=1)
