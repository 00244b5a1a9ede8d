"""Files that are whole or not there: written beside, brought to the disk, renamed."""

import contextlib
import glob
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

PARTIAL = ".partial"  # the end of NAME.HOST.PID.partial, which becomes NAME
HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())  # no dot, so that a partial's name can be taken apart


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to. What was written there is `path` once the block has ended.

    Where the block fails, or bringing its file to the disk, `path` is what it was. Several processes may write it, on
    several machines that share the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(left_of(path))
    beside = path.with_name(f"{path.name}.{HOST}.{os.getpid()}{PARTIAL}")
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
        remove([beside])


def left_of(path: Path) -> Iterator[Path]:
    """What processes left of a file that were killed on this machine while they wrote it; of another machine's nobody
    here can say whether it still runs."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.{HOST}.*{PARTIAL}"):
        if not is_running(partial.name.removesuffix(PARTIAL).rpartition(".")[2]):
            yield partial


def is_running(pid: str) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, OSError):  # no number of a process, or somebody else's process
        return True
    return True


def remove_partials(folder: Path) -> None:
    """Removes what killed processes of any machine left half-written; nobody may be writing in the folder."""
    remove(folder.rglob(f"*{PARTIAL}"))


def remove(partials: Iterable[Path]) -> None:
    """Those that can be: what stays lies beside, and is in nobody's way."""
    for partial in partials:
        with contextlib.suppress(OSError):
            partial.unlink()
