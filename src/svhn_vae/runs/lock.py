"""One process at a time writes a run. The lock is the operating system's: a killed process's is free by itself."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from svhn_vae.errors import Busy
from svhn_vae.runs.folder import read_json, write_json

FOLDER = ".locks"  # in the study, and not in the run's folder, which a rerun renames


@contextlib.contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Holds the lock of a study's file or folder. Raises Busy if another process still has it after `wait` seconds.

    Who holds it stands in a file beside it: opening a lock file may empty it.
    """
    place = folder.parent / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(place / f"{folder.name}.lock"), place / f"{folder.name}.json"
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise Busy(in_words(read_json(holder))) from None
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")})
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def in_words(holder: dict) -> str:
    known = {"pid": "?", "host": "?", "since": "?", **holder}
    return "process {pid} on {host} is at it, since {since}".format_map(known)
