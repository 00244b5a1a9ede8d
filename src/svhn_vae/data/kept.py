"""Tensors that take seconds to make and are always the same, kept on disk for every later run.

A file's name says what it holds, and how that was made: of its content only that it is whole is asked.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from svhn_vae.errors import Damaged
from svhn_vae.runs.tensors import load_tensors, save_tensors

Content = TypeVar("Content", bound=NamedTuple)  # of tensors


def kept_or_made(path: Path, kind: type[Content], make: Callable[[], Content], *, made: str, advice: str) -> Content:
    """From `path`, or as `make` returns it, and put there. Not to be written to: the jobs of one process share it.

    made: what `make` does, for the notice of a damaged file; advice: what else to do where it cannot be written.
    """
    kept = _read(path, kind, made)
    if kept is None:
        kept = make()
        _write(kept, path, f"the next run has it {made} anew; {advice}")
    return kept


def _read(path: Path, kind: type[Content], made: str) -> Content | None:
    """None if there is no such file, or a damaged one."""
    try:
        stat = path.stat()
        return _content(path, kind, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except FileNotFoundError:
        return None
    except (Damaged, TypeError, OSError) as error:
        print(f"  {path} is damaged ({error}): {made} anew", flush=True)
        return None


@functools.lru_cache(maxsize=2)  # the moments of both scatters, for all jobs of a process
def _content(path: Path, kind: type[Content], inode: int, num_bytes: int, mtime_ns: int) -> Content:
    """Inode, size and time are there for the cache: a file that was changed is read again."""
    return kind(**load_tensors(path))


def _write(content: NamedTuple, path: Path, otherwise: str) -> None:
    """A notice where it cannot be written."""
    try:
        save_tensors(content._asdict(), path)
    except OSError as error:  # the run can do without
        print(f"  {path} cannot be written ({error}): {otherwise}", flush=True)
