"""A sweep killed outright three times and continued is the sweep left alone; the long version is stress/kill.py."""

import random
import re
import signal
from functools import partial

import pytest

from stress.fingerprint import fingerprints
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


def test_the_comparison_sees_a_difference(alone):
    """Another seed is another result in all that is compared but the data's picture and the status."""
    other = alone.folder.with_name("other")
    assert train(other, *SWEEP, "seed=1").returncode == 0
    found = fingerprints(other / "outputs" / "default")
    renamed = {re.sub(r"seed1-\w+", "", name): digest for name, digest in found.items()}
    same = {name for name, digest in alone.found.items() if renamed[re.sub(r"seed0-\w+", "", name)] == digest}
    assert {name.rpartition("/")[2] for name in same} <= {
        "data.png", "status.json", "representation.safetensors", "calibration.png", "order_of_learning.png"
    }  # fmt: skip
