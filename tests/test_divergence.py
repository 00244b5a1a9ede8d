"""Updates that were left out are counted, and too many of them are divergence. A run that diverged keeps its last
finite state, with pictures and scores of it, and leaves the test images alone."""

import json
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from svhn_vae.errors import Diverged
from svhn_vae.experiment import run as job
from svhn_vae.model.coordinates import Features
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.checkpoints import read_checkpoint
from svhn_vae.training.module import head_state
from svhn_vae.training.update import Record, Skips, Update
from test_checkpoints import tiny_job
from test_lit import features, fitted_module


def spoil(monkeypatch, is_bad: Callable[[int], bool]) -> None:
    """The loss of some steps is NaN."""
    update, steps = Update.__call__, count()

    def spoilt(self: Update, batch: Features, epoch: torch.Tensor) -> Record:
        return update(self, batch._replace(y=batch.y * (math.nan if is_bad(next(steps)) else 1)), epoch)

    monkeypatch.setattr(Update, "__call__", spoilt)


@pytest.fixture
def diverging(monkeypatch):
    """Every loss is NaN from a step on."""
    monkeypatch.setattr(job, "score_test", lambda _: pytest.fail("the test images were touched"))
    return lambda first: spoil(monkeypatch, lambda step: step >= first)


def test_the_last_finite_state_stays(diverging, tmp_path):
    diverging(4)  # in the second of epochs of three steps
    whole = tiny_job(tmp_path / "run", "skips.max_skips=3")
    with pytest.raises(Diverged, match="the loss was not finite at step 4, and so for 4 steps in a row") as error:
        job.run(whole)
    assert error.value.step == 4
    assert error.value.state["head"]["sigma_finite_fraction"] == 1
    left = json.loads((tmp_path / "run" / "partial_result.json").read_text(encoding="utf-8"))
    assert left["checkpoint"] == "best.ckpt"
    assert math.isfinite(left["metrics"]["val/bits_per_dim"])
    assert not any(name.startswith("test/") for name in left["metrics"])
    assert {"samples.png", "reconstructions.png"} <= {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())
    assert read_checkpoint(whole.folder.last_checkpoint)["global_step"] == 6


def test_what_cannot_be_scored_does_not_hide_the_divergence(diverging, tmp_path, monkeypatch, capsys):
    diverging(4)
    monkeypatch.setattr(job.gallery, "draw", lambda *_: 1 / 0)
    with pytest.raises(Diverged):
        job.run(tiny_job(tmp_path / "run", "skips.max_skips=3"))
    assert "its last finite state could not be scored: ZeroDivisionError: " in capsys.readouterr().out


def test_a_few_bad_batches_are_left_out_and_counted(tmp_path, monkeypatch):
    spoil(monkeypatch, lambda step: step in (4, 5, 9))
    whole = tiny_job(tmp_path / "run", "skips.max_skips=2")
    job.train(whole)
    assert whole.folder.facts["learnt"]["train/skipped_updates"] == 3
    assert math.isfinite(whole.folder.facts["learnt"]["train/objective"])


def test_the_heads_state_is_its_standing_and_the_range_of_sigma():
    module = fitted_module("variance=fixed", "variance.sigma=0.5")
    state = head_state(module.vae, features(module))
    assert state["sigma_min"] == state["sigma_max"] == pytest.approx(0.5)
    assert state["dead_fraction"] == 0
    assert module.vae.training
    module.vae.variance.constant.fill_(math.nan)
    state = head_state(module.vae, features(module))
    assert (state["sigma_min"], state["sigma_max"], state["sigma_finite_fraction"]) == (None, None, 0)


def test_the_best_checkpoint_is_taken_and_where_it_is_damaged_the_last(tmp_path):
    vae, folder = fitted_module().vae, RunFolder(tmp_path)
    assert job.load_last_finite(vae, folder) is None
    folder.checkpoints.mkdir()
    torch.save({"state_dict": vae.state_dict()}, folder.last_checkpoint)
    folder.best_checkpoint.write_bytes(b"garbage")
    assert job.load_last_finite(vae, folder) == folder.last_checkpoint
    torch.save({"state_dict": vae.state_dict()}, folder.best_checkpoint)
    assert job.load_last_finite(vae, folder) == Path(folder.best_checkpoint)


def noted(*losses: float, max_skips: int = 2, size: float = 0.0) -> Skips:
    skips = Skips(max_gradient_norm=None, max_skips=max_skips)
    skips.begin_epoch()
    for step, loss in enumerate(losses):
        skips.note(step, is_left_out=not math.isfinite(loss + size), loss=loss, size=size)
    return skips


def test_only_skips_in_a_row_are_too_many():
    skips = noted(*[1.0, math.nan, math.inf] * 3)
    assert (skips.num_skipped, skips.num_in_a_row, skips.are_too_many) == (6, 2, False)
    skips = noted(*[1.0, math.nan, math.inf] * 3, math.nan)
    assert (skips.are_too_many, skips.first_in_a_row) == (True, 7)
    assert skips.in_words() == (
        "the loss was not finite at step 7, and so for 3 steps in a row; the last finite loss was 1.0 nats"
    )
    later = noted(*[1.0, math.nan, math.inf] * 3, *[math.nan] * 9, 1.0)  # after the one too many: not counted
    assert later.state_dict() == skips.state_dict()
    other = noted()
    other.load_state_dict(skips.state_dict())
    assert other.in_words() == skips.in_words()


def test_the_reason_is_the_firsts():
    assert "the gradient was not finite at step 0" in noted(1.0, size=math.inf).in_words()
    skips = Skips(max_gradient_norm=5.0, max_skips=0)
    skips.note(4, is_left_out=True, loss=1.0, size=6.0)
    assert skips.in_words().startswith("the gradient's norm was 6 at step 4, above skips.max_gradient_norm, and so")


def test_an_epoch_without_a_finite_loss():
    assert [noted(*losses).are_all_of_an_epoch for losses in ([math.nan], [math.nan, 1.0], [])] == [True, False, False]
