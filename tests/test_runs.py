"""A run's folder: its status, and files that are whole or as they were."""

import json
import os

import pytest

from svhn_vae.runs import folder as runs
from svhn_vae.runs.folder import RunFolder, read_json, write_json

CONFIG = {"seed": 0, "pca": {"n_components": 500}, "optimizer": {"betas": [0.9, 0.999]}}
CHOICES = {"data": "svhn", "pca": "default", "model": "dense", "variance": "relu_eps", "trainer": "default"}
DESCRIBED = {"config": CONFIG, "choices": CHOICES}


# --- files ----------------------------------------------------------------------------------------------------------


def test_written_content_is_read(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": {"c": "é\n"}, "nan": float("inf")}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == json.loads((tmp_path / "x.json").read_text()) == content
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").read_text() == "{}"


def crash_while_writing(content, file, **_):
    file.write('{"half": ')
    raise KeyboardInterrupt


def crash_before_the_move(*_):
    raise OSError("no space left on device")


@pytest.mark.parametrize("before", [None, '{"old": 1}'], ids=["no file", "a file"])
@pytest.mark.parametrize(
    ("place", "name", "crash"),
    [
        (json, "dump", crash_while_writing),
        (os, "fsync", crash_before_the_move),
        (os, "replace", crash_before_the_move),
    ],
    ids=["writing", "flushing", "moving"],
)
def test_crash_leaves_the_old_file(tmp_path, monkeypatch, before, place, name, crash):
    path = tmp_path / "status.json"
    if before is not None:
        path.write_text(before)
    monkeypatch.setattr(place, name, crash)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_json(path, {"new": 2})
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"first": 1, "second": object()})
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path) == {"old": 1}


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1', b'{"a": 1}}', b"[1]", b"3", b"null", b'"text"', b"\xff\xfe\x00", bytes(100)]
)
def test_damaged_file_reads_as_nothing(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    assert read_json(path) == {}


def test_missing_file_reads_as_nothing(tmp_path):
    (tmp_path / "file").write_text("{}")
    assert read_json(tmp_path / "none.json") == read_json(tmp_path / "no" / "none.json") == {}
    assert read_json(tmp_path / "file" / "none.json") == {}


# --- the folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds since 1970, one more each time that they are asked for."""
    times = iter(range(1000, 2000))
    monkeypatch.setattr(runs.time, "time", lambda: float(next(times)))


@pytest.fixture
def folder(tmp_path, clock):
    return RunFolder(tmp_path / "study" / "dense-seed0")


def test_a_new_folder_has_no_facts(folder):
    assert (folder.facts, folder.result) == ({}, {})
    assert not folder.path.exists()


def test_begin(folder):
    folder.begin("d1", CONFIG, CHOICES)
    assert folder.facts == {"status": "running", "started": 1000.0, "data": "d1", **DESCRIBED}
    assert json.loads((folder.path / "status.json").read_text()) == folder.facts


@pytest.mark.parametrize("status", ["done", "diverged", "failed", "interrupted"])
def test_end_keeps_when_it_started_and_on_what(folder, status):
    folder.begin("d1", CONFIG, CHOICES)
    folder.end(status, "why", 7)
    due = {"status": status, "reason": "why", "step": 7, "started": 1000.0, "ended": 1001.0, "data": "d1"}
    assert folder.facts == due | DESCRIBED


def test_a_continued_run_forgets_why_it_ended(folder):
    folder.begin("d1", CONFIG, CHOICES)
    folder.end("interrupted", "power")
    folder.begin("d2", CONFIG, CHOICES)
    assert folder.facts == {"status": "running", "started": 1002.0, "data": "d2", **DESCRIBED}
    folder.end("done")
    assert folder.facts["reason"] == ""
    assert (folder.facts["started"], folder.facts["ended"], folder.facts["data"]) == (1002.0, 1003.0, "d2")


def test_a_run_that_fails_before_it_begins(folder):
    folder.end("failed", "no images")
    assert folder.facts == {"status": "failed", "reason": "no images", "step": None, "ended": 1000.0}


def test_result(folder):
    folder.begin("d1", CONFIG, CHOICES)
    write_json(folder.path / "result.json", {"seed": 0})
    assert folder.result == {"seed": 0}


def test_set_aside_keeps_everything_and_frees_the_name(folder):
    for number in (1, 2):
        folder.begin(f"d{number}", CONFIG, CHOICES)
        folder.end("diverged", "not finite", 5)
        facts = folder.facts
        aside = folder.set_aside()
        assert aside == folder.path.with_name(f"dense-seed0.previous{number}")
        assert RunFolder(aside).facts == facts
        assert folder.facts == {}
        assert not folder.path.exists()
    assert RunFolder(folder.path.with_name("dense-seed0.previous1")).facts["data"] == "d1"


RESULT = {"metrics": {}, "data": {"digest": "d1"}, "config": CONFIG, "choices": CHOICES, "cost": {"seconds": 1}}


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": ', b"[1]", b'{"status": 1}', b'{"data": "d2"}', bytes(9)])
def test_where_the_status_is_damaged_the_result_tells_that_it_is_done(folder, content):
    folder.begin("d1", CONFIG, CHOICES)
    folder.status.write_bytes(content)
    assert (folder.facts, folder.is_finished, folder.damage) == ({}, False, "status.json is damaged")
    write_json(folder.path / "result.json", RESULT)
    assert folder.facts == {"status": "done", "data": "d1", **DESCRIBED, "cost": {"seconds": 1}}
    assert folder.is_finished
    assert folder.damage == "status.json is damaged: result.json says that it is done"


def test_a_whole_folder_has_no_damage(folder):
    assert folder.damage == ""
    folder.begin("d1", CONFIG, CHOICES)
    assert folder.damage == ""
    folder.end("done")
    assert "result.json is missing or damaged" in folder.damage
    write_json(folder.path / "result.json", RESULT)
    assert folder.damage == ""


def test_what_training_left_outlasts_interruptions_until_it_is_of_no_use(folder):
    folder.begin("d1", CONFIG, CHOICES, "abc")
    folder.trained({"seconds": 3}, {"train/kl": 1.5})
    folder.end("interrupted", "power")
    folder.begin("d1", CONFIG, CHOICES, "abc")
    assert (folder.facts["cost"], folder.facts["learnt"]) == ({"seconds": 3}, {"train/kl": 1.5})
    assert folder.facts["commit"] == "abc"
    folder.trains_again()
    assert {"cost", "learnt"}.isdisjoint(folder.facts)


def test_an_empty_folder_goes_with_its_study_and_a_full_one_stays(tmp_path):
    (tmp_path / "outputs" / "a" / "b" / "run").mkdir(parents=True)
    RunFolder(tmp_path / "outputs" / "a" / "b" / "run").remove_if_empty()
    assert not (tmp_path / "outputs").exists()
    assert tmp_path.is_dir()
    (tmp_path / "outputs" / "a" / "run" / "inner").mkdir(parents=True)
    RunFolder(tmp_path / "outputs" / "a" / "run").remove_if_empty()
    assert (tmp_path / "outputs" / "a" / "run" / "inner").is_dir()
