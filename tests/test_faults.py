"""Faults end in a line, lose nothing and leave nothing half-written; the long versions are in stress/."""

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from stress import corruption, malice
from stress.corruption import STUDY, kinds
from stress.faults import (
    SHORT,
    breaking,
    disturbed,
    half_written,
    jumping_back,
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
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console

SWEEP = ("-m", "variance=relu_eps,shared", *SHORT)


# --- the disk, memory, the clock --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return left_alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    ("pattern", "n", "name", "ever_after", "said"),
    [
        (r"write .*last\.ckpt", 2, "ENOSPC", False, "failed: [Errno 28] No space left on device"),
        (r"replace .*status\.json", 1, "EROFS", True, "failed: [Errno 30] Read-only file system"),
        (r"write .*events", 20, "ENOSPC", False, "TensorBoard cannot be written"),
    ],
)
def test_a_write_that_fails(alone, tmp_path, pattern, n, name, ever_after, said):
    """Once, or for good from then on."""
    prepare = partial(breaking, tmp_path / "run", n, name, ever_after=ever_after, pattern=pattern)
    ended = disturbed(tmp_path / "run", alone, prepare)
    assert said in ended.line
    assert ended.wrong == []


def test_a_study_that_cannot_be_written(alone, tmp_path):
    """Its file alone: the runs go on. All of it: finished runs are told all the same, another says so itself."""
    folder, notice = tmp_path / "file", "the command cannot be noted in"
    ended = disturbed(folder, alone, partial(breaking, folder, 1, "EROFS", pattern=r"study\.json"))
    assert notice in ended.line
    assert ended.wrong == []
    folder = shutil.copytree(alone.base, tmp_path / "all")
    before = untouched(folder / STUDY / alone.finished)
    broken = partial(breaking, folder, 1, "EROFS", ever_after=True, pattern=" outputs/")
    finished, other = (
        train(folder, *SHORT, *words, prepare=partial(together, without_pictures, broken))
        for words in (["variance=shared"], [])
    )
    assert (finished.returncode, finished.printed.count(notice)) == (0, 1), finished.printed
    assert "  done already; rerun=true makes it anew" in finished.printed
    assert other.returncode == 1
    assert "  failed: [Errno 30] Read-only file system: " in other.printed
    assert untouched(folder / STUDY / alone.finished) == before


def test_a_file_that_grows_too_large(alone, tmp_path):
    """A limit of the operating system, which no code of ours knows of."""
    ended = disturbed(tmp_path / "run", alone, partial(limiting, 1_000_000))
    assert "File too large" in ended.line
    assert ended.wrong == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"open .*last\.ckpt", "No such file or directory"),
        (r"unlink .*analogies", "vanished while its run was written"),
    ],
)
def test_a_folder_that_vanishes(alone, tmp_path, pattern, said):
    """Where the next write fails, and where it could make half of the folder anew."""
    ended = disturbed(tmp_path / "run", alone, partial(removing, tmp_path / "run", f"{STUDY}/*relu_eps*", pattern))
    assert "failed: " in ended.line
    assert said in ended.line
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


def test_a_clock_that_jumps_back(alone, tmp_path):
    folder = shutil.copytree(alone.base, tmp_path / "run")
    assert train(folder, *SHORT, prepare=partial(together, without_pictures, jumping_back)).returncode == 0
    assert fingerprints(folder / STUDY) == alone.found


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


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run, caches and .mat files."""
    folder = tmp_path_factory.mktemp("damaged") / "whole"
    corruption.make_files(folder)
    return folder


NAMES = (
    ".hydra/config.yaml", "basis.safetensors", "best.ckpt", "cached baselines", "cached judge", "cached moments",
    "compressed.mat", "config.yaml, its data", "history.csv", "last.ckpt",
    "order_of_learning.safetensors",
    "per_image.safetensors", "plain.mat", "prior.safetensors",
    "representation.safetensors", "result.json", "status.json", "study.json",
)  # fmt: skip


def test_every_kind_of_file_is_damaged(whole):
    assert sorted(kinds(whole)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_never_something_else(whole, name):
    _, wrong = corruption.tried(kinds(whole)[name], 5, num_flipped=3)
    assert wrong == []


@pytest.mark.parametrize("name", corruption.REPORTED)
def test_a_report_of_damaged_files(whole, name):
    content = kinds(whole)[name].path.read_bytes()
    corruption.reported(whole, name, corruption.Damage("cut off", content[: len(content) // 2]))


def test_a_damaged_result_is_made_anew(whole):
    right = fingerprints(whole / STUDY)
    assert corruption.trained_again(whole, "result.json", 0.5, right).wrong == []


def test_a_damaged_checkpoint_is_set_aside(whole, tmp_path):
    folder, right = tmp_path / "interrupted", fingerprints(whole / STUDY)
    corruption.interrupted(folder)
    ended = corruption.trained_again(folder, "checkpoints/last.ckpt", 0.5, right)
    assert "last.ckpt.damaged" in ended.line
    assert ended.wrong == []


# --- a stranger's files -----------------------------------------------------------------------------------------------

PICKLES = tuple(malice.pickles(Path("nowhere")))


@pytest.mark.parametrize("name", PICKLES)
def test_the_payloads_would_run(tmp_path, name):
    malice.unpickled(malice.pickles(tmp_path)[name])
    assert (tmp_path / malice.MARK).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_is_run(whole, tmp_path, name):
    """Wherever a file is read from; of the kinds of pickles all stand in a checkpoint, a fourth in each other file."""
    kind = kinds(whole)[name]
    right, _ = corruption.read(kind)
    contents = list(malice.pickles(tmp_path).values())
    for content in contents if name == "last.ckpt" else contents[NAMES.index(name) % 4 :: 4]:
        corruption.outcome(kind, corruption.Damage(name, content), right)
    assert os.listdir(tmp_path) == []


def test_texts_that_lead_elsewhere(whole, tmp_path):
    """Of a stranger's study: the report stays in its folder, and shows HTML as text."""
    study = shutil.copytree(whole / STUDY, tmp_path / "outputs" / "study", ignore=shutil.ignore_patterns("report"))
    [run] = [path.parent for path in study.glob("*/result.json")]
    contents = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (run / "result.json", run / "status.json", study / "study.json")
    ]
    for name, text in malice.elsewhere(*contents).items():
        (run / name).write_text(text, encoding="utf-8")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    print_study(study, wide_console())
    page = write_report(study).read_text(encoding="utf-8")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(study / "report") for path in new)
    assert malice.SCRIPT not in page
    assert "&lt;script&gt;" in page
