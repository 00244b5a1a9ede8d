"""A run's folder: its status, and files that are whole or as they were."""

import json

import pytest

from svhn_vae.runs import folder as runs
from svhn_vae.runs.files import write_json
from svhn_vae.runs.folder import RunFolder, note_command

CONFIG = {"seed": 0, "pca": {"n_components": 500}, "optimizer": {"betas": [0.9, 0.999]}}
CHOICES = {"data": "svhn", "pca": "default", "model": "dense", "variance": "relu_eps", "trainer": "default"}
DESCRIBED = {"config": CONFIG, "choices": CHOICES}


# --- the folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds since 1970, one more each time that they are asked for."""
    times = iter(range(1000, 2000))
    monkeypatch.setattr(runs.time, "time", lambda: float(next(times)))


@pytest.fixture
def folder(tmp_path, clock):
    return RunFolder(tmp_path / "study" / "dense-seed0")


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_end_keeps_when_it_started_and_on_what(folder, status):
    assert (folder.facts, folder.result) == ({}, {})
    folder.begin("d1", CONFIG, CHOICES)
    assert folder.facts == {"status": "running", "started": 1000.0, "data": "d1", **DESCRIBED}
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


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"status": 1}'])
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
    RunFolder(tmp_path / "outputs" / "a" / "b" / "run").remove_if_empty(tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()
    assert tmp_path.is_dir()
    (tmp_path / "outputs" / "a" / "run" / "inner").mkdir(parents=True)
    RunFolder(tmp_path / "outputs" / "a" / "run").remove_if_empty(tmp_path / "outputs")
    assert (tmp_path / "outputs" / "a" / "run" / "inner").is_dir()


# --- its study ------------------------------------------------------------------------------------------------------

CLAIM = {"claim": "a", "metric": "test/bits_per_dim"}


def test_commands_add_up_and_the_newest_question_counts(tmp_path):
    """A damaged file is replaced."""
    study = tmp_path / "new"
    study.mkdir()
    (study / "study.json").write_text("{", encoding="utf-8")
    note_command(study, "first", 10.0, "why?", [CLAIM])
    note_command(study, "second", 20.0, None, [])
    found = json.loads((study / "study.json").read_text(encoding="utf-8"))
    assert [(entry["command"], entry["time"]) for entry in found["commands"]] == [("first", 10.0), ("second", 20.0)]
    assert (found["question"], found["hypotheses"]) == ("why?", [CLAIM])
    note_command(study, "third", 30.0, "how?", [])
    assert json.loads((study / "study.json").read_text(encoding="utf-8"))["question"] == "how?"
