"""The benchmark measures what it says: the same network, the same number of updates, ratios within a round."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import basis, clock, commands, rivals, training
from conftest import composed
from svhn_vae.experiment.build import build_vae
from svhn_vae.experiment.turn import quiet

SMALL = rivals.Size(num_components=20, width=64, latent_dim=16, batch_size=50)
NETWORK = ("network_scale=0.03125", "pca.n_components=20")
OVERRIDES = (*NETWORK, "data=synthetic", "batch_size=50", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def without_notices() -> None:
    quiet()


def test_the_rival_is_the_posts_network():
    """Kept by hand beside ours: as many trained numbers, at the post's size."""
    ours = build_vae(composed("variance=relu_eps"))
    num = sum(weights.numel() for weights in ours.parameters())
    bare = rivals.Bare(rivals.Size(500, 2048, 512, 1000))
    assert sum(weights.numel() for weights in bare.parameters()) == num == 47_213_020 + 1_276_000


def test_its_loss_is_ours():
    """Of weights that are 0: both posteriors are the prior, both sigmas the floor."""
    y = torch.randn(50, 20)
    bare = rivals.Bare(SMALL)
    for weights in bare.parameters():
        torch.nn.init.zeros_(weights)
    due = -torch.distributions.Normal(0.0, rivals.EPSILON**0.5).log_prob(y).sum(1).mean()
    assert bare(y).item() == pytest.approx(due.item(), rel=1e-5)


def test_a_network_of_one_layer_has_the_flops_of_its_product():
    size = SMALL._replace(batch_size=1)
    weights = sum(layer.weight.numel() for layer in rivals.Bare(size).modules() if isinstance(layer, torch.nn.Linear))
    assert rivals.flops_of_update(size) == 6 * weights
    assert rivals.flops_of_update(SMALL) == 50 * 6 * weights


def test_ratios_are_taken_within_a_round():
    timed = clock.in_turns({"bare": [1.0, 2.0, 8.0], "other": [2.0, 2.0, 16.0]})
    assert timed["bare"].relative_speed == 1
    assert timed["other"].relative_speed == 0.5
    assert timed["other"].median == 2.0


def test_all_ways_are_timed_for_as_many_updates(tmp_path):
    fit = training.fit_of(composed(*OVERRIDES, f"cache={tmp_path}"), tmp_path / "run", 200)
    assert fit.size == SMALL
    asked = []

    def way(num: int) -> float:
        asked.append(num)
        return 4.0

    timed = training.timed(fit, {**training.others(fit), "counted": way}, num_epochs=2, num_rounds=3)
    assert asked == [8] * 4  # 2 epochs of 4 updates, and the first round does not count
    assert timed["counted"].seconds == [0.5] * 3
    assert list(timed) == [
        "bare loop",
        "ordinary Lightning, DataLoader",
        "scikit-learn on the fly",
        "counted",
        training.OURS,
    ]
    assert all(len(each.seconds) == 3 and min(each.seconds) > 0 for each in timed.values())
    assert fit.trainer.global_step == 4 * 8


def test_losses_of_precisions_can_be_compared(tmp_path):
    curves = [
        training.losses(training.fit_of(composed(*OVERRIDES, f"cache={tmp_path}", *own), tmp_path / "run", 200), 2)
        for own in ((), ("trainer.precision=bf16-mixed",), ("seed=1",))
    ]
    assert all(len(curve) == 2 for curve in curves)
    assert curves[0][1] == pytest.approx(curves[1][1], rel=0.05)
    assert len({curve[0] for curve in curves}) == 3


def test_the_spectrum_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(basis, "NUM_PIXELS", 48)
    assert basis.disagreement(100) < 1e-9


def test_a_command_that_fails_says_what_it_printed(tmp_path):
    place = commands.Workplace(tmp_path, "cpu")
    with pytest.raises(RuntimeError, match="refused: sede is no setting"):
        place.train("sede=1")


def test_marks_are_the_jobs_first_updates(tmp_path):
    place = commands.Workplace(tmp_path, "cpu")
    marks = place.train("seed=0,1", "data.num_train=300", "data.num_test=100", *NETWORK, is_sweep=True)
    assert len(marks) == 2
    first_end, _ = place.ends("default")
    assert 0 < marks[0] < marks[1]
    assert (tmp_path / "times").read_text().count("\n") == 2
    assert float((tmp_path / "times").read_text().split()[0]) < first_end


def test_a_whole_run_is_measured_by_what_it_left(tmp_path):
    place = commands.Workplace(tmp_path, "cpu")
    found = commands.whole_run(place, *commands.TINY, "data.num_train=300", "data.num_test=100", *NETWORK)
    assert 0.1 < found["GB of memory"] == place.peak_gigabytes < 10
    assert found["GB of the device's"] is None
    due = commands.POSTS_IMAGES / found["images/s"]
    assert found["seconds for the post's 567,000 images x 2,000 epochs"] == pytest.approx(due)
    assert found["seconds of training to a validation loss of -97.17"] is None  # y has unit variance here


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "parts=[training,nonsense]",
            "failed: parts must be of training, precision, pca, start, sweep, together, report, whole_run, got",
        ),
        ("device=tpu", "failed: device must be auto, cpu or cuda, got tpu"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(word, line, tmp_path):
    script = Path(__file__).parents[1] / "src" / "bench.py"
    done = subprocess.run([sys.executable, str(script), word], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
