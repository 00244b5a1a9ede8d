"""SVHN's format 2: a .mat file per split, X (32, 32, 3, N) uint8 and y (N, 1) with labels 1..10; 10 is the digit 0.

Shapes: images (N, 3, 32, 32), that is image, channel, row, column; labels (N,). Both are uint8.
Files are untrusted: scipy reads two numeric arrays of each, and whatever is wrong with a file is one DataError.
"""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import scipy.io
import torch

from svhn_vae.data.download import Official
from svhn_vae.data.sources import LabelledImages, errors_of
from svhn_vae.errors import DataError

MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # types of values: 1 and 2 are int8 and uint8, 5 and 6 are int32 and uint32
COMPLEX_FLAG, NUMERIC, LAST_CLASS = 0x0800, range(6, 16), 17
HEADER_BYTES = 1024  # more than the shape and the name of an array need


class SVHN(Official):
    """Street View House Numbers, format 2 (Netzer et al. 2011)."""

    licence = "for non-commercial use (Netzer et al. 2011)"
    image_shape = (3, 32, 32)  # pyright: ignore[reportAssignmentType]
    num_labels = 10  # pyright: ignore[reportAssignmentType]
    files: ClassVar = {
        "train_32x32.mat": ("e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
        "test_32x32.mat": ("eb5a983be6a315427106f1b164d9cef3", 64_275_384),
        "extra_32x32.mat": ("a93ce644f1a588dc4d68dda5feec44a7", 1_329_278_602),
    }

    @property
    def name(self) -> str:
        return f"svhn {'+'.join(self.splits)}"

    def read(self, split: str) -> LabelledImages:
        return read_mat(self.file(self.of_split(split, {name.partition("_")[0]: name for name in self.files})))


def read_mat(path: Path) -> LabelledImages:
    """The images and labels of one file; DataError if it is not a whole file of format 2.

    Peak memory: twice the images, once as scipy reads them and once in our order.
    """
    official = SVHN.files.get(path.name, ("", None))[1]
    with errors_of(path, official), warnings.catch_warnings(action="ignore"), path.open("rb") as file:
        _check_container(file)
        file.seek(0)
        variables = scipy.io.whosmat(file)
        names = [name for name, _, _ in variables]
        _require("digitStruct" not in names, "expected format 2, got format 1 (digitStruct): data=svhn_full reads that")
        are_there = names.count("X") == names.count("y") == 1
        _require(are_there, f"expected one array X and one array y, got {names}: save both, or get the file again")
        kind = variables[names.index("X")][2]  # loadmat has logical values as uint8, too
        _require(kind == "uint8", f"X must be uint8 in 0..255, got {kind}: convert it before saving")
        file.seek(0)
        arrays = scipy.io.loadmat(file, variable_names=("X", "y"))
        images = _to_images(arrays["X"])
        return LabelledImages(images, to_digits(arrays["y"], len(images)))


def _to_images(pixels: np.ndarray) -> torch.Tensor:
    """(32, 32, 3, N) uint8 -> (N, 3, 32, 32) uint8."""
    got = f"got {pixels.shape}"
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels  # MATLAB drops the last dimension of a single image
    is_right = pixels.ndim == 4 and pixels.shape[:3] == (32, 32, 3) and pixels.size
    _require(is_right, f"X must be (32, 32, 3, N), that is row, column, channel, image, {got}: permute or resize it")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))


def to_digits(y: np.ndarray, num: int) -> torch.Tensor:
    """(N, 1) of any numeric type in 1..10 -> (N,) uint8 in 0..9, N = num."""
    is_right = y.dtype.kind in "iuf" and y.shape in ((num, 1), (1, num))
    _require(is_right, f"y must be ({num}, 1) numbers, one per image, got {y.shape} {y.dtype}: save it as a column")
    y = y.ravel()
    if (wrong := ~np.isin(y, np.arange(1, 11))).any():
        first = int(wrong.argmax())
        got = f"{y[first]:g} at image {first} ({wrong.sum():,} of {num:,} are wrong)"
        raise DataError(f"labels must be whole numbers 1..10, where 10 is the digit 0; got {got}: save y anew")
    return torch.from_numpy((y % 10).astype(np.uint8))


def _check_container(file: BinaryIO) -> None:
    """The file is MATLAB v5 to v7, its arrays end exactly where it ends, and their tags are sound.

    scipy stops once it has its arrays: it misses a lost end of the last one, and garbage after it.
    """
    order = _byte_order(file.read(128))
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


def _byte_order(header: bytes) -> str:
    """Of a v5 file, by its first 128 bytes, else DataError."""
    match header[124:]:
        case b"\x00\x01IM":
            return "<"
        case b"\x01\x00MI":
            return ">"
        case b"\x00\x02IM" | b"\x02\x00MI":
            raise DataError("expected MATLAB v5 to v7, got v7.3 (HDF5): save it as v7 (save -v7)")
    whole = "interrupted or damaged in its first 128 bytes" if header.startswith(b"MATLAB 5.0") else "no .mat file"
    raise DataError(f"expected MATLAB v5 to v7, got {whole} (begins {header[:16]!r}): save -v7 or get it again")


def _require(holds: object, message: str) -> None:
    if not holds:
        raise DataError(message)
