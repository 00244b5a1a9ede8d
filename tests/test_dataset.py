"""How images are divided: nothing is in two parts, neighbours stay together, and the digest names what was loaded."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from svhn_vae.data.sources import (
    DIVISIONS,
    PARTS,
    Dataset,
    LabelledImages,
    Mapped,
    Source,
    _loaded,
    cut_tail,
    digest,
    load_once,
)
from svhn_vae.errors import DataError

SPLITS = {"train": range(40), "test": range(100, 120), "extra": range(200, 230)}  # the content of their images
SPLIT_LISTS = [["train"], ["extra", "train"], ["test"], ["test", "train"], ["train", "test", "extra"]]


def numbered(numbers) -> LabelledImages:
    """Images that are filled with their number, and its last digit for a label."""
    numbers = torch.tensor(list(numbers), dtype=torch.uint8)
    return LabelledImages(numbers[:, None, None, None].expand(-1, 3, 2, 2).clone(), numbers % 10)


def numbers_of(part: LabelledImages) -> list[int]:
    assert torch.equal(part.images[:, 0, 0, 0] % 10, part.labels)
    return part.images[:, 0, 0, 0].tolist()


@dataclass(frozen=True, kw_only=True)
class Numbered(Source):
    """A source in memory."""

    name = "numbered"
    image_shape = (3, 2, 2)

    def read(self, split: str) -> LabelledImages:
        return numbered(SPLITS[split])


def source(splits=("train",), limit=None, held_out=0.25, division="contiguous") -> Numbered:
    return Numbered(splits=splits, limit=limit, held_out=held_out, division=division)


@pytest.fixture
def empty_cache():
    _loaded.clear()
    yield
    _loaded.clear()


every_division = pytest.mark.parametrize("division", DIVISIONS)
every_list_of_splits = pytest.mark.parametrize("splits", SPLIT_LISTS, ids="+".join)


@every_division
@every_list_of_splits
def test_no_image_is_in_two_parts_and_none_is_lost(splits, division):
    dataset = source(splits, division=division).load()
    train, val, test = (numbers_of(part) for part in (dataset.train, dataset.val, dataset.test))
    due = [number for split in {*splits, "test"} for number in SPLITS[split]]
    assert sorted([*train, *val, *test]) == sorted(due)
    assert train == [n for split in splits for n in SPLITS[split] if n not in {*val, *test}]  # in their order
    assert test == list(SPLITS["test"][-5:] if "test" in splits else SPLITS["test"])
    first = SPLITS[splits[0]][:15] if splits[0] == "test" else SPLITS[splits[0]]  # 15: the last 5 test
    if division == "contiguous":
        assert val == list(first[-round(0.25 * len(first)) :])
    else:
        assert len(val) == round(0.25 * (len(train) + len(val)))


@pytest.mark.parametrize(("held_out", "num_val"), [(0.1, 4), (1e-6, 1), (0.95, 38)])
@every_division
def test_held_out_is_a_fraction_and_leaves_images_on_both_sides(held_out, num_val, division):
    dataset = source(held_out=held_out, division=division).load()
    assert (len(dataset.val.labels), len(dataset.train.labels)) == (num_val, 40 - num_val)


def test_random_validation_is_of_all_splits_no_block_and_always_the_same():
    """The post's: a random tenth of train, test and extra together."""
    parts = source(["train", "test", "extra"], division="random")
    val = np.array(numbers_of(parts.load().val))
    assert {number // 100 for number in val} == {0, 1, 2}
    assert (np.diff(val) > 0).all()
    assert (np.diff(val) > 1).sum() > 3
    torch.manual_seed(7)
    assert parts.load().digest == parts.load().digest


@pytest.mark.parametrize(("limit", "num"), [(None, 30), (1.0, 30), (0.5, 15), (0.1, 3), (40, 20), (60, 30)])
def test_limit_takes_the_start_of_each_split(limit, num):
    assert numbers_of(source(["train", "extra"], limit).load().train) == [*range(num), *range(200, 200 + num)]


@pytest.mark.parametrize("limit", [None, 1, 2, 0.1, 1.0])
@pytest.mark.parametrize("held_out", [0.01, 0.25, 0.9, 0.99])
def test_too_few_training_images_are_not_laid_to_a_limit_that_nobody_set(limit, held_out, monkeypatch):
    for num in range(1, 12):
        monkeypatch.setitem(SPLITS, "train", range(num))
        left = num - max(1, min(round(held_out * num), num - 1))
        if num >= 2 and left >= 2 and repr(limit) in ("None", "2", "1.0"):
            assert len(source(limit=limit, held_out=held_out).load().train.labels) == (2 if limit == 2 else left)
            continue
        with pytest.raises(DataError) as refused:
            source(limit=limit, held_out=held_out).load()
        said = str(refused.value)
        assert "None" not in said
        assert ("data.limit" in said) == (left >= 2)
        assert num == 1 or left >= 2 or f"leaves {left} training image" in said


@every_division
@every_list_of_splits
def test_a_count_is_the_number_of_training_images_and_leaves_the_rest_alone(splits, division):
    whole = source(splits, division=division).load()
    for count in range(2, len(whole.train.labels) + 1, 5):
        limited = source(splits, count, division=division).load()
        assert len(limited.train.labels) == count
        assert digest(limited.val, limited.test) == digest(whole.val, whole.test)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"held_out": held_out}, rf"held_out must be a fraction above 0 and below 1, got {held_out}")
          for held_out in (0, 1, -0.1, 750)),
        *(({"splits": splits}, r"splits must be a list of splits, each once") for splits in ([], ["a", "a"], "train")),
        *(({"division": each}, rf"division must be one of contiguous, random, got {each}") for each in ("tail", None)),
        *(({"limit": limit}, rf"limit must be .*, got {limit}") for limit in (0, 0.0, -1, 1.5, True, "20%")),
        ({"limit": 31}, r"limit=31 leaves 31 of 30 training images of \['train'\]"),
        ({"limit": 1}, r"limit=1 leaves 1 of 30"),  # one has no variance
        ({"limit": 0.001}, r"limit=0.001 leaves 0 of 30"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(DataError, match=rf"^data\.{message}"):
        source(**settings).load()
    with pytest.raises(DataError, match=r"at least 2 images .* got 1"):
        cut_tail(numbered([7]), 0.5)


# --- what names a data set ------------------------------------------------------------------------------------------


def changed(part: LabelledImages, field: str) -> LabelledImages:
    """A copy with the last pixel, or the last label, one higher."""
    array = getattr(part, field).clone()
    array.view(-1)[-1] += 1
    return part._replace(**{field: array})


def dataset_of(**parts: LabelledImages) -> Dataset:
    whole = {"train": numbered(range(6)), "val": numbered(range(6, 8)), "test": numbered(range(8, 10))} | parts
    return Dataset("numbered", False, **whole)


@pytest.mark.parametrize("field", LabelledImages._fields)
@pytest.mark.parametrize("part", PARTS)
def test_digest_changes_with_a_pixel_and_a_label(part, field):
    before = dataset_of()
    after = dataset_of(**{part: changed(getattr(before, part), field)})
    assert after.digest != before.digest
    assert (after.train_digest != before.train_digest) == (part == "train")
    assert (after.test_digest != before.test_digest) == (part == "test")


def test_digest_is_of_the_content_the_order_and_the_division_alone():
    assert dataset_of().digest == dataset_of().digest
    strided = LabelledImages(*(array.repeat_interleave(2, 0)[::2] for array in numbered(range(6))))
    assert digest(strided) == digest(numbered(range(6)))
    assert len(bytes.fromhex(digest(strided))) == 8
    assert digest(numbered([1, 2])) != digest(numbered([2, 1]))
    black, few = numbered([0] * 10), numbered([0] * 4)  # the same bytes however they are divided
    assert digest(black, few) != digest(few, black)


@pytest.mark.usefixtures("empty_cache")
def test_equal_sources_are_loaded_once(monkeypatch):
    reads = []
    read = Numbered.read
    monkeypatch.setattr(Numbered, "read", lambda self, split: (reads.append(split), read(self, split))[1])
    first = load_once(source(["train"]))
    assert load_once(source(("train",))) is first
    assert reads == ["train", "test"]
    assert load_once(source(limit=0.5)) is not first
    assert len(reads) == 4


@pytest.mark.usefixtures("empty_cache")
@every_division
def test_test_images_that_are_trained_on_are_said(monkeypatch, capsys, division):
    load_once(source(division=division))
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(SPLITS, "test", [7, 39, *range(100, 120)])  # one of the training, one of the validation images
    for _ in range(2):  # once per process
        load_once(source(division=division, limit=30))
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith("  2 of 22 test images are training or validation images")


# --- mapped from a file ---------------------------------------------------------------------------------------------


def assert_same(found: Dataset, expected: Dataset) -> None:
    assert (found.name, found.is_synthetic, found.digest) == (expected.name, expected.is_synthetic, expected.digest)
    for part in PARTS:
        assert all(map(torch.equal, getattr(found, part), getattr(expected, part)))


def test_mapped_images_are_those_of_the_source(tmp_path, monkeypatch):
    sources = [source(), source(limit=0.5), source(division="random")]
    expected = [each.load() for each in sources]
    for _ in range(2):
        for each, due in zip(sources, expected, strict=True):
            assert_same(Mapped(each, tmp_path).load(), due)
        monkeypatch.setattr(Numbered, "read", None)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""])
def test_a_damaged_file_of_mapped_images_is_made_anew_and_without_one_they_stay_in_memory(tmp_path, damage, capsys):
    mapped, expected = Mapped(source(), tmp_path), source().load()
    mapped.load()
    [path] = tmp_path.iterdir()
    damaged = damage(path.read_bytes())
    path.unlink()  # not in place: it may be mapped
    path.write_bytes(damaged)
    assert_same(mapped.load(), expected)
    assert path.read_bytes() != damaged
    assert_same(Mapped(source(), path).load(), expected)  # a file is no folder
    assert "the images stay in memory" in capsys.readouterr().out
