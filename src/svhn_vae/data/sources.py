"""Which images a run trains on, validates on and tests on: one class of Source per file in conf/data/.

Shapes: images (N, C, H, W) uint8, labels (N,) uint8.
"""

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from svhn_vae.errors import Damaged, DataError, counted
from svhn_vae.model.coordinates import UNKNOWN
from svhn_vae.runs.files import replacing

DIVISION_SEED = 0  # not the run's: every run of a study validates on the same images
FORMAT = 2  # of files of mapped images: to be raised with any change of how images are drawn, decoded or divided
PARTS = ("train", "val", "test")
T = TypeVar("T")


class LabelledImages(NamedTuple):
    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) uint8; all 0 where the source has no labels


@dataclass(frozen=True)
class Dataset:
    """The three disjoint parts of a data set."""

    name: str
    is_synthetic: bool
    train: LabelledImages
    val: LabelledImages
    test: LabelledImages

    @property
    def image_shape(self) -> torch.Size:
        """(C, H, W)"""
        return self.train.images.shape[1:]

    @cached_property
    def train_digest(self) -> str:
        """Names the training images: what is fitted on them is kept under it."""
        return digest(self.train)

    @cached_property
    def test_digest(self) -> str:
        """Names the test images: figures of two runs compare only where they are the same."""
        return digest(self.test)

    @cached_property
    def digest(self) -> str:
        """Names all three parts, in their order."""
        return digest(self.train, self.val, self.test)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where images come from, and how they are divided.

    splits: what to train on.
    division: how the validation images are chosen, one of DIVISIONS. `contiguous`: the tail of the first split, because
        the official files are in picture order and neighbours show the same picture. `random`: of all splits together.
    limit: how much of the remaining training images to use, from the start of each split: a fraction below or equal
        to 1.0, a count, or None for all.
    held_out: the fraction that validates. Where `test` is itself among the splits, its tail of this fraction stays
        apart as the test images; else all of it does.
    """

    splits: Sequence[str]
    division: str
    limit: float | int | None
    held_out: float

    is_synthetic = False
    licence = "not known: ask whoever made them"  # of the images

    def __post_init__(self) -> None:
        is_list = not isinstance(self.splits, str) and len(set(self.splits)) == len(self.splits) > 0
        require(is_list, f"data.splits must be a list of splits, each once, such as [train,extra], got {self.splits}")
        object.__setattr__(self, "splits", tuple(self.splits))
        choices = ", ".join(DIVISIONS)
        require(self.division in DIVISIONS, f"data.division must be one of {choices}, got {self.division}")
        is_fraction = 0 < self.held_out < 1
        require(is_fraction, f"data.held_out must be a fraction above 0 and below 1, got {self.held_out}")
        is_count = type(self.limit) is int and self.limit >= 1
        is_limit = self.limit is None or is_count or (type(self.limit) is float and 0 < self.limit <= 1)
        require(is_limit, f"data.limit must be a fraction (0.2), a count (5000) or null for all, got {self.limit}")

    @property
    @abstractmethod
    def name(self) -> str:
        """The data's name in tables."""

    @abstractmethod
    def read(self, split: str) -> LabelledImages:
        """All images of one split; DataError if there are none to be had."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image, known before they are read."""

    @property
    def num_labels(self) -> int:
        """Labels are 0..num_labels - 1; published data say so before they are read."""
        return int(load_once(self).train.labels.max()) + 1

    def fingerprint(self) -> str:
        """Changes with the images, as far as can be known without reading them."""
        return repr(self)

    def load(self) -> Dataset:
        """Reads and divides the splits; the same source gives the same images in the same order."""
        parts = [self.read(split) for split in self.splits]
        if "test" in self.splits:
            index = self.splits.index("test")
            parts[index], test = cut_tail(parts[index], self.held_out)
        else:
            test = self.read("test")
        parts, val = DIVISIONS[self.division](parts, self.held_out)
        return Dataset(self.name, self.is_synthetic, self._limited(parts), val, test)

    def _limited(self, parts: Sequence[LabelledImages]) -> LabelledImages:
        """`limit` images from the starts of the parts, in proportion to their sizes."""
        ends = list(itertools.accumulate(len(part.labels) for part in parts))
        count = self._count(ends[-1])
        shares = itertools.pairwise([0, *(round(count * end / ends[-1]) for end in ends)])
        return concatenate([take(part, slice(last - first)) for part, (first, last) in zip(parts, shares, strict=True)])

    def _count(self, total: int) -> int:
        """How many of `total` training images the limit leaves."""
        splits, num = list(self.splits), counted(total, "training image")
        few = f"{splits} leaves {num} beside the validation images of data.held_out={self.held_out}"
        require(total >= 2, f"{few}, expected at least 2: use more images")  # a variance needs two
        count = round(self.limit * total) if isinstance(self.limit, float) else self.limit or total
        left = f"data.limit={self.limit} leaves {count} of {total} training images of {splits}, expected "
        advice = "choose another fraction or count, or a smaller data.held_out"
        require(2 <= count <= total, f"{left}at least 2 and at most all: {advice}")
        return count


