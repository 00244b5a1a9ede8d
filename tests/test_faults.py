"""Faults end in a line, lose nothing and leave nothing half-written; the long versions are in stress/."""

import json
import re
import shutil
from functools import partial

import pytest
import torch

from stress.faults import (
    SHORT,
    STUDY,
    breaking,
    disturbed,
    half_written,
    left_alone,
    limiting,
    removing,
    replacing_data,
    running_out,
    together,
    untouched,
    write_mat,
)
from stress.fingerprint import fingerprints
from stress.forked import Command, train, without_pictures

SWEEP = ("-m", "variance=relu_eps,shared", *SHORT)


# --- the disk, memory, the clock --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return left_alone(tmp_path_factory.mktemp("alone"))


def test_what_a_run_can_do_without_cannot_be_written(alone, tmp_path):
    """Its curves and its study's file: both are said, and the run goes on."""
    pattern = r"study\.json|write .*events"
    broken = partial(breaking, tmp_path / "run", 1, "ENOSPC", pattern=pattern, ever_after=True)
    ended = disturbed(tmp_path / "run", alone, broken)
    assert "TensorBoard cannot be written" in ended.line
    assert "the command cannot be noted in" in ended.line
    assert ended.wrong == []


def test_a_study_that_cannot_be_written(alone, tmp_path):
    """Finished runs are told all the same, another says so itself."""
    folder = shutil.copytree(alone.base, tmp_path / "all")
    before = untouched(folder / STUDY / alone.finished)
    broken = partial(breaking, folder, 1, "EROFS", ever_after=True, pattern=" outputs/")
    finished, other = (
        train(folder, *SHORT, *words, prepare=partial(together, without_pictures, broken))
        for words in (["variance=shared"], [])
    )
    assert (finished.returncode, finished.printed.count("the command cannot be noted in")) == (0, 1), finished.printed
    assert "  done already; rerun=true makes it anew" in finished.printed
    assert other.returncode == 1
    assert "  failed: [Errno 30] Read-only file system: " in other.printed
    assert untouched(folder / STUDY / alone.finished) == before


def test_a_file_that_grows_too_large(alone, tmp_path):
    """A limit of the operating system, which no code of ours knows of; a full disk is the same."""
    ended = disturbed(tmp_path / "run", alone, partial(limiting, 1_000_000))
    assert "File too large" in ended.line
    assert ended.wrong == []


def test_a_folder_that_vanishes(alone, tmp_path):
    """Where the next write could make half of the folder anew."""
    prepare = partial(removing, tmp_path / "run", f"{STUDY}/*relu_eps*", r"unlink .*analogies")
    ended = disturbed(tmp_path / "run", alone, prepare)
    assert "failed: " in ended.line
    assert "vanished while its run was written" in ended.line
    assert ended.wrong == []


def test_out_of_memory_the_sweep_goes_on(alone, tmp_path):
    """The machine's in the first run, the device's in the second; the third has run."""
    folder = shutil.copytree(alone.base, tmp_path / "sweep")
    sweep = ("-m", "variance=relu_eps,logvar,shared", *SHORT)
    done = train(folder, *sweep, prepare=partial(running_out, MemoryError, torch.OutOfMemoryError))
    assert done.returncode == 1
    reason = "out of memory with batch_size=50: lower batch_size, network_scale or data.limit"
    assert re.findall(r"^  (?:failed: (.*)|done already)", done.printed, re.MULTILINE) == [reason, reason, ""]
    assert "Traceback" not in done.printed
    assert half_written(folder) == []
    assert set(fingerprints(folder / STUDY)) == {name for name in alone.found if alone.finished in name}


def test_two_sweeps_at_once_run_everything_once(alone, tmp_path):
    folder = tmp_path / "sweep"
    commands = [Command(folder, *SWEEP, prepare=without_pictures) for _ in range(2)]
    printed = [command.wait() for command in commands]
    assert [done.returncode for done in printed] == [0, 0], printed
    text = "".join(done.printed for done in printed)
    assert fingerprints(folder / STUDY) == alone.found
    assert half_written(folder) == []
    assert text.count(" bits/dim on synthetic data, trained in") == 2


def test_a_data_file_replaced_in_mid_sweep(tmp_path):
    """What was read at the start is what all runs are of; another command says that the images are others."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name, num, seed in (("train_32x32.mat", 120, 0), ("test_32x32.mat", 20, 1), ("other.mat", 120, 2)):
        write_mat(folder / name, num, seed)
    own = ["data=svhn", "data.root=.", "data.verify=none"]
    sweep = [*(word for word in SWEEP if not word.startswith("data")), *own]
    replacing = partial(replacing_data, folder, folder / "other.mat")
    done = train(folder, *sweep, prepare=partial(together, without_pictures, replacing))
    assert done.returncode == 0, done.printed
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("status.json")]
    assert [fact["status"] for fact in facts] == ["done", "done"]
    assert len({fact["data"] for fact in facts}) == 1
    before = fingerprints(folder / STUDY)
    again = train(folder, *sweep)
    assert again.returncode == 1
    assert again.printed.count("  failed: this configuration has run already on other images") == 2
    assert "Traceback" not in again.printed
    assert fingerprints(folder / STUDY) == before
