"""A run in two processes: the result of one, one folder, one voice; and what becomes of it when something happens.

Tolerances: sums over a batch are taken in another order, so that float32 results differ in their last places.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import REPO, composed
from svhn_vae.experiment.build import build_trainer
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.history import read_history
from test_end_to_end import TINY, runs, train

TWO = ("trainer.strategy=ddp", "trainer.devices=2")
FEW = ("data.num_train=410", "data.num_test=60", "batch_size=50", "pca.n_components=20", "iw_samples=0")
SMALL = (*TINY, *FEW, "variance=logvar", "optimizer=sgd", "optimizer.lr=1e-6")
# Every layer that sees other images of the batch: with batch normalisation and dropout, and without.
SWEEP = ("-m", "model.normalisation=batch,layer", "model.dropout=0.2", *SMALL, "trainer.max_epochs=6")
TOLERANCE = 1e-5
ENDLESS = (*SMALL, "trainer.max_epochs=5000", *TWO)


def begun(folder: Path, *arguments: str) -> subprocess.Popen:
    """The command in a session of its own, as a terminal starts it; it has written a checkpoint."""
    command = [sys.executable, str(REPO / "src" / "train.py"), *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not list(folder.rglob("last.ckpt")) and process.poll() is None:
        time.sleep(0.02)
    return process


def ranks_of(pid: int) -> list[int]:
    """The processes that it has spawned, in order."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if parent == pid and "spawn_main" in command:
            found.append(int(path.name))
    return sorted(found)


def wait_for_the_end_of(pids: list[int], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path, str, str]:
    """The sweep in one process; and in two, where its first job gets a Ctrl-C and is continued. The second's prints."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    done = train(one, *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    process = begun(two, *SWEEP, *TWO)
    ranks = ranks_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # all processes get it
    interrupted, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, interrupted
    assert len(ranks) == 2
    wait_for_the_end_of(ranks)
    assert [status["status"] for status in runs(two).values()] == ["interrupted"]
    done = train(two, *SWEEP, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return one, two, interrupted, done.stdout


def both(pair, pattern: str) -> list[tuple[Path, Path]]:
    """The same file of the same run, in both folders: a number of devices is no part of a run's name."""
    one, two = pair[:2]
    names = sorted(path.relative_to(one) for path in one.glob(f"outputs/default/*/{pattern}"))
    assert names == sorted(path.relative_to(two) for path in two.glob(f"outputs/default/*/{pattern}"))
    assert len(names) == 2
    return [(one / name, two / name) for name in names]


def test_two_processes_come_to_the_weights_of_one(pair):
    for files in both(pair, "checkpoints/last.ckpt"):
        one, two = (torch.load(path, weights_only=True)["state_dict"] for path in files)
        assert set(one) == set(two)
        for name, expected in one.items():
            difference, size = (two[name] - expected).float().norm(), expected.float().norm()
            assert difference <= TOLERANCE * size + 1e-8, name  # biases before a normalisation are rounding alone


def test_their_metrics_are_those_of_one(pair):
    for one, two in both(pair, "history.csv"):
        rows, others = read_history(one), read_history(two)
        assert len(rows) == len(others) == 6
        for expected, row in zip(rows, others, strict=True):
            assert set(row) == set(expected)
            for name in set(row) - {"seconds"}:
                assert row[name] == pytest.approx(expected[name], rel=TOLERANCE, abs=1e-4), name


def test_they_speak_with_one_voice(pair):
    _, _, interrupted, printed = pair
    assert interrupted.count("stopping after this epoch; once more to leave at once") == 1
    assert re.search(r"\n  interrupted after \d+ epochs: the same command continues it\n", interrupted)
    assert printed.count("continues from") == 1
    assert printed.count("bits/dim on synthetic data, trained in") == 2


def test_they_leave_the_files_of_one(pair):
    files = [{path.relative_to(folder).as_posix() for path in folder.rglob("*")} for folder in pair[:2]]
    one, two = ({name for name in names if "tfevents" not in name} for names in files)
    assert two == one


def test_a_killed_rank_ends_the_run_in_a_line(tmp_path):
    process = begun(tmp_path, *ENDLESS)
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert f"failed: process {ranks[1]}, rank 1 of 2 that train the run, was killed by SIGKILL" in printed
    assert process.returncode == 1
    assert [status["status"] for status in runs(tmp_path).values()] == ["failed"]
    wait_for_the_end_of(ranks)


def test_a_second_signal_ends_all_of_it_at_once(tmp_path):
    process = begun(tmp_path, *ENDLESS)
    ranks = ranks_of(process.pid)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    wait_for_the_end_of(ranks)


def test_nobody_trains_on_when_the_command_was_killed(tmp_path):
    process = begun(tmp_path, *ENDLESS)
    ranks = ranks_of(process.pid)
    process.kill()
    process.communicate()
    wait_for_the_end_of(ranks)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=2"], "trainer.devices must be 1, got 2: start one run per device, or one on all of"),
        (["trainer=ddp", "trainer.devices=auto"], "trainer.devices must be a number of devices of this machine, 1 or"),
        (["trainer=ddp", "trainer.devices=-1"], "trainer.devices must be a number of devices"),
        (["trainer=ddp", "batch_size=101"], "batch_size must be a multiple of trainer.devices=2, which share it, got"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_a_line(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        build_trainer(composed(*overrides), RunFolder(tmp_path))
    assert str(caught.value).startswith(message)


def test_divergence_is_the_result_that_it_is_in_one_process(tmp_path):
    arguments = (*SMALL, "optimizer=adam", "optimizer.lr=1e4", "skips.max_skips=3")
    for study in (("study=one",), ("study=two", *TWO)):
        assert train(tmp_path, *arguments, *study).returncode == 0
    [one], [two] = (runs(tmp_path, study).values() for study in ("one", "two"))
    assert one["status"] == two["status"] == "diverged"
    assert (two["step"], two["reason"].partition(";")[0]) == (one["step"], one["reason"].partition(";")[0])
    assert two["state"]["num_skipped"] == one["state"]["num_skipped"]
