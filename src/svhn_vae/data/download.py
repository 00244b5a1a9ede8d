"""Where a split's official .mat file is: found in a folder, or downloaded into it, whole or not at all."""

import contextlib
import hashlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path

import pooch
from tqdm import tqdm

from svhn_vae.data.mat import OFFICIAL_BYTES, contents
from svhn_vae.errors import DataError

OFFICIAL_URL = "http://ufldl.stanford.edu/housenumbers"
MD5 = {
    "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test": "eb5a983be6a315427106f1b164d9cef3",
    "extra": "a93ce644f1a588dc4d68dda5feec44a7",
}
TIMEOUT_S = 30  # seconds that the server may be silent


def locate(split: str, *, root: str | None, verify: str, url: str = OFFICIAL_URL) -> Path:
    """The path of `{split}_32x32.mat` in the folder root; DataError if there is none that can be used.

    root: an existing folder; None or "": the user's cache folder, which is made where it is missing.
    verify="official": the file has the official md5. A missing one is downloaded. A wrong one is downloaded anew in the
        cache folder, and left alone in a folder of the user's.
    verify="none": whatever file is there. Nothing is downloaded.
    """
    if split not in MD5:
        raise DataError(f"the splits are {', '.join(MD5)}; got {split!r}: choose one of them")
    if verify not in ("official", "none"):
        raise DataError(f"data.verify is official or none, got {verify!r}: choose one of them")
    folder = Path(os.path.expanduser(root)) if root else Path(pooch.os_cache("svhn-vae"))
    path = folder / f"{split}_32x32.mat"
    if root and not os.path.isdir(folder):  # unlike Path.is_dir, raises nothing
        raise DataError(f"data.root={root}: expected a folder, there is none: make it, or correct the path")
    if verify == "none":
        return _own_file(path)
    if not _is_official(path, MD5[split], replaceable=not root):
        _download(path, MD5[split], f"{url.rstrip('/')}/{path.name}")
    return path


def _own_file(path: Path) -> Path:
    if not os.path.isfile(path):
        found = contents(path.parent)
        advice = "put it there, or set data.root, or data.verify=official to download"
        raise DataError(
            f"data.verify=none uses your own files: expected {path.name} in {path.parent}; {found}: {advice}"
        )
    return path


def _is_official(path: Path, md5: str, *, replaceable: bool) -> bool:
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
        official = f"{md5} of {OFFICIAL_BYTES[path.name]:,} bytes"
        raise DataError(
            f"{path}: md5 {found} of {stat.st_size:,} bytes, expected {official}: data.verify=none if it is your own; "
            "if it is an interrupted download or another version, delete it to download it again"
        )
    return found == md5


@lru_cache
def _md5(path: Path, num_bytes: int, mtime_ns: int) -> str:
    """Size and time are there for the cache: a file that was changed is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(path: Path, md5: str, source: str) -> None:
    """pooch writes to a temporary file beside path, checks its md5, moves it to path, and cleans up if that fails.

    So nobody sees a part of a file under path, two processes at once included.
    """
    print(f"downloading {source} ({OFFICIAL_BYTES[path.name] / 1e6:,.0f} MB) to {path.parent}", file=sys.stderr)
    pooch.get_logger().setLevel(logging.WARNING)  # would say the same again
    try:
        pooch.retrieve(source, f"md5:{md5}", fname=path.name, path=path.parent, downloader=_fetch)
    except (OSError, ValueError) as error:  # the network's and the disk's; a wrong md5
        raise DataError(
            f"could not download {source} to {path.parent}: {_reason(error)}: try again, or download it by hand into a "
            "folder and set data.root=FOLDER, or try data=synthetic, which needs no files"
        ) from error
    with contextlib.suppress(OSError):
        path.chmod(0o644)  # temporary files are private; a shared data folder is not


def _fetch(source: str, target: str, _: object) -> None:
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
