"""Damaged files of a run, and a stranger's. Reading gives what was written, or nothing, or an error in one line: never
something else, no traceback, and no code is run."""

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from conftest import composed
from stress import malice
from stress.faults import STUDY, said_wrong, together, told
from stress.fingerprint import fingerprints, of_tensors
from stress.forked import TINY, Done, train, without_pictures
from stress.kill import watched
from svhn_vae.errors import UserError
from svhn_vae.experiment.build import build_module
from svhn_vae.experiment.loading import load_dataset, load_run
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.files import read_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.tensors import load_tensors
from svhn_vae.training.checkpoints import continuation, read_checkpoint, tensors
from svhn_vae.training.module import LitVAE

RUN = ("variance=relu_eps", *TINY, "trainer.max_epochs=2")
TEXTS = ("result.json", "status.json", "study.json")  # which people edit: nothing guards them against a flipped bit


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """A finished run."""
    folder = tmp_path_factory.mktemp("damaged") / "whole"
    done = train(folder, *RUN, prepare=without_pictures)
    assert done.returncode == 0, done.printed
    [status] = folder.glob(f"{STUDY}/*/status.json")
    return RunFolder(status.parent)


# --- what is read -----------------------------------------------------------------------------------------------------


def model_of(run: RunFolder) -> str:
    """What `load_run` gives: its state, and what it makes of an image."""
    vae = load_run(run.path).vae
    with torch.no_grad():
        y = vae.representation(torch.linspace(0, 1, 3072).reshape(1, 3, 32, 32)).y
        made = vae.networks(y, torch.zeros(1, vae.networks.latent_dim))
        sigma = vae.variance(made.params).stddev
    state = vae.state_dict() | dict(vae.representation.named_buffers()) | {"y": y, "sigma": sigma, "mean": made.mean}
    return of_tensors({name: value.contiguous() for name, value in state.items()})


def continued_from(run: RunFolder) -> str | None:
    """The tensors of the checkpoint that a continuation takes; None for a beginning."""
    path = continuation(run, module(), run.facts["data"])
    return None if path is None else of_tensors(dict(tensors(read_checkpoint(path), "")))


@cache
def module() -> LitVAE:
    """The run's, as training builds it."""
    return build_module(composed(*RUN))


def facts_of(run: RunFolder) -> dict | None:
    """Where status.json is damaged, what result.json tells, which is less."""
    kept = ("status", "data", "config", "choices", "cost")
    return {name: value for name, value in run.facts.items() if name in kept} or None


READERS: dict[str, Callable[[RunFolder], object]] = {
    "checkpoints/best.ckpt": model_of,
    "representation.safetensors": model_of,
    "basis.safetensors": model_of,
    "prior.safetensors": model_of,
    ".hydra/config.yaml": lambda run: (model_of(run), load_dataset(run.path, None, other_images=False).digest),
    "checkpoints/last.ckpt": continued_from,
    "per_image.safetensors": lambda run: of_tensors(load_tensors(run.path / "per_image.safetensors")),
    "order_of_learning.safetensors": lambda run: of_tensors(load_tensors(run.path / "order_of_learning.safetensors")),
    "result.json": lambda run: run.result or None,
    "status.json": facts_of,
    "../study.json": lambda run: read_json(run.path.parent / "study.json") or None,
}


def check_read(run: RunFolder, name: str, content: bytes, right: object, *, is_flip: bool = False) -> None:
    """Reads the file with this content, which is put back."""
    path, printed, error = run.path / name, io.StringIO(), ""
    before, others = path.read_bytes(), set(path.parent.iterdir())
    path.write_bytes(content)
    try:
        with contextlib.redirect_stdout(printed):
            found = READERS[name](run)
    except (UserError, OSError) as raised:  # which commands turn into a line
        found, error = None, str(raised)
    finally:
        for new in set(path.parent.iterdir()) - others:
            new.unlink()
        path.write_bytes(before)
    assert len(error.splitlines()) <= 1
    assert len(printed.getvalue().splitlines()) <= 1
    assert found in (None, right) or (is_flip and path.name in TEXTS)


def damages(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cut off at five places, and with each of three bits flipped."""
    rng = random.Random(0)
    for place in range(5):
        yield content[: place * len(content) // 5], False
    for _ in range(3):
        index = rng.randrange(len(content))
        yield content[:index] + bytes([content[index] ^ (1 << rng.randrange(8))]) + content[index + 1 :], True


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_never_something_else(whole, name):
    right = READERS[name](whole)
    assert right is not None
    for content, is_flip in damages((whole.path / name).read_bytes()):
        check_read(whole, name, content, right, is_flip=is_flip)


# --- the same command once more ---------------------------------------------------------------------------------------


def trained_again(run: RunFolder, name: str) -> Done:
    """With a file cut in half."""
    content = (run.path / name).read_bytes()
    (run.path / name).write_bytes(content[: len(content) // 2])
    done = train(run.path.parents[2], *RUN, prepare=without_pictures)
    assert done.returncode == 0
    assert said_wrong(done) == []
    return done


def test_a_damaged_result_is_made_anew(whole, tmp_path):
    shutil.copytree(whole.path.parents[2], tmp_path / "copy")
    trained_again(RunFolder(tmp_path / "copy" / STUDY / whole.path.name), "result.json")
    assert fingerprints(tmp_path / "copy" / STUDY) == fingerprints(whole.path.parent)


def test_a_damaged_checkpoint_is_set_aside(whole, tmp_path):
    """Of the same run, killed at its second checkpoint."""
    folder = tmp_path / "killed"
    prepare = partial(together, without_pictures, partial(watched, folder, 2, r"write .*last\.ckpt"))
    assert train(folder, *RUN, prepare=prepare).returncode < 0
    done = trained_again(RunFolder(folder / STUDY / whole.path.name), "checkpoints/last.ckpt")
    assert "last.ckpt.damaged" in told(done)
    assert fingerprints(folder / STUDY) == fingerprints(whole.path.parent)


# --- a stranger's files -----------------------------------------------------------------------------------------------

PICKLES = tuple(malice.pickles(Path("nowhere")))


@pytest.mark.parametrize("name", PICKLES)
def test_the_payloads_would_run(tmp_path, name):
    malice.unpickled(malice.pickles(tmp_path)[name])
    assert (tmp_path / malice.MARK).is_file()


@pytest.mark.parametrize("name", READERS)
def test_no_pickle_is_run(whole, tmp_path, name):
    """Wherever a file is read from; of the kinds of pickles all stand in a checkpoint, one in each other file."""
    right, contents = READERS[name](whole), list(malice.pickles(tmp_path).values())
    if not name.endswith("last.ckpt"):
        contents = [contents[list(READERS).index(name) % len(contents)]]
    for content in contents:
        check_read(whole, name, content, right)
    assert os.listdir(tmp_path) == []


def test_texts_that_lead_elsewhere(whole, tmp_path):
    """Of a stranger's study: the report stays in its folder, and shows HTML as text."""
    ignored = shutil.ignore_patterns("report")
    study = shutil.copytree(whole.path.parent, tmp_path / "outputs" / "study", ignore=ignored)
    run = study / whole.path.name
    files = (run / "result.json", run / "status.json", study / "study.json")
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for name, text in malice.elsewhere(*contents).items():
        (run / name).write_text(text, encoding="utf-8")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    print_study(study, wide_console())
    page = write_report(study).read_text(encoding="utf-8")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(study / "report") for path in new)
    assert malice.SCRIPT not in page
    assert "&lt;script&gt;" in page
