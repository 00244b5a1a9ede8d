"""SVHN's format 2: a .mat file per split, X (32, 32, 3, N) uint8 and y (N, 1) with labels 1..10; 10 is the digit 0.

Shapes: images (N, 3, 32, 32), that is image, channel, row, column; labels (N,). Both are uint8.

Files are untrusted, and scipy.io (1.17) crashes the interpreter on some damaged ones: it looks a value type up beyond
the end of a C array (scipy PR 25349). So the little of MATLAB's format that is needed is read here, and whatever is
wrong is one DataError. It also halves the memory: images go block by block from the file to where they belong.
Source: MathWorks, "MAT-File Format", chapter 1, level 5. Tests compare with scipy.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

OFFICIAL_BYTES = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384, "extra_32x32.mat": 1_329_278_602}
IMAGES_PER_BLOCK = 4096

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # bytes 124..127: version 1.0
V73_MARKS = (b"\x00\x02IM", b"\x02\x00MI")
UINT8, MATRIX, COMPRESSED = 2, 14, 15  # types of elements
NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = ["double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
CLASSES = ["unknown", "cell", "struct", "object", "char", "sparse", *NUMERIC_CLASSES, "function", "opaque"]
OPAQUE = CLASSES.index("opaque")


class DataError(Exception):
    """Data that cannot be used; the message is one line: what was expected, what came, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class LabelledImages(NamedTuple):
    images: Tensor  # (N, 3, 32, 32) uint8
    labels: Tensor  # (N,) uint8, 0..9


def read_mat(path: Path) -> LabelledImages:
    """The images and labels of one file; DataError if it is not a whole file of format 2."""
    return read_mats([path])


def read_mats(paths: Sequence[Path]) -> LabelledImages:
    """The images and labels of several files, one after the other.

    All files are checked before the first is loaded. Peak memory: the result and one block.
    """
    counts = [_count_images(path) for path in paths]
    try:
        images = torch.empty(sum(counts), 3, 32, 32, dtype=torch.uint8)
    except RuntimeError as error:  # torch's out of memory
        raise DataError(f"{paths[0]}: no memory for {sum(counts):,} images of 3,072 bytes: load fewer files") from error
    labels = torch.empty(sum(counts), dtype=torch.uint8)
    for path, *parts in zip(paths, images.split(counts), labels.split(counts), strict=True):
        _fill(path, *parts)
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
        return _check_arrays(list(_arrays(file)))


def _fill(path: Path, images: Tensor, labels: Tensor) -> None:
    """Write the file's arrays into images (N, 3, 32, 32) and labels (N,)."""
    with _errors_of(path), path.open("rb") as file:
        for array in _arrays(file):
            if array.name == "X":
                _fill_images(array, images)
            if array.name == "y":
                labels.numpy()[:] = _to_digits(_read_vector(array, len(labels)))


def _fill_images(array: "_Array", images: Tensor) -> None:
    found, due = struct.unpack(f"{array.order}II", _read(array.stream, 8)), (UINT8, images.numel())
    _require(found == due, f"damaged: X has (type, bytes) {found}, not {due}: get it again")
    for block in images.split(IMAGES_PER_BLOCK):
        pixels = np.frombuffer(_read(array.stream, block.numel()), np.uint8).reshape(-1, 3, 32, 32)
        np.copyto(block.numpy(), pixels.swapaxes(2, 3))  # MATLAB stores (image, channel, column, row)
    _check_end(array.stream)


def _read_vector(array: "_Array", num_values: int) -> np.ndarray:
    """(num_values,) of whatever type MATLAB found wide enough."""
    kind, content = _read_element(array.stream, array.order, limit=8 * num_values)
    _require(kind in NUMPY_TYPES, f"damaged: y is of type {kind}: get it again")
    dtype = np.dtype(array.order + NUMPY_TYPES[kind])
    due = num_values * dtype.itemsize
    _require(len(content) == due, f"damaged: y has {len(content):,} bytes, not {due:,}: get it again")
    _check_end(array.stream)
    return np.frombuffer(content, dtype)


def _to_digits(y: np.ndarray) -> np.ndarray:
    """y (N,) of any numeric type in 1..10 -> (N,) uint8 in 0..9."""
    wrong = ~np.isin(y, np.arange(1, 11))
    if wrong.any():
        first = int(wrong.argmax())
        got = f"{y[first]} at image {first} ({wrong.sum():,} of {len(y):,} are wrong)"
        raise DataError(f"labels must be whole numbers 1..10, where 10 is the digit 0; got {got}: save y anew")
    return (y % 10).astype(np.uint8)


def _check_arrays(arrays: list["_Array"]) -> int:
    """Names, shapes and classes are those of format 2 -> N."""
    names = [array.name for array in arrays]
    _require("digitStruct" not in names, "expected format 2, got format 1 (digitStruct): use the *_32x32.mat files")
    found = (names.count("X"), names.count("y"))
    _require(found == (1, 1), f"expected one array X and one array y, got {names}: save both, or get the file again")
    X, y = arrays[names.index("X")], arrays[names.index("y")]
    layout = "X must be (32, 32, 3, N), that is row, column, channel, image"
    _require(X.shape[:3] == (32, 32, 3) and len(X.shape) <= 4, f"{layout}; got {X.shape}: permute or resize it")
    _require(X.kind == "uint8", f"X must be uint8 in 0..255, got {X.kind}: convert it before saving")
    N = 1 if len(X.shape) == 3 else X.shape[3]  # MATLAB drops the last dimension of a single image
    _require(N >= 1, f"expected at least one image, got X {X.shape}: save it anew or get it again")
    is_vector = y.kind in NUMERIC_CLASSES and len(y.shape) == 2 and min(y.shape) == 1
    _require(is_vector, f"y must be (N, 1) numbers in 1..10, got {y.shape} {y.kind}: save it as a column")
    _require(max(y.shape) == N, f"expected one label per image, got {N} images and {max(y.shape)} labels: save both")
    return N


