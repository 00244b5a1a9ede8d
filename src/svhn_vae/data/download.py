"""Where a data set's official file is: found in a folder, or downloaded into it, whole or not at all."""

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeVar

import pooch
from tqdm import tqdm

from svhn_vae.data.sources import Source
from svhn_vae.errors import DataError
from svhn_vae.runs.files import umask

TIMEOUT_S = 30  # seconds that the server may be silent
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Official(Source):
    """A data set of published files: see `official_file` for root and verify."""

    root: str | None
    verify: str
    url: str

    files: ClassVar[dict[str, tuple[str, int]]]  # name -> md5, bytes

    def file(self, name: str) -> Path:
        md5, num_bytes = self.files[name]
        return official_file(name, f"{self.url.rstrip('/')}/{name}", md5, num_bytes, root=self.root, verify=self.verify)

    def of_split(self, split: str, choices: Mapping[str, T]) -> T:
        if split not in choices:
            raise DataError(f"the splits are {', '.join(choices)}; got {split!r}: choose one of them")
        return choices[split]

    def fingerprint(self) -> str:
        """With the size and the time of each file that is there."""
        folder = Path(os.path.expanduser(self.root)) if self.root else user_cache()
        facts = [path.stat() for name in self.files if (path := folder / name).is_file()]
        return f"{self} {[(fact.st_size, fact.st_mtime_ns) for fact in facts]}"


def user_cache() -> Path:
    """The user's cache folder: of downloads, and of what takes seconds to make."""
    return Path(pooch.os_cache("svhn-vae"))


def official_file(name: str, url: str, md5: str, num_bytes: int, *, root: str | None, verify: str) -> Path:
    """The path of the file `name` in the folder root; DataError if there is none that can be used.

    root: an existing folder; None or "": the user's cache folder, which is made where it is missing.
    verify="official": the file has the official md5. A missing one is downloaded. A wrong one is downloaded anew in the
        cache folder, and left alone in a folder of the user's.
    verify="none": whatever file is there. Nothing is downloaded.
    """
    if verify not in ("official", "none"):
        raise DataError(f"data.verify is official or none, got {verify!r}: choose one of them")
    folder = Path(os.path.expanduser(root)) if root else user_cache()
    path = folder / name
    if root and not os.path.isdir(folder):  # unlike Path.is_dir, raises nothing
        raise DataError(f"data.root={root}: expected a folder, there is none: make it, or correct the path")
    if verify == "official":
        if not _is_official(path, md5, num_bytes, replaceable=not root):
            _download(path, md5, url, num_bytes)
    elif not os.path.isfile(path):
        raise DataError(
            f"data.verify=none uses your own files: expected {name} in {folder}, which holds {contents(folder)}: "
            "put it there, or set data.root, or data.verify=official to download"
        )
    return path


def contents(folder: Path, num: int = 5) -> str:
    """Some names of a folder's files, for an error message."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return ", ".join([*names[:num], f"{len(names) - num} more"] if len(names) > num else names) or "no files"


def _is_official(path: Path, md5: str, num_bytes: int, *, replaceable: bool) -> bool:
    """True if the file has the md5, False if it is to be downloaded; DataError if it is wrong and not replaceable."""
    try:
        stat = path.stat()
        found = _md5(path, stat.st_size, stat.st_mtime_ns)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}): move it away, or set data.root to a folder of yours"
        ) from error
    if found != md5 and not replaceable:
        raise DataError(
            f"{path}: md5 {found} of {stat.st_size:,} bytes, expected {md5} of {num_bytes:,} bytes: data.verify=none "
            "if it is your own; if it is an interrupted download or another version, delete it to download it again"
        )
    return found == md5


@lru_cache
def _md5(path: Path, num_bytes: int, mtime_ns: int) -> str:
    """Size and time are there for the cache: a file that was changed is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(path: Path, md5: str, source: str, num_bytes: int) -> None:
    """pooch writes to a temporary file beside path, checks its md5, moves it to path, and cleans up if that fails.

    So nobody sees a part of a file under path, two processes at once included.
    """
    print(f"downloading {source} ({num_bytes / 1e6:,.0f} MB) to {path.parent}", file=sys.stderr)
    pooch.get_logger().setLevel(logging.WARNING)  # would say the same again
    try:
        pooch.retrieve(source, f"md5:{md5}", fname=path.name, path=path.parent, downloader=_fetch)  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError) as error:  # the network's and the disk's; a wrong md5
        raise DataError(
            f"could not download {source} to {path.parent}: {_reason(error)}: try again, or download it by hand into a "
            "folder and set data.root=FOLDER, or try data=synthetic, which needs no files"
        ) from error
    with contextlib.suppress(OSError):
        path.chmod(0o666 & ~umask())  # temporary files are private whatever the umask


def _fetch(source: str, target: str, pooch: object) -> None:
    """pooch's own downloader leaks the connection after an HTTP error, and needs a flush per KiB."""
    import requests

    seconds_between = 0.2 if sys.stderr.isatty() else 30  # few lines in a log file
    with requests.get(source, stream=True, timeout=TIMEOUT_S) as response, open(target, "wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0)) or None
        with tqdm(total=total, unit="B", unit_scale=True, ncols=79, mininterval=seconds_between) as bar:
            for chunk in response.iter_content(2**16):
                bar.update(file.write(chunk))


def _reason(error: BaseException) -> str:
    """The message of the first cause: "Connection refused" without the three wrappers around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__
