"""Which images a run trains on, validates on and tests on. One class per file in conf/data/.

Shapes: images (N, 3, 32, 32) uint8, labels (N,) uint8.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from svhn_vae.data.download import locate
from svhn_vae.data.drawn import drawn_once
from svhn_vae.data.mat import LabelledImages, read_mat
from svhn_vae.errors import DataError

DIVISION_SEED = 0  # not the run's: every run of a study validates on the same images


@dataclass(frozen=True)
class Dataset:
    """The three disjoint parts of a data set."""

    name: str
    is_synthetic: bool
    train: LabelledImages
    val: LabelledImages
    test: LabelledImages

    @cached_property
    def train_digest(self) -> str:
        """Names the training images: what is fitted on them is kept under it."""
        return digest(self.train)

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

    def __post_init__(self) -> None:
        if isinstance(self.splits, str) or not self.splits or len(set(self.splits)) < len(self.splits):
            raise DataError(
                f"data.splits must be a list of splits, each once, such as [train,extra], got {self.splits}"
            )
        object.__setattr__(self, "splits", tuple(self.splits))
        if self.division not in DIVISIONS:
            raise DataError(f"data.division must be one of {', '.join(DIVISIONS)}, got {self.division}")
        if not 0 < self.held_out < 1:
            raise DataError(f"data.held_out must be a fraction above 0 and below 1, got {self.held_out}")
        if self.limit is not None and not (is_count(self.limit) or is_fraction(self.limit)):
            raise DataError(f"data.limit must be a fraction (0.2), a count (5000) or null for all, got {self.limit}")

    @property
    @abstractmethod
    def name(self) -> str:
        """The data's name in tables."""

    @abstractmethod
    def read(self, split: str) -> LabelledImages:
        """All images of one split; DataError if there are none to be had."""

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
        return concatenate([head(part, last - first) for part, (first, last) in zip(parts, shares, strict=True)])

    def _count(self, total: int) -> int:
        """How many of `total` training images the limit leaves."""
        count = round(self.limit * total) if isinstance(self.limit, float) else self.limit or total
        if not 1 <= count <= total:
            raise DataError(
                f"data.limit={self.limit} leaves {count} training images, expected 1..{total}, those of "
                f"{list(self.splits)} less the held out: choose another fraction or count"
            )
        return count


@dataclass(frozen=True, kw_only=True)
class SVHN(Source):
    """Street View House Numbers, format 2 (Netzer et al. 2011): see `download.locate` for root and verify."""

    root: str | None
    verify: str
    url: str

    @property
    def name(self) -> str:
        return f"svhn {'+'.join(self.splits)}"

    def read(self, split: str) -> LabelledImages:
        return read_mat(self._file(split))

    def fingerprint(self) -> str:
        """With the size and the time of each file."""
        facts = [self._file(split).stat() for split in dict.fromkeys([*self.splits, "test"])]
        return f"{self} {[(fact.st_size, fact.st_mtime_ns) for fact in facts]}"

    def _file(self, split: str) -> Path:
        return Path(locate(split, root=self.root, verify=self.verify, url=self.url))


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """Digits drawn on the spot: a stand-in that needs no download, marked `synthetic` wherever it is used."""

    num_train: int
    num_test: int
    drawing_seed: int

    is_synthetic = True

    @property
    def name(self) -> str:
        return "synthetic"

    def read(self, split: str) -> LabelledImages:
        sizes = {"train": self.num_train, "test": self.num_test}
        if split not in sizes:
            raise DataError(f"data=synthetic has the splits train and test, got {split}")
        # Two drawings that share no image: seeds 2 s and 2 s + 1.
        return drawn_once(sizes[split], 2 * self.drawing_seed + (split == "test"))


_loaded: dict[str, Dataset] = {}


def load_once(source: Source) -> Dataset:
    """`source.load()`, shared by the jobs that one process runs after another; the last one is kept."""
    name = repr(source)  # equality would take limit=1 and limit=1.0 for the same
    if name not in _loaded:
        _loaded.clear()
        _loaded[name] = source.load()
    return _loaded[name]


def is_count(limit: object) -> bool:
    return isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1


def is_fraction(limit: object) -> bool:
    return isinstance(limit, float) and 0 < limit <= 1


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
    val = concatenate([select(part, mask) for part, mask in zip(parts, masks, strict=True)])
    return [select(part, ~mask) for part, mask in zip(parts, masks, strict=True)], val


DIVISIONS: dict[str, Callable[[Sequence[LabelledImages], float], tuple[list[LabelledImages], LabelledImages]]] = {
    "contiguous": tail_of_the_first,
    "random": random_subset,
}


def cut_tail(whole: LabelledImages, fraction: float) -> tuple[LabelledImages, LabelledImages]:
    """All but the last `fraction` of the images, and those."""
    count = len(whole.labels)
    start = count - num_held_out(count, fraction)
    return head(whole, start), LabelledImages(*(array[start:] for array in whole))


def num_held_out(count: int, fraction: float) -> int:
    """This fraction of `count` images, and at least one image on either side."""
    if count < 2:
        raise DataError(f"expected at least 2 images to divide into two parts, got {count}: use a larger split")
    return min(max(round(fraction * count), 1), count - 1)


def head(whole: LabelledImages, count: int) -> LabelledImages:
    return LabelledImages(*(array[:count] for array in whole))


def select(whole: LabelledImages, mask: torch.Tensor) -> LabelledImages:
    return LabelledImages(*(array[mask] for array in whole))


def concatenate(parts: Sequence[LabelledImages]) -> LabelledImages:
    """One after the other; a single part is not copied."""
    return parts[0] if len(parts) == 1 else LabelledImages(*(torch.cat(arrays) for arrays in zip(*parts, strict=True)))


def digest(*parts: LabelledImages) -> str:
    """16 hexadecimal digits that name the images and labels, and where one part ends and the next begins."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part.labels).to_bytes(8, "little"))
        for array in part:
            sha.update(array.contiguous().numpy())
    return sha.hexdigest()[:16]
