"""Files that are whole or not there, JSON that any program reads, and one writer at a time."""

import contextlib
import errno
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from svhn_vae.errors import Busy

PARTIAL = ".partial"  # the end of NAME.RANDOM.partial, which becomes NAME
LOCKS = ".locks"  # in the study, and not in the run's folder, which a rerun renames
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what some network file systems answer


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to. What was written there is `path` once the block has ended.

    Where the block fails, or bringing its file to the disk, `path` is what it was. Several processes may write it, on
    several machines that share the disk. The file gets the rights that the umask leaves, whatever wrote it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, because containers that share a disk may also share a host's name and a process's number.
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield beside
        beside.chmod(0o666 & ~umask())
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


def umask() -> int:
    """The process's; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def remove_partials(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder, where it can be removed: a partial file that stays
    does no harm. Nobody may be writing in the folder: its lock is held."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        with contextlib.suppress(OSError):
            partial.unlink()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes numbers that are not finite as null, because JSON has none."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        json.dump(finite(content), file, indent=2, allow_nan=False)


def finite(content: Any) -> Any:
    """The same mappings, lists and values, with None for each float that is not finite."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """The file's object, or {} where there is none or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Holds the lock of a study's file or run folder. Raises Busy if another process still has it after `wait` seconds.

    The lock is the operating system's, so that a killed process has none. On a file system without locks a notice is
    printed, and the block runs unlocked. The holder's name stands in another file, because to open a lock may empty it.
    """
    place = path.parent / LOCKS
    place.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(place / f"{path.name}.lock"), place / f"{path.name}.json"
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise Busy(named(read_json(holder))) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        print(f"  {place} cannot be locked ({error}): start no second process that writes {path}", flush=True)
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")})
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def named(holder: dict) -> str:
    known = {"pid": "?", "host": "?", "since": "?", **holder}
    return "process {pid} on {host} writes here since {since}".format_map(known)