class _Stored:
    """The bytes of an element, read as from a file."""

    def __init__(self, file: BinaryIO, num_bytes: int):
        self._file, self._left = file, num_bytes

    def read(self, num_bytes: int) -> bytes:
        data = self._file.read(min(num_bytes, self._left))
        self._left -= len(data)
        return data


class _Inflated:
    """The bytes of a zlib-compressed element, read as from a file. No more is unpacked than asked for."""

    def __init__(self, stored: _Stored):
        self._stored, self._zlib = stored, zlib.decompressobj()

    def read(self, num_bytes: int) -> bytes:
        parts = []
        while num_bytes:
            packed = self._zlib.unconsumed_tail or self._stored.read(2**16)
            part = self._zlib.decompress(packed, num_bytes)
            if not (packed or part):
                break
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)


class _Array(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: str  # MATLAB's class
    order: str  # of bytes, as in struct
    stream: _Stored | _Inflated  # at the tag of the values


def _arrays(file: BinaryIO) -> Iterator[_Array]:
    """The arrays of a v5 to v7 file, each valid until the next. DataError unless the last ends where the file does."""
    order = _byte_order(file.read(128), file.read(392)[384:])
    size, end = os.fstat(file.fileno()).st_size, 128
    while end + 8 <= size:
        file.seek(end)
        kind, num_bytes = struct.unpack(f"{order}II", file.read(8))
        _require(kind in (MATRIX, COMPRESSED), f"damaged: at byte {end:,} no array begins: get it again")
        end += 8 + num_bytes
        _require(end <= size, f"interrupted: it needs at least {end:,} bytes: get it again")
        stream = _Stored(file, num_bytes)
        if kind == COMPRESSED:
            stream = _Inflated(stream)
            _read(stream, 8)  # tag of the matrix inside
        yield _read_header(stream, order)
    _require(end == size, f"interrupted or damaged: its last {size - end} bytes are no array: get it again")


def _read_header(stream: _Stored | _Inflated, order: str) -> _Array:
    flags, _ = struct.unpack(f"{order}II", _read_element(stream, order, limit=8)[1])
    index = flags & 0xFF
    if index == OPAQUE:  # alone in having no shape
        return _Array("", (), "opaque", order, stream)
    kind = "logical" if flags & 0x200 else CLASSES[index] if index < OPAQUE else "unknown"
    kind = f"complex {kind}" if flags & 0x800 else kind
    _, shape = _read_element(stream, order, limit=256)
    _, name = _read_element(stream, order, limit=256)
    return _Array(name.decode("latin1"), struct.unpack(f"{order}{len(shape) // 4}i", shape), kind, order, stream)


def _read_element(stream: _Stored | _Inflated, order: str, limit: int) -> tuple[int, bytes]:
    """Type and content; up to 4 bytes fit into the tag itself, whose first half then holds size and type."""
    kind, num_bytes = struct.unpack(f"{order}II", tag := _read(stream, 8))
    if kind >> 16:
        return kind & 0xFFFF, tag[4 : 4 + (kind >> 16)]
    _require(num_bytes <= limit, f"damaged: {num_bytes:,} bytes where at most {limit:,} are due: get it again")
    content = _read(stream, num_bytes)
    stream.read(-num_bytes % 8)  # elements begin at multiples of 8
    return kind, content


def _read(stream: _Stored | _Inflated, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    _require(len(data) == num_bytes, "damaged: an array ends too early: get it again")
    return data


def _check_end(stream: _Stored | _Inflated) -> None:
    """Nothing is left; reading on is also what makes zlib compare its checksum."""
    _require(not stream.read(1), "damaged: an array ends too late: get it again")


def _byte_order(header: bytes, signature: bytes) -> str:
    """ "<" or ">" from a v5 file's 128 bytes; DataError if it is none. In v7.3, HDF5's signature is at byte 512."""
    _require(header, "the file is empty: get it again")
    is_hdf5 = header[124:] in V73_MARKS or HDF5_SIGNATURE in (header[:8], signature)
    _require(not is_hdf5, "expected MATLAB v5 to v7, got v7.3 (HDF5): save it as v7 (save -v7)")
    if header[124:] not in BYTE_ORDERS:
        _require(
            not header.startswith(b"MATLAB 5.0"), "interrupted: its header of 128 bytes is not whole: get it again"
        )
        got = "v4 or no .mat file" if 0 in header[:4] else "no .mat file"  # a zero there is the only mark of v4
        raise DataError(
            f"expected MATLAB v5 to v7, got {got}, it begins with {header[:16]!r}: save -v7 or get it again"
        )
    return BYTE_ORDERS[header[124:]]


def _require(holds: object, message: str) -> None:
    if not holds:
        raise DataError(message)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """What goes wrong with the file becomes a DataError that begins with its path and says its size."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file; {contents(path.parent)}: set data.root to the right one") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: expected a file, got a folder: move it away or set data.root") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check permissions and disk") from error
    except (struct.error, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}): get it again ({_size(path)})") from error
    except DataError as error:
        raise DataError(f"{path}: {error} ({_size(path)})") from error


def _size(path: Path) -> str:
    """The file's size in words, beside the official one where the name has one."""
    num_bytes = os.path.getsize(path) if os.path.isfile(path) else 0
    official = f"; the official file has {OFFICIAL_BYTES[path.name]:,}" if path.name in OFFICIAL_BYTES else ""
    return f"it has {num_bytes:,} bytes{official}"