@dataclass(frozen=True)
class Mapped:
    """A source whose images are mapped from a file in `folder`, which the first `load` writes.

    All processes of a machine share its pages in memory. The images are checked against their digest at every load.
    """

    source: Source
    folder: Path

    def load(self) -> Dataset:
        name = hashlib.sha256(self.source.fingerprint().encode()).hexdigest()[:16]
        path = self.folder / f"images-{FORMAT}-{name}.safetensors"
        try:
            return mapped(path)
        except (FileNotFoundError, Damaged):
            dataset = self.source.load()
        try:
            with replacing(path) as beside:
                arrays = {f"{part}.{kind}": array.contiguous()
                          for part in PARTS for kind, array in getattr(dataset, part)._asdict().items()}  # fmt: skip
                facts = {"name": dataset.name, "synthetic": str(dataset.is_synthetic), "digest": dataset.digest}
                save_file(arrays, beside, facts)
            return mapped(path)
        except OSError as error:
            print(f"  {path} cannot be written ({error}): the images stay in memory", flush=True)
            return dataset


def mapped(path: Path) -> Dataset:
    """The images of a file that Mapped wrote. Raises FileNotFoundError or Damaged."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            parts = [[file.get_tensor(f"{part}.{kind}") for kind in LabelledImages._fields] for part in PARTS]
        dataset = Dataset(facts["name"], facts["synthetic"] == "True", *(LabelledImages(*part) for part in parts))
        found = dataset.digest
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    if found != facts["digest"]:
        raise Damaged(path, f"its digest is {found}")
    return dataset


_loaded: dict[str, Dataset] = {}


def load_once(source: Source | Mapped) -> Dataset:
    """`source.load()`, shared by the jobs that one process runs after another; the last one is kept.

    Prints a notice if test images are training or validation images, too.
    """
    name = repr(source)  # equality would take limit=1 and limit=1.0 for the same
    if name not in _loaded:
        _loaded.clear()
        _loaded[name] = dataset = source.load()
        if leaked := num_leaked(dataset):
            total = len(dataset.test.labels)
            print(f"  {leaked:,} of {total:,} test images are training or validation images, too: of these the test "
                  "figures say nothing", flush=True)  # fmt: skip
    return _loaded[name]


def known_labels(labels: Tensor, share: float) -> Tensor:
    """Labels (N,) -> int64, UNKNOWN but for a share of the images, drawn evenly over the labels: the same for every
    run, so that all learn from the same."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIVISION_SEED))
    drawn = torch.nn.functional.one_hot(labels[order].long())
    rank = (drawn.cumsum(0) * drawn).sum(1)  # of an image among those of its label
    chosen = order[rank.argsort(stable=True)[: max(1, round(share * len(labels)))]]
    return torch.full_like(labels, UNKNOWN, dtype=torch.int64).index_copy(0, chosen, labels[chosen].long())


def num_leaked(dataset: Dataset) -> int:
    """How many test images are, pixel by pixel, also training or validation images."""
    known = {hash(image.tobytes()) for part in (dataset.train, dataset.val) for image in part.images.numpy()}
    return sum(hash(image.tobytes()) in known for image in dataset.test.images.numpy())


def tail_of_the_first(parts: Sequence[LabelledImages], fraction: float) -> tuple[list[LabelledImages], LabelledImages]:
    """The parts without the last `fraction` of the first one's images, and those."""
    first, val = cut_tail(parts[0], fraction)
    return [first, *parts[1:]], val


