"""The learning rate: its formula, and what a training makes of it."""

import math

import pytest

from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import read_checkpoint
from svhn_vae.training.schedule import Schedule
from test_checkpoints import train

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
