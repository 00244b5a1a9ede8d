"""The benchmark measures what it says: as many updates of the same model, ratios within a round."""

import json

import pytest

from conftest import composed
from stress.forked import command
from svhn_vae.commands import bench
from svhn_vae.experiment.configuration import quiet

SMALL = ("data=synthetic", "data.num_train=220", "data.num_test=20", "network_scale=0.03125", "pca.n_components=20",
         "batch_size=50", "trainer.accelerator=cpu")  # fmt: skip


def test_both_ways_are_timed_for_as_many_updates_of_the_same_model(tmp_path, monkeypatch):
    quiet()
    asked, bare_loop = [], bench.bare_loop

    def counted(*given):
        loop = bare_loop(*given)

        def updates(num: int) -> float:
            assert loop(num) > 0
            asked.append(num)
            return 4.0

        return updates

    monkeypatch.setattr(bench, "bare_loop", counted)
    found = bench.timed(composed(*SMALL, f"cache={tmp_path}"), tmp_path / "run", num_epochs=2, num_rounds=3)
    assert asked == [6] * 4  # 2 epochs of 3 updates, and the first round does not count
    assert found["images/s"] == pytest.approx(50 / (found["ms"] / 1000))
    assert found["of the bare loop"] == pytest.approx(4.0 / 6 / (found["ms"] / 1000), rel=0.9)


def test_the_command_leaves_a_table_and_a_file(tmp_path):
    small = f"sizes.demo={{overrides:[{','.join(map(repr, SMALL))}],epochs:1}}"
    done = command(
        "bench", tmp_path, "device=cpu", "repeats=2", small, "~sizes.post", "~variants.bf16", "~variants.bf16_compiled"
    )
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "outputs" / "bench").iterdir()
    [row] = json.loads(path.read_text(encoding="utf-8"))["updates"]
    assert 0 < row["of the bare loop"] < 20
    assert "of the bare loop" in done.stdout
