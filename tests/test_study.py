"""What is known of a study: the commands, the question, and the framework's commit."""

import json
import subprocess

from svhn_vae.runs.folder import study
from svhn_vae.runs.study import commit, note_command, noted_times

CLAIM = {"claim": "a", "metric": "test/bits_per_dim"}


def noted(folder) -> dict:
    return json.loads((folder / "study.json").read_text())


def test_commands_add_up_in_their_order(tmp_path):
    assert noted_times(tmp_path / "new") == []
    note_command(tmp_path / "new", "first", 10.0, "why?", [CLAIM])
    note_command(tmp_path / "new", "second", 20.0, None, [])
    found = noted(tmp_path / "new")
    assert [(entry["command"], entry["time"]) for entry in found["commands"]] == [("first", 10.0), ("second", 20.0)]
    assert (found["question"], found["hypotheses"]) == ("why?", [CLAIM])
    assert noted_times(tmp_path / "new") == [10.0, 20.0]


def test_the_newest_question_counts(tmp_path):
    note_command(tmp_path, "first", 10.0, "why?", [CLAIM])
    note_command(tmp_path, "second", 20.0, "how?", [])
    assert (noted(tmp_path)["question"], noted(tmp_path)["hypotheses"]) == ("how?", [CLAIM])


def test_a_damaged_file_is_replaced(tmp_path):
    (tmp_path / "study.json").write_text("{")
    note_command(tmp_path, "first", 10.0, None, [])
    assert len(noted(tmp_path)["commands"]) == 1


def test_the_commit_is_gits(monkeypatch):
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=study.__file__[:-8])
    assert head.stdout.startswith(commit().rstrip("+"))
    monkeypatch.setenv("PATH", "")
    assert commit() is None
