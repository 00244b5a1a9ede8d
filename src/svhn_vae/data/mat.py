"""SVHN's format 2: a .mat file per split, X (32, 32, 3, N) uint8 and y (N, 1) with labels 1..10; 10 is the digit 0.

Shapes: images (N, 3, 32, 32), that is image, channel, row, column; labels (N,). Both are uint8.
Files are untrusted: only two numeric arrays are read, by scipy, and whatever is wrong with a file is one DataError.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import scipy.io
import torch
from torch import Tensor

from svhn_vae.errors import DataError

OFFICIAL_BYTES = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384, "extra_32x32.mat": 1_329_278_602}

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # bytes 124..127: version 1.0
V73_MARKS = (b"\x00\x02IM", b"\x02\x00MI")
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # types of values: 1 and 2 are int8 and uint8, 5 and 6 are int32 and uint32
COMPLEX_FLAG, NUMERIC, LAST_CLASS = 0x0800, range(6, 16), 17
HEADER_BYTES = 1024  # more than the shape and the name of an array need
NUMERIC_CLASSES = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class LabelledImages(NamedTuple):
    images: Tensor  # (N, 3, 32, 32) uint8
    labels: Tensor  # (N,) uint8, 0..9


def read_mat(path: Path) -> LabelledImages:
    """The images and labels of one file; DataError if it is not a whole file of format 2.

    Peak memory: twice the images, once as scipy reads them and once in our order.
    """
    count = _count_images(path)
    try:
        images = torch.empty(count, 3, 32, 32, dtype=torch.uint8)
    except RuntimeError as error:  # torch's out of memory
        raise DataError(f"{path}: no memory for {count:,} images of 3,072 bytes: a larger machine is needed") from error
    labels = torch.empty(count, dtype=torch.uint8)
    _fill(path, images, labels)
    return LabelledImages(images, labels)


def contents(folder: Path) -> str:
    """Which of the official file names a folder holds, in words for an error message."""
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    present = [name for name in OFFICIAL_BYTES if os.path.isfile(folder / name)]
    return f"of {', '.join(OFFICIAL_BYTES)} the folder {folder} holds {', '.join(present) or 'none'}"


def _count_images(path: Path) -> int:
    """N, from the headers alone."""
    with _errors_of(path), path.open("rb") as file:
        _check_container(file)
        file.seek(0)
        return _check_variables(scipy.io.whosmat(file))


def _fill(path: Path, images: Tensor, labels: Tensor) -> None:
    """Write the file's arrays into images (N, 3, 32, 32) and labels (N,)."""
    with _errors_of(path), path.open("rb") as file:
        arrays = scipy.io.loadmat(file, variable_names=("X", "y"))
        X, y = arrays["X"], arrays["y"].ravel()
        found = (X.dtype, X.size, y.size)
        _require(found == (np.uint8, images.numel(), len(labels)), f"damaged: X and y are not as announced, {found}")
        labels.numpy()[:] = _to_digits(y)
        # MATLAB stores column by column: X.T is a view (N, 3, column, row), and copyto needs no intermediate array.
        np.copyto(images.numpy(), X.reshape(32, 32, 3, -1, order="F").T.swapaxes(2, 3))


def _to_digits(y: np.ndarray) -> np.ndarray:
    """y (N,) of any numeric type in 1..10 -> (N,) uint8 in 0..9."""
    wrong = ~np.isin(y, np.arange(1, 11))
    if wrong.any():
        first = int(wrong.argmax())
        got = f"{y[first]:g} at image {first} ({wrong.sum():,} of {len(y):,} are wrong)"
        raise DataError(f"labels must be whole numbers 1..10, where 10 is the digit 0; got {got}: save y anew")
    return (y % 10).astype(np.uint8)


def _check_variables(variables: list[tuple[str, tuple[int, ...], str]]) -> int:
    """Names, shapes and classes, as scipy.io.whosmat lists them -> N."""
    names = [name for name, _, _ in variables]
    _require("digitStruct" not in names, "expected format 2, got format 1 (digitStruct): use the *_32x32.mat files")
    found = (names.count("X"), names.count("y"))
    _require(found == (1, 1), f"expected one array X and one array y, got {names}: save both, or get the file again")
    _, shape, kind = variables[names.index("X")]
    layout = "X must be (32, 32, 3, N), that is row, column, channel, image"
    _require(shape[:3] == (32, 32, 3) and len(shape) <= 4, f"{layout}; got {shape}: permute or resize it")
    _require(kind == "uint8", f"X must be uint8 in 0..255, got {kind}: convert it before saving")
    N = 1 if len(shape) == 3 else shape[3]  # MATLAB drops the last dimension of a single image
    _require(N >= 1, f"expected at least one image, got X {shape}: save it anew or get it again")
    _, shape, kind = variables[names.index("y")]
    is_vector = kind in NUMERIC_CLASSES and len(shape) == 2 and min(shape) == 1
    _require(is_vector, f"y must be (N, 1) numbers in 1..10, got {shape} {kind}: save it as a column")
    _require(max(shape) == N, f"expected one label per image, got {N} images and {max(shape)} labels: save both anew")
    return N


