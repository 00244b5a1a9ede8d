"""Where a data set's official file is: found in a folder, or downloaded into it, whole or not at all."""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pooch

from svhn_vae.data.sources import Source, errors_of, files_fingerprint, require
from svhn_vae.errors import DataError
from svhn_vae.runs.files import umask

TIMEOUT_S = 30  # seconds that the server may be silent


@dataclass(frozen=True, kw_only=True)
class Official(Source):
    """A data set of published files.

    root: an existing folder; None or "": the user's cache folder, which is made where it is missing.
    verify: `official`: a file has the official md5. A missing one is downloaded from `url`. A wrong one is downloaded
        anew in the cache folder, and left alone in a folder of the user's. `none`: whatever file is there; nothing is
        downloaded.
    """

    root: str | None
    verify: str
    url: str

    files: ClassVar[dict[str, tuple[str, int]]]  # name -> md5, bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        is_known = self.verify in ("official", "none")
        require(is_known, f"data.verify is official or none, got {self.verify!r}: choose one of them")

    @property
    def folder(self) -> Path:
        return Path(os.path.expanduser(self.root)) if self.root else user_cache()

    def fingerprint(self) -> str:
        return f"{self} {files_fingerprint(*(self.folder / name for name in self.files))}"

    def file(self, name: str) -> Path:
        """The path of one of `files`; DataError if there is none that can be used."""
        (md5, num_bytes), path = self.files[name], self.folder / name
        is_there = not self.root or os.path.isdir(self.folder)  # unlike Path.is_dir, raises nothing
        require(is_there, f"data.root={self.root}: expected a folder, there is none: make it, or correct the path")
        if self.verify == "none":
            expected = f"data.verify=none uses your own files: expected {name} in {self.folder}, which holds "
            advice = "put it there, or set data.root, or data.verify=official to download"
            require(os.path.isfile(path), f"{expected}{contents(self.folder)}: {advice}")
        elif self.root and os.path.exists(path):
            advice = "data.verify=none if it is your own; else delete it to download it again"
            with errors_of(path, num_bytes):
                require(pooch.file_hash(str(path), "md5") == md5, f"its md5 is not the official {md5}: {advice}")
        else:
            _download(f"{self.url.rstrip('/')}/{name}", path, md5)
        return path


def user_cache() -> Path:
    """The user's cache folder: of downloads, and of what takes seconds to make."""
    return Path(pooch.os_cache("svhn-vae"))


def contents(folder: Path, num: int = 5) -> str:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return ", ".join([*names[:num], f"{len(names) - num} more"] if len(names) > num else names) or "no files"


def _download(url: str, path: Path, md5: str) -> None:
    """pooch writes to a temporary file beside path, checks its md5, moves it to path, and cleans up if that fails.

    So nobody sees a part of a file under path, two processes at once included. A file that has the md5 stays.
    """
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=TIMEOUT_S)
    try:
        pooch.retrieve(url, f"md5:{md5}", fname=path.name, path=path.parent, downloader=fetch)  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError) as error:  # the network's and the disk's; a wrong md5
        raise DataError(
            f"could not download {url} to {path.parent}: {' '.join(str(error).split())}: try again, or download it by "
            "hand into a folder and set data.root=FOLDER, or try data=synthetic, which needs no files"
        ) from error
    with contextlib.suppress(OSError):
        path.chmod(0o666 & ~umask())  # temporary files are private whatever the umask
