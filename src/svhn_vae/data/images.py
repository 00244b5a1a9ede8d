"""Images other than SVHN's: a folder of pictures or an array, CIFAR-10, MNIST.

Shapes: images (N, C, H, W) uint8, C = 1 or 3; labels (N,) uint8.
Files are untrusted: nothing is unpickled, and whatever is wrong with a file is one DataError.
"""

import gzip
import math
import os
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps

from svhn_vae.data.download import Official, contents
from svhn_vae.data.sources import (
    LabelledImages,
    Source,
    errors_of,
    files_fingerprint,
    labelled,
    of_split,
    require,
    take,
)

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ARRAYS = (".npz", ".npy")
GREY = ("1", "L", "LA")  # Pillow's modes; of 16 bits and of floats are I and F
DEEP = ("I", "F")
MAX_LABELS = 256
MAX_VALUES = 64 * 64 * 3  # of an image: the eigenvectors of a covariance of D values take D^3, here an hour of a core


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """A person's own images.

    root: a folder of png, jpg and webp files, or an array: .npy, or .npz with `images` and perhaps `labels`. The names
        of sub-folders are labels. Where there are `train` and `test` in a folder (folders or arrays), these are the
        splits. Else every n-th image in the order of names is a test image, n = 1 / held_out.
    size: pictures are cut to the square in their middle and resized to so many pixels a side; None: all have one size.
    channels: 1 (grey) or 3 (colour); None: as the first picture has them.
    """

    root: str | None
    size: int | None
    channels: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        is_size = self.size is None or (isinstance(self.size, int) and 2 <= self.size <= 1024)
        require(is_size, f"data.size must be 2..1024 pixels, or null for pictures of one size, got {self.size}")
        is_kind = self.channels in (None, 1, 3)
        require(is_kind, f"data.channels must be 1, 3 or null for those of the pictures, got {self.channels}")
        is_there = self.root and os.path.exists(self._root)
        require(is_there, f"data.root={self.root}: expected a folder of pictures, a .npz or a .npy file: set data.root")

    @property
    def name(self) -> str:
        return f"images {self._root.stem}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        place, _ = self._place("train")
        if place.suffix in ARRAYS:
            shape = tuple(read_array(place, self.size, self.channels, count=1).images.shape[1:])
        else:
            with errors_of(first := pictures_in(place)[0]):
                shape = open_picture(first, self.size, self.channels).shape
        size = f"images {shape} have {math.prod(shape):,} values, more than {MAX_VALUES:,}"
        advice = "their covariance takes hours: resize them by data.size=32"
        require(math.prod(shape) <= MAX_VALUES, f"data.root={self.root}: {size}: {advice}")
        return shape  # pyright: ignore[reportReturnType]

    def read(self, split: str) -> LabelledImages:
        place, is_whole = self._place(split)
        if place.suffix in ARRAYS:
            found = read_array(place, self.size, self.channels)
        else:
            training, _ = self._place("train")
            names = sorted({_label_of(path, training) for path in pictures_in(training)})
            found = read_pictures(place, names, self.size, self.channels)
        if is_whole:
            return found
        is_test = torch.arange(len(found.labels)) % max(round(1 / self.held_out), 2) == 0
        return take(found, is_test if split == "test" else ~is_test)

    def fingerprint(self) -> str:
        return f"{self} {files_fingerprint(self._root)}"

    @property
    def _root(self) -> Path:
        return Path(os.path.expanduser(self.root))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def _place(self, split: str) -> tuple[Path, bool]:
        """The folder or array of a split, and whether all of it is."""
        names = {name: [self._root / f"{name}{suffix}" for suffix in ("", *ARRAYS)] for name in ("train", "test")}
        places = {name: next((path for path in paths if path.exists()), None) for name, paths in names.items()}
        place = of_split(split, places)
        if all(places.values()):
            return place, True  # pyright: ignore[reportReturnType]
        return places["train"] or self._root, False


