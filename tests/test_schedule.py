"""The learning rate and the average of the weights: their formulas, and what a training makes of them."""

import math

import pytest
import torch

from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.checkpoints import read_checkpoint
from svhn_vae.training.module import LitVAE
from svhn_vae.training.update import Schedule
from test_checkpoints import assert_same, left, train, train_until, undisturbed  # noqa: F401  a fixture of all tests

STEPS = 1000


def test_by_itself_it_changes_nothing():
    assert {Schedule(warmup=0.0, final=1.0).factor(step, STEPS) for step in range(STEPS + 1)} == {1.0}


def test_it_rises_linearly_and_falls_by_half_a_cosine():
    schedule = Schedule(warmup=0.1, final=0.2)
    factors = [schedule.factor(step, STEPS) for step in range(STEPS + 1)]
    for step in (0, 30, 99):
        assert factors[step] == pytest.approx((step + 1) / 101)
    for step in (100, 325, 550, 1000):
        assert factors[step] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * (step - 100) / 900)) / 2)
    assert max(factors) == factors[100] == 1
    assert factors[-1] == pytest.approx(0.2)
    assert schedule.factor(STEPS + 7, STEPS) == factors[-1]


@pytest.mark.parametrize("name", ["warmup", "final"])
def test_bad_settings_say_what_was_expected(name):
    with pytest.raises(ValueError, match=rf"schedule\.{name} must be in 0\.\.1, got 2"):
        Schedule(**{"warmup": 0.0, "final": 1.0, name: 2})


def test_a_training_ends_with_the_rate_that_is_left(tmp_path):
    """Three updates an epoch; the rate is that of the update after the last."""
    train(tmp_path, "trainer.max_epochs=2", "schedule.warmup=0.5", "schedule.final=0.1", "optimizer.lr=0.01")
    [state] = read_checkpoint(RunFolder(tmp_path).last_checkpoint)["optimizer_states"]
    [group] = state["param_groups"]
    assert group["initial_lr"] == 0.01
    assert group["lr"] == pytest.approx(0.001)


def test_with_ema_what_is_kept_is_the_average_of_the_weights(tmp_path, monkeypatch):
    """By its formula, from the weights after each update; the first update's are its beginning."""
    seen: list[dict[str, torch.Tensor]] = []
    training_step = LitVAE.training_step

    def noted(self: LitVAE, batch, batch_idx):
        training_step(self, batch, batch_idx)
        seen.append({name: value.detach().clone() for name, value in self.named_parameters()})

    monkeypatch.setattr(LitVAE, "training_step", noted)
    train(tmp_path, "trainer.max_epochs=2", "ema=0.7")
    averages = seen[:1]
    for weights in seen[1:]:
        averages.append({name: 0.7 * value + 0.3 * weights[name] for name, value in averages[-1].items()})
    assert len(seen) == 6
    for path in (RunFolder(tmp_path).last_checkpoint, RunFolder(tmp_path).best_checkpoint):
        kept = read_checkpoint(path)
        step = kept["global_step"] - 1
        for name, value in averages[step].items():
            torch.testing.assert_close(kept["state_dict"][name], value)
            assert not torch.equal(kept["state_dict"][name], seen[step][name])


def test_a_training_with_ema_continues_to_the_same_end(tmp_path, monkeypatch):
    train(tmp_path / "alone", "ema=0.7")
    train_until(11, tmp_path / "stopped", monkeypatch, "ema=0.7")
    train(tmp_path / "stopped", "ema=0.7")
    assert_same(left(tmp_path / "stopped"), left(tmp_path / "alone"))
