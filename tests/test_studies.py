"""`svhn-vae runs` lists what is there, and `svhn-vae clean` deletes what failed or is named, once it is told so."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from svhn_vae.commands import studies
from svhn_vae.errors import UserError
from svhn_vae.runs.files import locked
from svhn_vae.runs.folder import RunFolder

STATUSES = ("done", "diverged", "failed", "interrupted", "running")


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """A study with a run of each status, and a folder that is no run."""
    monkeypatch.chdir(tmp_path)
    for status in STATUSES:
        folder = RunFolder(tmp_path / "outputs" / "demo" / status)
        folder.begin("digest", {"seed": 0}, {}, "commit")
        folder.end(status)
    result = {"seed": 0, "data": {}, "metrics": {"test/bits_per_dim": 3.25}, "config": {}, "choices": {}, "cost": {}}
    (tmp_path / "outputs" / "demo" / "done" / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (tmp_path / "outputs" / "demo" / "report").mkdir()
    return tmp_path / "outputs" / "demo"


def called(monkeypatch, command, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["src/command.py", *words])
    command()


def left(outputs: Path) -> set[str]:
    return {path.name for path in outputs.iterdir() if not path.name.startswith(".")} - {"report"}


def test_runs_are_listed(outputs, monkeypatch, capsys):
    called(monkeypatch, studies.runs)
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert set(lines) == {"demo/", *STATUSES}
    assert all(status in lines[status].split()[2:] for status in STATUSES)
    assert "5 runs" in lines["demo/"]
    assert "best 3.250" in lines["demo/"]
    assert "3.250" in lines["done"]
    shutil.copytree(outputs / "done", outputs.with_name("single") / "done")
    called(monkeypatch, studies.runs)
    assert " 1 run │" in capsys.readouterr().out


def test_nothing_is_deleted_without_a_word(outputs, monkeypatch, capsys):
    called(monkeypatch, studies.clean)
    printed = capsys.readouterr().out
    assert "outputs/demo/failed: failed" in printed
    assert "yes=true" in printed
    assert not any(status in printed for status in STATUSES if status != "failed")
    assert left(outputs) == set(STATUSES)


def test_a_failed_run_goes_and_any_other_only_if_it_is_named(outputs, monkeypatch):
    called(monkeypatch, studies.clean, "yes=true")
    assert left(outputs) == set(STATUSES) - {"failed"}
    called(monkeypatch, studies.clean, "yes=true", "outputs/demo/done")
    assert left(outputs) == set(STATUSES) - {"failed", "done"}


def test_a_run_that_is_written_stays(outputs, monkeypatch, capsys):
    with locked(outputs / "failed"):
        called(monkeypatch, studies.clean, "yes=true")
    assert "left alone" in capsys.readouterr().out
    assert left(outputs) == set(STATUSES)


@pytest.mark.parametrize("name", ["report", "..", "none", "link", ""])
def test_what_is_no_run_is_refused(outputs, monkeypatch, name):
    (outputs / "link").symlink_to(outputs / "done")
    with pytest.raises(UserError, match="expected a run's folder"):
        called(monkeypatch, studies.clean, "yes=true", str(outputs / name))
    assert left(outputs) == {*STATUSES, "link"}