def pictures_in(folder: Path) -> list[Path]:
    """All pictures below a folder, in the order of their names. DataError if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    expected = f"{folder}: expected {', '.join(PICTURES)} files"
    require(found, f"{expected}, it holds {contents(folder)}: set data.root")
    return found


def read_pictures(folder: Path, names: list[str], size: int | None, channels: int | None) -> LabelledImages:
    """All pictures below a folder, labelled by the place of their sub-folder among `names`."""
    expected = f"{folder}: expected at most {MAX_LABELS} sub-folders, which are labels"
    require(len(names) <= MAX_LABELS, f"{expected}, got {len(names)}")
    images, labels = [], []
    for path in pictures_in(folder):
        with errors_of(path):
            images.append(open_picture(path, size, channels))
            labels.append(_label_of(path, folder))
            (channels, *first), (_, *own) = images[0].shape, images[-1].shape
            differ = f"it has {own[1]} x {own[0]} pixels and the first picture {first[1]} x {first[0]}"
            require(own == first, f"{differ}: resize all by data.size={min(first)}")
            unknown = f"no training picture is in a folder {labels[-1]}"
            require(labels[-1] in names, f"{unknown}: the names of sub-folders are labels")
    return labelled(np.stack(images), np.array([names.index(label) for label in labels]), MAX_LABELS)


def _label_of(path: Path, folder: Path) -> str:
    """The name of the sub-folder that a picture is in; "" of none."""
    return path.relative_to(folder).parts[0] if path.parent != folder else ""


def open_picture(path: Path, size: int | None, channels: int | None) -> np.ndarray:
    """A picture as (C, H, W) uint8, turned as its camera was held."""
    with warnings.catch_warnings(action="error"), Image.open(path) as image:  # warned of: too large to be meant
        is_deep = image.mode.startswith(DEEP)
        require(not is_deep, f"expected 8 bits per channel, got Pillow's mode {image.mode}: convert it")
        return as_asked(ImageOps.exif_transpose(image), size, channels)


def as_asked(image: Image.Image, size: int | None, channels: int | None) -> np.ndarray:
    """Of 8 bits -> (C, H, W) uint8; None: as it is."""
    is_grey = image.mode in GREY
    coloured = "it has colours, and the first picture or data.channels has none"
    require(is_grey or channels != 1, f"{coloured}: set data.channels=3")
    channels = channels or (1 if is_grey else 3)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.array(image).reshape(*image.size[::-1], channels).transpose(2, 0, 1)


def read_array(path: Path, size: int | None, channels: int | None, count: int | None = None) -> LabelledImages:
    """The first `count` or all images of a .npy, or the `images` and `labels` of a .npz file."""
    with errors_of(path), path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            loaded = {"images": loaded}
        names = ", ".join(loaded) or "none"
        require("images" in loaded, f"expected an array `images`, and perhaps `labels`, got {names}")
        images = _with_channels_first(np.asarray(loaded["images"]))
        labels = np.asarray(loaded["labels"]) if "labels" in loaded else np.zeros(len(images), np.uint8)
        found = take(labelled(images, labels, MAX_LABELS), slice(count))
        if size is None and channels is None:
            return found
        rows = found.images.permute(0, 2, 3, 1).numpy()
        pictures = (Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in rows)
        resized = np.stack([as_asked(picture, size, channels) for picture in pictures])
        return found._replace(images=torch.from_numpy(resized))


def _with_channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) uint8 -> (N, C, H, W)."""
    given = f"{images.shape} {images.dtype}"
    images = images[:, None] if images.ndim == 3 else images
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    is_right = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3) and images.size
    expected = "expected images (N, H, W), (N, H, W, C) or (N, C, H, W) of uint8 levels, grey or colour"
    require(is_right, f"{expected}, got {given}: convert them")
    return images


class CIFAR10(Official):
    """60,000 photographs of ten kinds of things (Krizhevsky 2009), of the binary version, which needs no pickle."""

    licence = "none is stated (Krizhevsky 2009 asks to be cited)"
    name = "cifar10"  # pyright: ignore[reportAssignmentType]
    image_shape = (3, 32, 32)  # pyright: ignore[reportAssignmentType]
    num_labels = 10  # pyright: ignore[reportAssignmentType]
    files: ClassVar = {"cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530", 170_052_171)}

    def read(self, split: str) -> LabelledImages:
        names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
        members, [path] = of_split(split, names), map(self.file, self.files)
        with errors_of(path), tarfile.open(path) as archive:
            contents = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin").read() for name in members]
            records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 3073)  # a label and the channels' rows
            return labelled(records[:, 1:].reshape(-1, *self.image_shape), records[:, 0], self.num_labels)


class MNIST(Official):
    """70,000 handwritten digits (LeCun et al. 1998), in grey."""

    licence = "none is stated by its authors (LeCun et al. 1998)"
    name = "mnist"  # pyright: ignore[reportAssignmentType]
    image_shape = (1, 28, 28)  # pyright: ignore[reportAssignmentType]
    num_labels = 10  # pyright: ignore[reportAssignmentType]
    files: ClassVar = {
        "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    }

    def read(self, split: str) -> LabelledImages:
        prefix = of_split(split, {"train": "train", "test": "t10k"})
        images = read_idx(self.file(f"{prefix}-images-idx3-ubyte.gz"), num_axes=3)
        labels = read_idx(path := self.file(f"{prefix}-labels-idx1-ubyte.gz"), num_axes=1)
        with errors_of(path):
            return labelled(images.reshape(-1, *self.image_shape), labels, self.num_labels)


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """The uint8 array of a .gz file in the idx format: 0, 0, type 8, number of axes, sizes (big-endian), values."""
    with errors_of(path), gzip.open(path) as file:
        head = file.read(4)
        is_right = head == bytes([0, 0, 8, num_axes])
        require(is_right, f"expected idx values of uint8 with {num_axes} axes, got {head!r}: get it again")
        shape = np.frombuffer(file.read(4 * num_axes), ">u4").astype(int)
        return np.frombuffer(file.read(), np.uint8).reshape(shape)
