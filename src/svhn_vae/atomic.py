"""Files that are whole or not there: written beside, brought to the disk, renamed."""

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to. What was written there is `path` once the block has ended.

    Where the block fails, or bringing its file to the disk, `path` is what it was. Several processes may write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        if not is_running(left.name.removesuffix(PARTIAL).rpartition(".")[2]):  # it was killed while it wrote
            with contextlib.suppress(OSError):
                left.unlink()
    beside = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def is_running(pid: str) -> bool:
    """Whether there is a process of this number on this machine; others' machines have no files of the same name."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):  # no number, or somebody else's process
        return True
    return True


def remove_partials(folder: Path) -> None:
    """Removes what processes left that were killed while they wrote; nobody may be writing in the folder."""
    for left in folder.rglob(f"*{PARTIAL}"):
        left.unlink(missing_ok=True)