def random_subset(parts: Sequence[LabelledImages], fraction: float) -> tuple[list[LabelledImages], LabelledImages]:
    """The parts without a random `fraction` of all their images, and those; both in their order."""
    sizes = [len(part.labels) for part in parts]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(DIVISION_SEED))
    is_val = torch.zeros(sum(sizes), dtype=torch.bool)
    is_val[order[: num_held_out(sum(sizes), fraction)]] = True
    masks = is_val.split(sizes)
    val = concatenate([take(part, mask) for part, mask in zip(parts, masks, strict=True)])
    return [take(part, ~mask) for part, mask in zip(parts, masks, strict=True)], val


DIVISIONS: dict[str, Callable[[Sequence[LabelledImages], float], tuple[list[LabelledImages], LabelledImages]]] = {
    "contiguous": tail_of_the_first,
    "random": random_subset,
}


def cut_tail(whole: LabelledImages, fraction: float) -> tuple[LabelledImages, LabelledImages]:
    """All but the last `fraction` of the images, and those."""
    start = len(whole.labels) - num_held_out(len(whole.labels), fraction)
    return take(whole, slice(start)), take(whole, slice(start, None))


def num_held_out(count: int, fraction: float) -> int:
    """This fraction of `count` images, and at least one image on either side."""
    require(count >= 2, f"expected at least 2 images to divide into two parts, got {count}: use a larger split")
    return min(max(round(fraction * count), 1), count - 1)


def take(whole: LabelledImages, which: slice | Tensor) -> LabelledImages:
    return LabelledImages(*(array[which] for array in whole))


def concatenate(parts: Sequence[LabelledImages]) -> LabelledImages:
    """One after the other; a single part is not copied."""
    return parts[0] if len(parts) == 1 else LabelledImages(*(torch.cat(arrays) for arrays in zip(*parts, strict=True)))


def digest(*parts: LabelledImages) -> str:
    """16 hexadecimal digits that name the images and labels, and where one part ends and the next begins."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part.labels).to_bytes(8, "little"))
        for array in part:
            sha.update(array.contiguous().numpy())  # pyright: ignore[reportArgumentType]
    return sha.hexdigest()[:16]


def files_fingerprint(*places: Path) -> str:
    """Of the name, the size and the time of each file at or below these places."""
    files = sorted(path for place in places for path in [place, *place.rglob("*")] if path.is_file())
    facts = [(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def require(holds: object, message: str) -> None:
    """Raises DataError if something does not hold."""
    if not holds:
        raise DataError(message)


def of_split(split: str, choices: Mapping[str, T]) -> T:
    """What belongs to a split; DataError if there is no such one."""
    require(split in choices, f"the splits are {', '.join(choices)}; got {split!r}: choose one of them")
    return choices[split]


def labelled(images: np.ndarray, labels: np.ndarray, num_labels: int) -> LabelledImages:
    """Images (N, C, H, W) uint8 and labels (N,), whole numbers 0..num_labels - 1; DataError if they are not."""
    is_right = len(images) and labels.shape == images.shape[:1] and labels.dtype.kind in "iu"
    is_right = is_right and labels.min() >= 0 and labels.max() < num_labels
    got = f"{labels.shape} {labels.dtype} for images {images.shape}"
    require(is_right, f"expected labels, a whole number 0..{num_labels - 1} for each image, got {got}: get it again")
    owned = np.require(images, requirements=["C", "W"]), labels.astype(np.uint8)
    return LabelledImages(*map(torch.from_numpy, owned))


@contextmanager
def errors_of(path: Path, official_bytes: int | None = None) -> Iterator[None]:
    """What goes wrong with a file becomes a DataError of one line: the path, what it is, and the file's size."""
    try:
        yield
    except Exception as error:  # scipy, zlib, struct, Pillow, numpy, tarfile and h5py raise a dozen kinds
        match error:
            case DataError():
                what = str(error)
            case OSError(strerror=str(reason)):
                what = f"cannot be read ({reason}): set data.root, or get it again"
            case MemoryError():
                what = "no memory for its images: a larger machine is needed"
            case _:
                what = f"damaged or interrupted ({error!r:.200}): get it again, or take it away"
        size = f"it has {os.path.getsize(path) if os.path.isfile(path) else 0:,} bytes"
        official = f"; the official file has {official_bytes:,}" if official_bytes else ""
        raise DataError(f"{path}: {' '.join(what.split())} ({size}{official})") from error
