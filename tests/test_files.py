"""Files are whole or not there, what killed processes left is removed, and one process at a time has a lock."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from safetensors.torch import save_file

from svhn_vae.errors import Busy
from svhn_vae.runs import files
from svhn_vae.runs.files import locked, read_json, remove_partials, replacing, write_json

HOLD = """
import sys, time
from pathlib import Path
from svhn_vae.runs.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- whole or not there ---------------------------------------------------------------------------------------------


def test_a_file_is_what_it_was_until_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "a.json"
    write(path, "first")
    with pytest.raises(TypeError), replacing(path) as beside:
        beside.write_text(beside.write_text("half", encoding="utf-8"), encoding="utf-8")  # the second is no text
    assert (path.read_text(encoding="utf-8"), names(path.parent)) == ("first", ["a.json"])
    with replacing(path) as beside:
        beside.write_text("second", encoding="utf-8")
        assert names(path.parent) == ["a.json", beside.name]
        assert path.read_text(encoding="utf-8") == "first"
    assert (path.read_text(encoding="utf-8"), names(path.parent)) == ("second", ["a.json"])


def test_two_writers_of_one_process_number_do_not_meet(tmp_path):
    """Containers that share a disk may share a host's name and a process's number."""
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
        assert first != second
    assert ((tmp_path / "a").read_text(encoding="utf-8"), names(tmp_path)) == ("first", ["a"])


def test_under_a_lock_all_partial_files_go_but_what_cannot_be_removed(tmp_path):
    for name in ("a.1.partial", "a.host.12.partial", "inner/a.0f.partial", "inner/whole", "folder.partial/whole"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "folder.partial/whole", "inner/whole"
    ]  # fmt: skip


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, mask):
    """safetensors writes private files whatever the umask."""
    before = os.umask(mask)
    try:
        write(tmp_path / "text", "x")
        with replacing(tmp_path / "tensors") as beside:
            save_file({}, beside)
        assert files.umask() == mask
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~mask}


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    """Other programs cannot read NaN and Infinity."""
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [{"c": (float("inf"), 1.5)}], "d": -float("inf")})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"a": None, "b": [{"c": [None, 1.5]}], "d": None}


def crash_while_writing(content, file, **_):
    file.write('{"half": ')
    raise KeyboardInterrupt


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "name", "crash"),
    [(json, "dump", crash_while_writing), (os, "fsync", full_disk), (os, "replace", full_disk)],
    ids=["writing", "flushing", "moving"],
)
def test_crash_leaves_the_old_file(tmp_path, monkeypatch, place, name, crash):
    path = tmp_path / "status.json"
    path.write_text('{"old": 1}', encoding="utf-8")
    monkeypatch.setattr(place, name, crash)
    with pytest.raises((KeyboardInterrupt, OSError)) as caught:
        write_json(path, {"new": 2})
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ['{"old": 1}']
    if crash is full_disk:
        assert str(path) in str(caught.value)  # a full disk does not say where


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\xfe\x00", None])
def test_a_file_that_is_damaged_or_missing_reads_as_nothing(tmp_path, content):
    path = tmp_path / "result.json"
    assert read_json(path) == read_json(tmp_path / "no" / "none.json") == {}
    path.write_bytes(content or b"{}")
    assert read_json(path if content is not None else path / "none.json") == {}


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_has_it_and_a_killed_one_has_it_no_more(tmp_path):
    path = tmp_path / "study" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout.readline() == "held\n"
        told = rf"process {process.pid} on .* since {time.strftime('%Y')}"
        with pytest.raises(Busy, match=told), locked(path):
            pytest.fail("two have it")
        process.send_signal(signal.SIGKILL)
    with locked(path):
        pass
    assert not path.exists()  # a lock makes no run


def test_who_has_it_may_be_unknown(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / ".locks" / "run.json").write_text("{", encoding="utf-8")
        with pytest.raises(Busy, match=r"process \? on \?"), locked(tmp_path / "run"):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    ran = []
    with locked(tmp_path / "run"):
        ran.append("block")
    assert ran == ["block"]
    [notice] = capsys.readouterr().out.splitlines()
    assert str(error) in notice
    assert f"no second process that writes {tmp_path / 'run'}" in notice


def test_another_error_of_the_lock_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", full_disk)
    with pytest.raises(OSError, match="No space left"), locked(tmp_path / "run"):
        pytest.fail("no lock")
