"""Whether a job is run, and what becomes of it, with a stand-in for the run itself."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conftest import composed
from svhn_vae.errors import Diverged, Interrupted, UserError
from svhn_vae.experiment import attempt as runs
from svhn_vae.experiment.attempt import Outcome, run_job
from svhn_vae.experiment.build import Request, load_data
from svhn_vae.experiment.configuration import choices, without_hydras
from svhn_vae.runs.files import locked, write_json
from svhn_vae.runs.folder import RunFolder

TINY = ("data=synthetic", "data.num_train=50", "data.num_test=10", "iw_samples=0", "judge=false")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "commit_now", lambda: "aaa1111")


@pytest.fixture
def run(monkeypatch):
    """Has the job `end` so: it returns, or raises, what it is given, or what it returns when called."""
    counted = []

    def stand_in(built):
        counted.append(built)
        end = stand_in.end(built) if callable(stand_in.end) else stand_in.end
        if isinstance(end, BaseException):
            raise end
        write_json(built.path / "result.json", end)
        return end

    monkeypatch.setattr(runs, "build_job", lambda request: request.folder)
    monkeypatch.setattr(runs, "run", stand_in)
    stand_in.end, stand_in.counted = result(), counted
    return stand_in


def result(**changed) -> dict:
    digest = load_data(composed(*TINY)).digest
    metrics = {"val/negative_elbo": 5.0, "test/bits_per_dim": 3.0}
    facts = {"metrics": metrics, "data": {"name": "synthetic", "digest": digest}, "cost": {"seconds": 1.0}}
    return {**facts, "commit": "aaa1111", **changed}


def taken(*overrides: str, data: tuple[str, ...] = TINY) -> tuple[Outcome, RunFolder]:
    cfg = composed(*data, *overrides)
    folder = RunFolder(Path(cfg.hydra.run.dir))
    return run_job(Request(without_hydras(cfg), choices(cfg.hydra), folder), lambda: None), folder


def lines(capsys) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_a_run_is_made_once(run, capsys):
    first, folder = taken()
    assert (first.status, first.value) == ("done", 5)
    assert lines(capsys) == ["test 3.000 bits/dim on synthetic data, trained in 1 s"]
    assert sorted(path.name for path in (folder.path / ".hydra").iterdir()) == [
        "config.yaml", "hydra.yaml", "overrides.yaml"
    ]  # fmt: skip
    assert OmegaConf.load(folder.path / ".hydra" / "config.yaml").data.num_train == 50
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    second, _ = taken("checkpoint_every_n_epochs=7")  # no part of its identity
    assert second == first
    assert lines(capsys) == ["done already; rerun=true makes it anew"]
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert len(run.counted) == 1


def test_other_code_is_said_and_the_run_is_skipped_all_the_same(run, monkeypatch, capsys):
    taken()
    monkeypatch.setattr(runs, "commit_now", lambda: "bbb2222")
    taken()
    assert lines(capsys)[1:] == ["done already, made at commit aaa1111, now bbb2222; rerun=true makes it anew"]


def test_a_default_that_has_changed_since_is_refused(run, capsys):
    """Its name tells what was given, and not what was a default when it was made."""
    _, folder = taken()
    facts = json.loads(folder.status.read_text(encoding="utf-8"))
    config = facts["config"] | {"new_then": 3, "optimizer": facts["config"]["optimizer"] | {"lr": 0.5}}
    folder.status.write_text(json.dumps({**facts, "config": config}), encoding="utf-8")
    assert taken()[0].status == "failed"
    assert "made with optimizer.lr=0.5, a default that is now 0.0001" in lines(capsys)[-1]
    assert taken("rerun=true")[0].status == "done"


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_other_images_are_refused_and_nothing_is_touched(status, run, capsys):
    _, folder = taken()
    facts = json.loads(folder.status.read_text(encoding="utf-8"))
    folder.status.write_text(json.dumps({**facts, "data": "another", "status": status}), encoding="utf-8")
    before = folder.status.read_bytes()
    assert taken()[0].status == "failed"
    assert "has run already on other images (data another, now" in lines(capsys)[-1]
    assert folder.status.read_bytes() == before
    assert not folder.error_log.exists()


def test_rerun_sets_the_earlier_run_aside(run, capsys):
    _, folder = taken()
    assert taken("rerun=true")[0].status == "done"
    assert f"the earlier run is now {folder.path}.previous1" in lines(capsys)
    assert RunFolder(folder.path.with_name(f"{folder.path.name}.previous1")).is_finished
    assert len(run.counted) == 2


def test_a_run_of_another_process_is_left_alone(run, capsys):
    _, folder = taken()
    shutil.rmtree(folder.path)
    with locked(folder.path):
        assert taken()[0].status == "elsewhere"
    [line] = lines(capsys)[1:]
    assert line.startswith(f"left alone: process {os.getpid()} on ")
    assert not folder.path.exists()


def test_what_another_process_has_done_while_this_one_waited_is_not_done_again(run, monkeypatch, capsys):
    _, folder = taken()
    aside = folder.path.rename(folder.path.with_name("aside"))

    def in_between(path, **_):
        aside.rename(folder.path)
        return locked(path)

    monkeypatch.setattr(runs, "locked", in_between)
    assert taken()[0].status == "done"
    assert len(run.counted) == 1


def test_divergence_is_noted_with_the_heads_state(run, capsys):
    run.end = Diverged(7, "the loss was not finite at step 7", {"last_finite_loss": 3.5, "head": {"sigma_min": 0.1}})
    outcome, folder = taken()
    assert outcome.status == "diverged"
    facts = folder.facts
    assert (facts["status"], facts["step"], facts["state"]["head"]["sigma_min"]) == ("diverged", 7, 0.1)
    assert lines(capsys) == ["diverged: the loss was not finite at step 7"]
    taken()
    assert lines(capsys) == ["diverged already; rerun=true makes it anew"]


def test_interruption_is_noted_and_goes_on_up(run, monkeypatch, capsys):
    run.end = Interrupted(15, "after 3 epochs")
    with pytest.raises(Interrupted):
        taken()
    [folder] = Path("outputs/default").glob("dense-*")
    assert RunFolder(folder).facts["status"] == "interrupted"
    assert lines(capsys) == ["interrupted after 3 epochs: the same command continues it"]
    with pytest.raises(Interrupted):
        taken("rerun=true")
    assert lines(capsys)[-1] == "interrupted after 3 epochs: the same command without rerun=true continues it"
    monkeypatch.setattr(runs, "commit_now", lambda: "bbb2222")
    run.end = result()
    taken()
    assert "begun at commit aaa1111, now bbb2222; rerun=true starts over" in lines(capsys)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("batch_size must be\n in 1..40"), "failed: batch_size must be in 1..40"),
        (ValueError("a bug"), "failed: ValueError: a bug"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "failed: [Errno 28] No space left on device: 'x'"),
        (MemoryError(), "failed: out of memory with batch_size=1000: lower batch_size, network_scale or data.limit"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed: out of memory with batch_size=1000: lower"),
        (KeyError("x"), "failed: KeyError: 'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_one_line_and_noted(error, line, run, capsys):
    run.end = error
    outcome, folder = taken()
    *before, printed = lines(capsys)
    assert printed.startswith(line)
    assert any("Traceback" in each for each in before) == isinstance(error, ValueError | KeyError) - isinstance(
        error, UserError
    )
    assert folder.facts["status"] == outcome.status == "failed"
    assert folder.facts["reason"] == outcome.reason
    assert "Traceback" in folder.error_log.read_text(encoding="utf-8")


def test_a_failure_that_cannot_be_noted_is_said_all_the_same(run, monkeypatch, capsys):
    run.end = OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(_):
        monkeypatch.setattr(os, "fsync", full)
        return run.error

    run.error, run.end = run.end, fill
    assert taken()[0].status == "failed"
    first, second = lines(capsys)
    assert first == "failed: [Errno 28] No space left on device: 'last.ckpt'"
    assert second.startswith("this cannot be noted in its folder: [Errno 28] No space left on device: ")


def test_a_folder_that_was_removed_is_not_made_again(run, capsys):
    def vanish(folder):
        shutil.rmtree(folder.path)
        return FileNotFoundError("vanished")

    run.end = vanish
    outcome, folder = taken()
    assert (outcome.status, folder.path.exists()) == ("failed", False)


def test_a_job_that_never_began_leaves_nothing(run, capsys):
    outcome, folder = taken("data.root=/nowhere", data=())
    assert outcome.status == "failed"
    assert "/nowhere" in lines(capsys)[0]
    assert not folder.path.exists()
    assert not run.counted


def test_a_damaged_status_loses_no_finished_run(run, capsys):
    """Of its kinds, see test_runs."""
    _, folder = taken()
    folder.status.write_text("{", encoding="utf-8")
    assert taken()[0].status == "done"
    assert "done already (status.json is damaged: result.json says that it is done)" in lines(capsys)[1]
    assert len(run.counted) == 1


def test_a_damaged_result_is_made_again(run, capsys):
    _, folder = taken()
    (folder.path / "result.json").write_text("{", encoding="utf-8")
    assert taken()[0].status == "done"
    assert "result.json is missing or damaged: it is scored again" in lines(capsys)
    assert len(run.counted) == 2
