"""A sweep killed outright three times and continued is the sweep left alone; the long version is stress/kill.py."""

import random
import re
import shutil
import signal
from functools import partial

import pytest
import torch

from stress.faults import STUDY
from stress.forked import train
from stress.kill import SWEEP, differing, left_alone, watched

# Where it is killed, one after the other: in the first run's checkpoints, at its end, in the second run's training.
PLACES = (
    r"relu_eps.*checkpoints/",
    r"relu_eps.*(per_image|calibration|figures|result)",
    r"logvar.*(checkpoints|status)",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return left_alone(tmp_path_factory.mktemp("alone") / "alone")


def test_a_sweep_killed_three_times_ends_as_if_left_alone(alone, tmp_path):
    rng, folder = random.Random(0), tmp_path / "killed"
    for pattern in PLACES:
        n = rng.randint(1, sum(bool(re.search(pattern, call)) for call in alone.calls))
        done = train(folder, *SWEEP, prepare=partial(watched, folder, n, pattern))
        assert done.returncode == -signal.SIGKILL, done.printed
    done = train(folder, *SWEEP)
    assert done.returncode == 0, done.printed
    assert differing(folder, alone) == []
    assert "Traceback" not in done.printed


def test_the_comparison_sees_a_difference(alone, tmp_path):
    folder = shutil.copytree(alone.folder, tmp_path / "copy")
    run = next((folder / STUDY).glob("dense-logvar-*"))
    assert differing(folder, alone) == []
    path = run / "result.json"
    path.write_text(re.sub(r"(\.\d\d)\d", r"\g<1>x", path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in run.glob("checkpoints/*.ckpt"):
        content = torch.load(path, weights_only=True)
        next(iter(content["state_dict"].values())).view(-1)[0] += 1e-6
        torch.save(content, path)
    (run / "status.json.host.1.partial").touch()
    found = {name.rpartition("/")[2] for name in differing(folder, alone)}
    assert found == {"best.ckpt", "last.ckpt", "result.json", "status.json.host.1.partial"}
