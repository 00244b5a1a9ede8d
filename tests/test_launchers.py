"""Hydra's other launchers, by the real command: the same runs, tables and exit codes as with its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from conftest import REPO
from stress.fingerprint import fingerprints
from stress.forked import train
from svhn_vae.errors import UserError
from svhn_vae.experiment.preflight import jobs_of

TRAIN = REPO / "src" / "train.py"
SWEEP = (
    "pca.n_components=20,300", "seed=0,1",  # 300 components need more images
    "data=synthetic", "data.num_train=200", "data.num_test=40", "trainer=demo", "network_scale=0.03125",
    "trainer.max_epochs=40", "batch_size=90", "iw_samples=0", "judge=false", "prior=standard", "~callbacks.pictures",
    "callbacks.progress.seconds_between_lines=1000",  # on a busy machine a run takes longer than 30 s
)  # fmt: skip
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = ("hydra/launcher=submitit_local",)
STUDY = Path("outputs") / "default"


def sweep(folder: Path, *launcher: str, words: Sequence[str] = SWEEP) -> subprocess.Popen:
    """The command, in a process group of its own, which a terminal's Ctrl-C is for."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", *launcher, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    encoding="utf-8")  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it printed."""
    printed, _ = process.communicate(timeout=300)
    assert "Traceback" not in printed
    assert "warn" not in printed.lower()
    return process.returncode, printed


def until(found, process: subprocess.Popen):
    """What `found` returns once that is something."""
    while process.poll() is None:
        if there := found():
            return there
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def holder(folder: Path) -> int | None:
    """The process of a run that has a checkpoint."""
    for path in (folder / STUDY).glob("*/checkpoints/last.ckpt"):
        lock = folder / STUDY / ".locks" / f"{path.parents[1].name}.json"
        if lock.is_file():
            return json.loads(lock.read_text(encoding="utf-8"))["pid"]
    return None


def list_of_ends(printed: str) -> str:
    """What is under the table."""
    return printed.partition("report: ")[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, str]:
    """The sweep with Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    done = train(folder, "-m", *SWEEP, exact=True)
    assert done.returncode == 1
    assert "failed, 2 of 4 jobs" in done.stdout
    return folder, done.stdout


def test_joblibs_jobs_are_killed_continued_and_come_to_what_they_come_to_alone(alone, tmp_path):
    """Bit for bit, and the command comes to the same end."""
    process = sweep(tmp_path, *JOBLIB)
    os.kill(until(lambda: holder(tmp_path), process), signal.SIGKILL)
    code, printed = ended(process)
    assert code == 1
    assert "a process died, killed or out of memory" in printed
    assert "its process died, killed or out of memory: the same command continues it" in list_of_ends(printed)
    assert "not begun, the same command runs them:" in list_of_ends(printed)
    code, printed = ended(sweep(tmp_path, *JOBLIB))
    assert fingerprints(tmp_path / STUDY) == fingerprints(alone[0] / STUDY) != {}
    assert (code, list_of_ends(printed)) == (1, list_of_ends(alone[1]))
    lines = printed.partition("default: synthetic data")[0].splitlines()
    assert sum(line.endswith(": begins") for line in lines) == 4
    assert all(re.match(r"\S+-seed[01]-[0-9a-f]{8}: (begins|continues .*|test .*|failed: .*)$", line) for line in lines)
    assert len(json.loads((tmp_path / STUDY / "study.json").read_text(encoding="utf-8"))["commands"]) == 2
    assert not list((tmp_path / STUDY).glob(".stop-*"))


def test_submitits_jobs_are_preempted_interrupted_continued_and_come_to_the_same(alone, tmp_path):
    """Of one seed: each job is a process, which takes 10 s to start."""
    words = ["seed=0" if word == "seed=0,1" else word for word in SWEEP]
    process = sweep(tmp_path, *SUBMITIT, words=words)
    os.kill(until(lambda: holder(tmp_path), process), signal.SIGUSR2)  # as SLURM does before a job's time is up
    until(lambda: said(tmp_path, "continues from"), process)
    os.killpg(process.pid, signal.SIGINT)
    code, printed = ended(process)
    assert said(tmp_path, "interrupted after")
    assert code == 128 + signal.SIGINT
    assert printed.count("stopping after this epoch; once more to leave at once") == 1
    assert "interrupted, the same command continues them:" in list_of_ends(printed)
    code, printed = ended(sweep(tmp_path, *SUBMITIT, words=words))
    due = {name: value for name, value in fingerprints(alone[0] / STUDY).items() if "-seed0-" in name}
    assert fingerprints(tmp_path / STUDY) == due != {}
    assert code == 1
    assert "failed, 1 of 2 jobs" in printed
    assert not list((tmp_path / STUDY).glob(".stop-*"))


def said(folder: Path, text: str) -> bool:
    """Whether one of submitit's jobs has printed it."""
    return any(text in path.read_text(encoding="utf-8") for path in (folder / STUDY / ".submitit").glob("*/*.out"))


@pytest.mark.parametrize(
    ("launcher", "line"),
    [
        ("joblib", "hydra/launcher=joblib needs a plugin: pip install '.[joblib]' in the checkout"),
        ("basik", "hydra/launcher=basik is no choice: did you mean basic?"),
    ],
)
def test_a_launcher_that_is_not_there_is_refused_in_a_line(launcher, line, monkeypatch):
    Plugins.instance()
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml")
    with pytest.raises(UserError) as refused:
        jobs_of([f"hydra/launcher={launcher}", "seed=0,1"], is_sweep=True)
    assert str(refused.value) == line
