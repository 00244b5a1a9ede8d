"""What a person is told while a run trains, and which updates are left out."""

import io
import json
import math
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from conftest import options
from svhn_vae.callbacks import Progress, SkipUpdates, duration
from svhn_vae.lit import Diverged
from test_lit import SMALL, features, fitted, fitted_module


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


HEADS = ["relu_eps", "optimal"]  # batch normalisation's averages; the head's own
BAD = [{what: value} for what in ("spoil", "factor") for value in (math.nan, math.inf)]


@pytest.mark.parametrize("model", options("model"))
def test_no_layers_gradient_is_not_finite_unseen(model, monkeypatch):
    """Whatever comes back from the decoder's output, wherever it goes: the few that are looked at show it."""
    own = {"dense": SMALL, "spectral": ("variance=spectral", "network_scale=0.03125")}
    module = fitted(f"model={model}", *own.get(model, ("network_scale=0.03125",)))
    skip = SkipUpdates(max_gradient_norm=None, max_skips=0)
    batch = features(module)
    skip.on_train_batch_start(None, module, batch, 0)
    for value in (math.nan, math.inf, -math.inf):
        with monkeypatch.context() as patch:

            def spoilt(params, value=value, forward=module.vae.variance.forward):
                params.register_hook(lambda gradient: gradient + value)
                return forward(params)

            patch.setattr(module.vae.variance, "forward", spoilt)
            module.zero_grad()
            module.training_step(batch, 0).backward()
        assert module.latest_loss.isfinite()
        assert not skip._size(module).isfinite()


class TestSkipUpdates:
    """A small VAE under Adam; the callback stands between its gradient and the step."""

    def setup_method(self) -> None:
        self.trainer = SimpleNamespace(global_step=0)
        self.skip = SkipUpdates(max_gradient_norm=None, max_skips=2)
        self.make("relu_eps")

    def make(self, head: str) -> None:
        self.module = fitted_module(f"variance={head}")
        self.optimizer = self.module.configure_optimizers()
        self.batch = features(self.module)

    def step(self, *, spoil: float = 0.0, factor: float = 1.0) -> None:
        """spoil: added to what is modelled; factor: on the gradient."""
        batch = self.batch._replace(y=self.batch.y + spoil)
        self.skip.on_train_batch_start(self.trainer, self.module, batch, 0)
        self.optimizer.zero_grad()
        self.module.training_step(batch, 0).backward()
        for weights in self.module.parameters():
            if weights.grad is not None:
                weights.grad *= factor
        self.skip.on_before_optimizer_step(self.trainer, self.module, self.optimizer)
        self.optimizer.step()
        self.trainer.global_step += 1
        self.skip.on_train_batch_end(self.trainer, self.module, None, batch, 0)

    def state(self) -> list[torch.Tensor]:
        averages = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value.clone() for value in (*self.module.state_dict().values(), *averages)]

    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("bad", BAD)
    def test_a_batch_whose_update_is_left_out_has_not_been(self, bad, head):
        """Nor in running averages, which would carry it into every later pass."""
        self.make(head)
        self.step()
        before = self.state()
        self.step(**bad)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert self.skip.num_skipped == 1
        self.step()
        assert not torch.equal(self.state()[0], before[0])
        assert all(value.isfinite().all() for value in self.state())

    def test_the_very_first_batch_may_be_bad(self):
        self.make("optimal")
        before = self.state()
        self.step(spoil=math.nan)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert not self.module.vae.variance.has_observed

    def test_only_skips_in_a_row_are_divergence(self):
        for _ in range(3):
            self.step()
            self.step(factor=math.nan)
            self.step(spoil=math.nan)
        assert (self.skip.num_skipped, self.skip.num_in_a_row) == (6, 2)
        with pytest.raises(Diverged) as error:
            self.step(spoil=math.nan)
        text, state = str(error.value), error.value.state
        assert error.value.step == 7  # the first in a row
        assert text.startswith("the gradient was not finite at step 7, and so for 3 steps in a row; the last finite")
        assert math.isfinite(state["last_finite_loss"])
        assert state["num_skipped"] == 7
        assert state["head"].keys() == {
            "floor_fraction", "ceiling_fraction", "dead_fraction", "sigma_finite_fraction", "sigma_min", "sigma_max"
        }  # fmt: skip
        json.loads(json.dumps(state, allow_nan=False))

    def test_an_epoch_without_a_finite_loss_is_divergence(self):
        self.skip.on_train_epoch_start(self.trainer, self.module)
        self.step(spoil=math.nan)
        with pytest.raises(Diverged, match="the loss was not finite at step 0, and so for 1 steps"):
            self.skip.on_train_epoch_end(self.trainer, self.module)

    def test_a_gradient_that_is_too_long_is_left_out_too(self):
        self.skip = SkipUpdates(max_gradient_norm=1e4, max_skips=2)
        self.step(factor=1e-6)
        before = self.state()
        self.step(factor=1e6)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert self.skip.num_skipped == 1
        assert "above callbacks.skip_updates.max_gradient_norm" in self.skip._reason

    def test_its_state_goes_on(self):
        self.step()
        self.step(spoil=math.nan)
        other = SkipUpdates(max_gradient_norm=None, max_skips=2)
        other.load_state_dict(self.skip.state_dict())
        assert other.state_dict() == self.skip.state_dict()
        assert (other.num_skipped, other.num_in_a_row) == (1, 1)
        assert other.last_finite_loss == self.skip.last_finite_loss is not None

    def test_a_norm_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="max_gradient_norm must be above 0 or null, got 0"):
            SkipUpdates(max_gradient_norm=0, max_skips=1)
