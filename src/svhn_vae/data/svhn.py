"""SVHN's two formats. 2: a .mat file per split, X (32, 32, 3, N) uint8 and y (N, 1) with labels 1..10; 10 is the digit
0. 1: whole pictures and a digitStruct.mat (HDF5) with a box per digit, cut into crops like format 2's.

Shapes: images (N, 3, 32, 32), that is image, channel, row, column; labels (N,). Both are uint8. Pictures and their
crops are (H, W, 3) uint8; a box is left, top, width, height, label.
Files are untrusted: scipy reads two numeric arrays of each .mat file, and whatever is wrong with a file is one
DataError.
"""

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import scipy.io
import torch

from svhn_vae.data.cache import cached
from svhn_vae.data.download import Official, contents, user_cache
from svhn_vae.data.images import open_picture
from svhn_vae.data.sources import LabelledImages, Source, errors_of, files_fingerprint, of_split, require
from svhn_vae.errors import DataError

MATRIX, COMPRESSED = 14, 15  # types of elements of a .mat file
NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # types of values
TAGS = {"flags": {6}, "shape": {5}, "name": {1}, "values": NUMBERS}  # of an array, in order -> types they can have
NUMERIC, LAST_CLASS, COMPLEX_FLAG = range(6, 16), 17, 0x0800
HEADER_BYTES = 1024  # more than the shape and the name of an array need
FIELDS = ("left", "top", "width", "height", "label")
FORMAT = 1  # of files of crops in the cache: to be raised with any change of how they are cut
MAX_SIZE = 64  # pixels a side: as data=images, because eigenvectors of more values take hours
MAX_PIXELS = 100_000  # of a box's place and sides: whole numbers that are no mistake


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
        return read_mat(self.file(of_split(split, {name.partition("_")[0]: name for name in self.files})))


def read_mat(path: Path) -> LabelledImages:
    """The images and labels of one file; DataError if it is not a whole file of format 2.

    Peak memory: twice the images, once as scipy reads them and once in our order.
    """
    official = SVHN.files.get(path.name, ("", None))[1]
    with errors_of(path, official), warnings.catch_warnings(action="ignore"), path.open("rb") as file:
        check_tags(file)
        file.seek(0)
        arrays = scipy.io.loadmat(file, variable_names=("X", "y"))
        are_there = {"X", "y"} <= arrays.keys()
        require(are_there, "expected arrays X and y of MATLAB v5 to v7: save both (save -v7), or get the file again")
        images = _to_images(arrays["X"])
        return LabelledImages(images, to_digits(arrays["y"], len(images)))


def check_tags(file: BinaryIO) -> None:
    """Raises DataError if an array's tags are not sound: scipy (1.17) looks its class and types up without a check of
    their range, and crashes the interpreter (scipy PR 25829)."""
    got = "damaged or interrupted, or not of MATLAB v5 to v7, little-endian: get it again, or save it as v7 (save -v7)"
    require(file.read(128)[124:] == b"\x00\x01IM", got)
    while tag := file.read(8):
        kind, num_bytes = struct.unpack("<II", tag)
        place = file.tell()
        content = file.read(min(num_bytes, HEADER_BYTES))
        if kind == COMPRESSED:
            content = zlib.decompressobj().decompress(content, HEADER_BYTES)[8:]  # without the matrix's own tag
        require(kind in (MATRIX, COMPRESSED), f"damaged: at byte {place:,} no array begins: get it again")
        check_array(content)
        file.seek(place + num_bytes)


def check_array(content: bytes) -> None:
    """The tags at the start of an array."""
    [flags] = struct.unpack_from("<I", content, 8)
    require(1 <= flags & 0xFF <= LAST_CLASS, f"damaged: there is no class {flags & 0xFF}: get it again")
    require(not flags & COMPLEX_FLAG, "expected real numbers, got complex ones: save them anew")
    start = 0
    for name, types in TAGS.items():
        kind, num_bytes = struct.unpack_from("<II", content, start)
        is_small = kind >> 16  # up to 4 bytes fit into the tag itself, whose first half then holds size and type
        kind = kind & 0xFFFF if is_small else kind
        start += 8 if is_small else 8 + num_bytes + -num_bytes % 8
        is_free = name == "values" and flags & 0xFF not in NUMERIC
        require(is_free or kind in types, f"damaged: its {name} have type {kind}: get it again")


def _to_images(pixels: np.ndarray) -> torch.Tensor:
    """(32, 32, 3, N) uint8 -> (N, 3, 32, 32) uint8."""
    got = f"got {pixels.shape} {pixels.dtype}"
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels  # MATLAB drops the last dimension of a single image
    is_right = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[:3] == (32, 32, 3) and pixels.size
    require(is_right, f"X must be (32, 32, 3, N) uint8: row, column, channel, image; {got}: permute or convert it")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))


