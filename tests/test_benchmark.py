"""The benchmark measures what it says: the same network, the same number of updates, ratios within a round."""

import json

import pytest
import torch

from benchmarks import updates
from conftest import composed
from stress.forked import command
from svhn_vae.experiment.build import build_vae
from svhn_vae.experiment.configuration import quiet

SMALL = updates.Size(num_components=20, width=64, latent_dim=16, batch_size=50)
NETWORK = ("network_scale=0.03125", "pca.n_components=20")
OVERRIDES = (*NETWORK, "data=synthetic", "batch_size=50", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def without_notices() -> None:
    quiet()


def test_the_bare_network_is_the_posts():
    """Kept by hand beside ours: as many trained numbers, at the post's size."""
    ours = build_vae(composed("variance=relu_eps"))
    num = sum(weights.numel() for weights in ours.parameters())
    network = updates.Bare(updates.Size(500, 2048, 512, 1000))
    assert sum(weights.numel() for weights in network.parameters()) == num == 47_213_020 + 1_276_000


def test_its_loss_is_ours():
    """Of weights that are 0: both posteriors are the prior, both sigmas the floor."""
    y = torch.randn(50, 20)
    network = updates.Bare(SMALL)
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    due = -torch.distributions.Normal(0.0, updates.EPSILON**0.5).log_prob(y).sum(1).mean()
    assert network(y).item() == pytest.approx(due.item(), rel=1e-5)


def test_both_ways_are_timed_for_as_many_updates(tmp_path):
    fit = updates.fit_of(composed(*OVERRIDES, f"cache={tmp_path}"), tmp_path / "run", 200)
    assert fit.size == SMALL
    loop, asked = updates.bare_loop_of(fit), []

    def way(num: int) -> float:
        assert loop(num) > 0
        asked.append(num)
        return 4.0

    ours, others = updates.timed(fit, way, num_epochs=2, num_rounds=3)
    assert asked == [8] * 4  # 2 epochs of 4 updates, and the first round does not count
    assert others == [0.5] * 3
    assert len(ours) == 3
    assert min(ours) > 0
    assert fit.trainer.global_step == 4 * 8


def test_the_command_leaves_a_table_and_a_file(tmp_path):
    overrides = "'network_scale=0.03125','batch_size=50','pca.n_components=20'"
    small = f"sizes.demo={{overrides:[{overrides}],images:100,images_on_gpu:100,epochs:1}}"
    alone = ("~sizes.post", "~variants.bf16", "~variants.bf16_compiled")
    done = command("bench", tmp_path, "parts=[updates]", "device=cpu", "repeats=2", small, *alone)
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "outputs" / "bench").iterdir()
    [row] = json.loads(path.read_text(encoding="utf-8"))["updates"]
    assert 0 < row["of the bare loop"] < 20
    assert "of the bare loop" in done.stdout


def test_what_cannot_be_meant_is_refused_in_a_line(tmp_path):
    done = command("bench", tmp_path, "parts=[updates,nonsense]")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("failed: parts must be of")
    assert not list(tmp_path.iterdir())