def _check_container(file: BinaryIO) -> None:
    """The file is MATLAB v5 to v7, its arrays end exactly where it ends, and their tags are sound.

    scipy stops once it has its arrays: it misses a lost end of the last one, and garbage after it.
    """
    order = _byte_order(file.read(128), file.read(392)[384:])
    size, end = os.fstat(file.fileno()).st_size, 128
    while end + 8 <= size:
        file.seek(end)
        kind, num_bytes = struct.unpack(f"{order}II", file.read(8))
        _require(kind in (MATRIX, COMPRESSED), f"damaged: at byte {end:,} no array begins: get it again")
        end += 8 + num_bytes
        _require(end <= size, f"interrupted: it needs at least {end:,} bytes: get it again")
        content = file.read(min(num_bytes, HEADER_BYTES))
        if kind == COMPRESSED:
            content = zlib.decompressobj().decompress(content, HEADER_BYTES)[8:]  # without the matrix's own tag
        _check_tags(content, order)
    _require(end == size, f"interrupted or damaged: its last {size - end} bytes are no array: get it again")


def _check_tags(content: bytes, order: str) -> None:
    """An array's class exists, its flags, shape, name and values have types that they can have; it is not complex.

    scipy (1.17) looks both up without a check of their range, and crashes the interpreter (scipy PR 25829).
    """
    [flags] = struct.unpack_from(f"{order}I", content, 8)
    _require(1 <= flags & 0xFF <= LAST_CLASS, f"damaged: there is no class {flags & 0xFF}: get it again")
    _require(not flags & COMPLEX_FLAG, "expected real numbers, got complex ones: save them anew")
    start = 0
    for name, types in {"flags": {6}, "shape": {5}, "name": {1}, "values": NUMBERS}.items():
        kind, num_bytes = struct.unpack_from(f"{order}II", content, start)
        is_small = kind >> 16  # up to 4 bytes fit into the tag itself, whose first half then holds size and type
        kind = kind & 0xFFFF if is_small else kind
        start += 8 if is_small else 8 + num_bytes + -num_bytes % 8
        is_free = name == "values" and flags & 0xFF not in NUMERIC
        _require(is_free or kind in types, f"damaged: its {name} have type {kind}: get it again")


def _byte_order(header: bytes, signature: bytes) -> str:
    """Of a v5 file, by its first 128 bytes, else DataError. The 8 bytes from 512 are HDF5's signature in v7.3."""
    _require(header, "the file is empty: get it again")
    is_hdf5 = header[124:] in V73_MARKS or HDF5_SIGNATURE in (header[:8], signature)
    _require(not is_hdf5, "expected MATLAB v5 to v7, got v7.3 (HDF5): save it as v7 (save -v7)")
    if header[124:] not in BYTE_ORDERS:
        _require(not header.startswith(b"MATLAB 5.0"), "interrupted or damaged in its first 128 bytes: get it again")
        got = "v4 or no .mat file" if 0 in header[:4] else "no .mat file"  # a zero there is the only mark of v4
        raise DataError(f"expected MATLAB v5 to v7, got {got} (begins {header[:16]!r}): save -v7 or get it again")
    return BYTE_ORDERS[header[124:]]


def _require(holds: object, message: str) -> None:
    if not holds:
        raise DataError(message)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """What goes wrong with the file becomes a DataError that begins with its path and says its size."""
    try:
        with warnings.catch_warnings(action="ignore"):  # scipy's, about what then fails
            yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file; {contents(path.parent)}: set data.root to the right one") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: expected a file, got a folder: move it away or set data.root") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check permissions and disk") from error
    except DataError as error:
        raise DataError(f"{path}: {error} ({_size(path)})") from error
    except Exception as error:  # scipy, zlib and struct raise a dozen kinds on damaged files
        raise DataError(f"{path}: damaged ({error!r}): get it again ({_size(path)})") from error


def _size(path: Path) -> str:
    """The file's size in words, beside the official one where the name has one."""
    num_bytes = os.path.getsize(path) if os.path.isfile(path) else 0
    official = f"; the official file has {OFFICIAL_BYTES[path.name]:,}" if path.name in OFFICIAL_BYTES else ""
    return f"it has {num_bytes:,} bytes{official}"