def to_digits(y: np.ndarray, num: int) -> torch.Tensor:
    """(N, 1) of any numeric type in 1..10 -> (N,) uint8 in 0..9, N = num."""
    is_right = y.dtype.kind in "iuf" and y.shape in ((num, 1), (1, num))
    require(is_right, f"y must be ({num}, 1) numbers, one per image, got {y.shape} {y.dtype}: save it as a column")
    y = y.ravel()
    if (wrong := ~np.isin(y, np.arange(1, 11))).any():
        first = int(wrong.argmax())
        got = f"{y[first]:g} at image {first} ({wrong.sum():,} of {num:,} are wrong)"
        raise DataError(f"labels must be whole numbers 1..10, where 10 is the digit 0; got {got}: save y anew")
    return torch.from_numpy((y % 10).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class SVHNFull(Source):
    """Street View House Numbers, format 1 (Netzer et al. 2011): crops of any size from the original pictures.

    The crop rule, found by a search on official crops: a box is extended to a square of its longer side, with the
    smaller half of the surplus before the box; what lies outside of the picture is left out; MATLAB's imresize
    stretches the rest. The 554 crops of the first 256 training pictures so equal the official ones in all but 13 of
    1,701,888 values, and these differ by 1. None of these boxes is wider than high. The official crops count the boxes'
    pixels from 0, unlike MATLAB.

    root: a folder with the official archives unpacked: train/, test/, extra/, each with pictures and digitStruct.mat.
    size: pixels a side of the crops; 32 are those of format 2.
    """

    root: str | None
    size: int

    licence = "for non-commercial use (Netzer et al. 2011)"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_size = type(self.size) is int and 2 <= self.size <= MAX_SIZE
        require(is_size, f"data.size must be 2..{MAX_SIZE} pixels a side, got {self.size}")

    @property
    def name(self) -> str:
        return f"svhn_full {'+'.join(self.splits)} {self.size}"

    num_labels = 10  # pyright: ignore[reportAssignmentType]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def read(self, split: str) -> LabelledImages:
        folder = self._root / of_split(split, {name: name for name in ("train", "test", "extra")})
        expected = f"data.root={self.root}: expected {split}/digitStruct.mat and its pictures"
        advice = f"unpack the official {split}.tar.gz there"
        is_there = self.root and (folder / "digitStruct.mat").is_file()
        require(is_there, f"{expected}, it holds {contents(self._root)}: {advice}")
        files = hashlib.sha256(f"{FORMAT} {self.size} {files_fingerprint(folder)}".encode()).hexdigest()[:16]
        path = user_cache() / f"svhn_full-{files}.safetensors"
        return cached(path, LabelledImages, partial(read_folder, folder, self.size))

    def fingerprint(self) -> str:
        return f"{self} {files_fingerprint(self._root)}"

    @property
    def _root(self) -> Path:
        return Path(os.path.expanduser(self.root or "."))


def read_folder(folder: Path, size: int) -> LabelledImages:
    """A crop of every digit, in the order of digitStruct.mat."""
    with errors_of(struct := folder / "digitStruct.mat"):
        boxes = list(read_boxes(struct))
        require(boxes, "expected boxes of digits, got none: get it again")
        digits = to_digits(np.array([box[4:] for _, box in boxes]), len(boxes))
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    index = 0
    for name, group in groupby(boxes, key=lambda each: each[0]):
        with errors_of(folder / name):
            picture = open_picture(folder / name, None, 3).transpose(1, 2, 0)
            for _, box in group:
                crops[index] = resized(extended(picture, box), size)
                index += 1
    return LabelledImages(torch.from_numpy(crops.transpose(0, 3, 1, 2).copy()), digits)


def read_boxes(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The picture's name and the box (5,), in the order of FIELDS, of every digit of a digitStruct.mat."""
    import h5py  # which format 2 does without

    file: Any

    def numbers(values: Any) -> list[float]:
        """A field of one box lies in place; of several boxes, each value behind a reference."""
        return [float((file[each][()] if isinstance(each, h5py.Reference) else each).item()) for each in values.flat]

    with h5py.File(path) as file:
        names, pictures = (file["digitStruct"][key][()].flat for key in ("name", "bbox"))
        for name, picture in zip(names, pictures, strict=True):
            text = bytes(file[name][()].astype(np.uint8).ravel()).decode("ascii")
            require(Path(text).name == text, f"expected names of pictures beside it, got {text!r}: get it again")
            fields = [numbers(file[picture][field][()]) for field in FIELDS]
            for box in zip(*fields, strict=True):
                yield text, np.array(box)


def extended(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What the picture shows of the square around a box."""
    is_sound = (np.abs(box) < MAX_PIXELS).all() and (box == box.round()).all() and box[2:4].min() >= 1
    left, top, width, height = map(int, box[:4] if is_sound else (0, 0, 0, 0))
    side = max(width, height)
    left, top = left - (side - width) // 2, top - (side - height) // 2
    crop = picture[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    expected = f"boxes of whole pixels that meet the picture, {picture.shape[1]} x {picture.shape[0]} pixels"
    got = dict(zip(FIELDS, box.tolist(), strict=True))
    require(crop.size, f"expected {expected}, got {got}: mend digitStruct.mat")
    return crop


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """As MATLAB's imresize of 2011 makes (size, size, 3): cubic, antialiased; the axis that shrinks most comes first,
    rows where both are equal, and values are rounded to whole levels after each axis."""
    for axis in sorted((0, 1), key=lambda axis: -image.shape[axis]):
        image = np.moveaxis(np.tensordot(_weights(image.shape[axis], size), image, (1, axis)), 0, axis)
        image = np.clip(np.floor(image + 0.5), 0, 255)
    return image.astype(np.uint8)


@lru_cache(maxsize=2048)
def _weights(num: int, size: int) -> np.ndarray:
    """(size, num): what each of `num` pixels adds to each of `size` (Keys 1981, a = -1/2), edges repeated."""
    scale = size / num
    stretch = min(scale, 1.0)  # a wider kernel where pixels are merged
    reach = int(np.ceil(4 / stretch)) + 2
    centres = np.arange(1, size + 1) / scale + 0.5 * (1 - 1 / scale) - 1
    places = np.floor(centres - 2 / stretch)[:, None] + np.arange(reach)
    x = np.abs(centres[:, None] - places) * stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = np.where(x <= 1, near, np.where(x <= 2, far, 0))
    weights = np.zeros((size, num))
    rows = np.repeat(np.arange(size), reach)
    np.add.at(weights, (rows, np.clip(places, 0, num - 1).astype(int).ravel()), kernel.ravel())
    return weights / weights.sum(1, keepdims=True)
