"""A disk on which one call goes wrong: it fails, as a full or a read-only one does, or something else happens there.

Calls are the calls that change what is under a folder: opening for writing, each write, fsync, rename, mkdir, unlink.
To be used in a process of its own (`stress.forked`), because nothing is put back.
"""

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

REAL_OPEN = io.open


class Disk:
    """`happens(call)` is called before the n-th call that matches `pattern`; with `ever_after`, at each from there on.

    `call` is a text such as `fsync outputs/x/last.ckpt.host.12.partial`. All that match are noted in the file `log`.
    """

    def __init__(
        self,
        folder: Path,
        n: int,
        happens: Callable[[str], None],
        *,
        pattern: str = "",
        ever_after: bool = False,
        log: Path | None = None,
    ) -> None:
        self.folder, self.pattern = f"{folder.resolve()}{os.sep}", re.compile(pattern)
        self.n, self.happens, self.ever_after, self.num_calls = n, happens, ever_after, 0
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def install(self) -> None:
        io.open = open = self.open
        sys.modules["builtins"].open = open
        self._count("fsync", os, "fsync", lambda number: os.readlink(f"/proc/self/fd/{number}"))
        os.open = self._os_open(os.open)
        for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "remove"):
            self._count(name, os, name, os.fspath)

    def call(self, name: str, path: str) -> None:
        """One is about to happen."""
        text = self._text(name, path)
        if text is None:
            return
        is_it, self.num_calls = self.is_next(name, path), self.num_calls + 1
        if self._log is not None:
            os.write(self._log, f"{text}\n".encode())
        if is_it:
            self.happens(text)

    def is_next(self, name: str, path: str) -> bool:
        """Whether something happens at this call."""
        number = self.num_calls + 1
        is_number = number == self.n or (self.ever_after and number > self.n)
        return is_number and self._text(name, path) is not None

    def _text(self, name: str, path: str) -> str | None:
        """None of a call that is not counted."""
        path = os.path.abspath(os.fsdecode(path))  # TensorBoard gives bytes
        text = f"{name} {path.removeprefix(self.folder)}"
        return text if path.startswith(self.folder) and self.pattern.search(text) else None

    def open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        """io.open, whose files count their writes."""
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        self.call("open", os.fspath(file))
        raw = Counted(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _os_open(self, real: Callable) -> Callable:
        def counted(path, flags, *args, **kwargs) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and kwargs.get("dir_fd") is None:
                self.call("open", os.fspath(path))
            return real(path, flags, *args, **kwargs)

        return counted

    def _count(self, name: str, module, attribute: str, path_of: Callable) -> None:
        real = getattr(module, attribute)

        def counted(path, *args, **kwargs):
            if kwargs.get("dir_fd") is None:
                self.call(name, path_of(path))
            return real(path, *args, **kwargs)

        setattr(module, attribute, counted)


class Counted(io.FileIO):
    """At the call where something happens, half of what was to be written is there already."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, content) -> int:
        content, half = memoryview(content).cast("B"), 0
        if self._disk.is_next("write", self._path):
            half = super().write(content[: len(content) // 2])
        self._disk.call("write", self._path)
        return half + super().write(content[half:])


def fail(code: int, call: str) -> None:
    """As the operating system does: it names the file where one was named to it."""
    name, _, path = call.partition(" ")
    raise OSError(code, os.strerror(code), None if name in ("write", "fsync") else path)


def failing(name: str) -> Callable[[str], None]:
    """`happens` of a disk whose call ends with that errno, such as ENOSPC."""
    return partial(fail, getattr(errno, name))
