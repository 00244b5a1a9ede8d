"""Files are whole or not there, and what killed processes left goes, but nothing that somebody may still be writing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svhn_vae.runs.files import HOST, remove_partials, replacing
from svhn_vae.runs.folder import files as atomic

KILLED = """
import os, signal, sys
from pathlib import Path
from svhn_vae.runs.files import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
NAMED = """
import socket, sys
socket.gethostname = lambda: sys.argv[1]
from svhn_vae.runs.files import HOST
print(HOST)
"""


def write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


@pytest.fixture
def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_what_it_was_until_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "a.json"
    write(path, "first")
    with pytest.raises(TypeError), replacing(path) as beside:
        beside.write_text(beside.write_text("half"))  # the second is no text
    assert (path.read_text(), names(path.parent)) == ("first", ["a.json"])
    with replacing(path) as beside:
        beside.write_text("second")
        assert names(path.parent) == ["a.json", f"a.json.{HOST}.{os.getpid()}.partial"]
        assert path.read_text() == "first"
    assert (path.read_text(), names(path.parent)) == ("second", ["a.json"])


def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path):
    path = tmp_path / "a[1].json"  # a pattern, taken as one
    subprocess.run([sys.executable, "-c", KILLED, str(path)])
    [left] = names(tmp_path)
    assert left.startswith(f"a[1].json.{HOST}.")
    write(path, "whole")
    assert names(tmp_path) == ["a[1].json"]


def test_what_somebody_may_still_be_writing_stays(tmp_path, gone):
    """On a disk that machines share, a number that is no process here may be one there."""
    there = [
        f"a.another-machine.{gone}.partial", f"a.{HOST}.{os.getppid()}.partial", f"a.{HOST}.word.partial",
        f"a.{HOST}.{10**30}.partial", f"ab.{HOST}.{gone}.partial",
    ]  # fmt: skip
    for name in (*there, f"a.{HOST}.{gone}.partial"):
        (tmp_path / name).touch()
    write(tmp_path / "a", "whole")
    assert names(tmp_path) == sorted(["a", *there])


def test_where_nobody_writes_all_that_was_left_goes(tmp_path):
    """Of any machine, and of versions that did not name it."""
    left = ["a.1.partial", f"a.{HOST}.{os.getppid()}.partial", "inner/a.another-machine.1.partial"]
    for name in (*left, "inner/whole"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["whole"]


def test_what_was_left_and_cannot_be_removed_is_in_nobodys_way(tmp_path, gone):
    left = tmp_path / f"a.{HOST}.{gone}.partial"
    left.mkdir()  # which no unlink removes
    write(tmp_path / "a", "whole")
    remove_partials(tmp_path)
    assert names(tmp_path) == ["a", left.name]


@pytest.mark.parametrize("name", ["plain", "gpu-3.cluster.example", "with space/and slash", "Ünïcode"])
def test_any_machines_name_can_stand_in_a_files_name(name):
    done = subprocess.run([sys.executable, "-c", NAMED, name], capture_output=True, text=True, check=True)
    host = done.stdout.removesuffix("\n")
    assert host.isascii()
    assert host.replace("-", "").isalnum()
    assert len(host) == len(name)


def test_an_error_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json'"):
        write(tmp_path / "a.json", "x")
    assert names(tmp_path) == []
