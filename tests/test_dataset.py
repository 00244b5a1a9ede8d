"""How images are divided: nothing is in two parts, neighbours stay together, and the digest names what was loaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from svhn_vae.data.digits import Synthetic
from svhn_vae.data.sources import (
    DIVISIONS,
    Dataset,
    LabelledImages,
    Mapped,
    Source,
    _loaded,
    cut_tail,
    digest,
    load_once,
    random_subset,
)
from svhn_vae.data.svhn import SVHN
from svhn_vae.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "svhn"
SPLITS = {"train": range(40), "test": range(100, 120), "extra": range(200, 230)}  # the content of their images
SPLIT_LISTS = [
    ["train"], ["train", "extra"], ["extra", "train"], ["extra"],
    ["test"], ["train", "test"], ["test", "train"], ["train", "test", "extra"],
]  # fmt: skip


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


# --- the laws -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=SPLIT_LISTS, ids="+".join)
def splits(request):
    return request.param


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("held_out", [0.01, 0.1, 0.25, 0.5, 0.7])
def test_no_image_is_in_two_parts_and_none_is_lost(splits, held_out, division):
    dataset = source(splits, held_out=held_out, division=division).load()
    parts = [numbers_of(part) for part in (dataset.train, dataset.val, dataset.test)]
    assert all(parts)
    due = [number for split in {*splits, "test"} for number in SPLITS[split]]
    assert sorted(number for part in parts for number in part) == sorted(due)


def test_validation_is_the_tail_of_the_first_split(splits):
    val = numbers_of(source(splits).load().val)
    first = SPLITS[splits[0]][:15] if splits[0] == "test" else SPLITS[splits[0]]  # 15: the last 5 test
    assert val == list(first[-round(0.25 * len(first)) :])


@pytest.mark.parametrize("division", DIVISIONS)
def test_training_images_are_the_others_in_their_order(splits, division):
    dataset = source(splits, division=division).load()
    held = {*numbers_of(dataset.val), *numbers_of(dataset.test)}
    assert numbers_of(dataset.train) == [n for split in splits for n in SPLITS[split] if n not in held]


@pytest.mark.parametrize("division", DIVISIONS)
def test_test_images_are_all_of_the_test_split_or_its_tail(splits, division):
    test = numbers_of(source(splits, division=division).load().test)
    assert test == list(SPLITS["test"][-5:] if "test" in splits else SPLITS["test"])


@pytest.mark.parametrize(("held_out", "num_val"), [(0.1, 4), (0.5, 20), (1e-6, 1), (0.95, 38)])
@pytest.mark.parametrize("division", DIVISIONS)
def test_held_out_is_a_fraction_and_leaves_images_on_both_sides(held_out, num_val, division):
    dataset = source(held_out=held_out, division=division).load()
    assert (len(dataset.val.labels), len(dataset.train.labels)) == (num_val, 40 - num_val)


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 1.5, 750])
def test_wrong_held_out(held_out):
    with pytest.raises(DataError, match=rf"data\.held_out must be a fraction above 0 and below 1, got {held_out}"):
        source(held_out=held_out)


def test_one_image_cannot_be_divided():
    with pytest.raises(DataError, match=r"at least 2 images .* got 1"):
        cut_tail(numbered([7]), 0.5)


@pytest.mark.parametrize("wrong", [[], ["train", "train"], "train"], ids=["none", "twice", "no list"])
def test_wrong_splits(wrong):
    with pytest.raises(DataError, match=r"data\.splits"):
        source(wrong)


# --- the random division --------------------------------------------------------------------------------------------


def test_random_validation_is_of_all_splits_together():
    """The post's: a random tenth of train, test and extra."""
    val = numbers_of(source(["train", "test", "extra"], division="random").load().val)
    assert len(val) == round(0.25 * (40 + 15 + 30))
    assert {number // 100 for number in val} == {0, 1, 2}


def test_random_validation_is_no_block():
    val = np.array(numbers_of(source(division="random").load().val))
    assert len(val) == 10
    assert (np.diff(val) > 0).all()
    assert (np.diff(val) > 1).sum() > 3


def test_random_division_is_uniform():
    """Every image as often as the others, over data sets of every size."""
    times_held = np.zeros(100)
    for size in range(100, 256):
        val = numbers_of(random_subset([numbered(range(size))], 0.25)[1])
        times_held[[number for number in val if number < 100]] += 1
    assert times_held.mean() == pytest.approx(0.25 * 156, rel=0.05)
    assert times_held.std() < 2 * (156 * 0.25 * 0.75) ** 0.5


def test_random_division_depends_on_nothing_else():
    first = source(division="random").load().digest
    torch.manual_seed(7)
    assert source(division="random").load().digest == first
    assert source().load().digest != first


def test_a_split_may_be_held_out_whole():
    """A small one beside a large one: nothing of it is left to train on."""
    parts, val = random_subset([numbered(range(30)), numbered([200])], 0.9)
    assert len(parts) == 2
    assert sum(len(part.labels) for part in parts) + len(val.labels) == 31


@pytest.mark.parametrize("division", ["shuffled", None, ""])
def test_wrong_division(division):
    with pytest.raises(DataError, match=rf"^data\.division must be one of contiguous, random, got {division}$"):
        source(division=division)


# --- limit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, [*range(30), *range(200, 230)]),
        (1.0, [*range(30), *range(200, 230)]),
        (0.5, [*range(15), *range(200, 215)]),
        (0.1, [*range(3), *range(200, 203)]),
        (40, [*range(20), *range(200, 220)]),
        (60, [*range(30), *range(200, 230)]),
    ],
)
def test_limit_takes_the_start_of_each_split(limit, expected):
    assert numbers_of(source(["train", "extra"], limit).load().train) == expected


@pytest.mark.parametrize("division", DIVISIONS)
def test_count_is_the_number_of_training_images(splits, division):
    total = len(source(splits, division=division).load().train.labels)
    counts = range(2, total + 1)
    limited = [source(splits, count, division=division).load() for count in counts]
    assert [len(dataset.train.labels) for dataset in limited] == list(counts)


@pytest.mark.parametrize("division", DIVISIONS)
def test_limit_leaves_validation_and_test_alone(splits, division):
    whole, limited = source(splits, division=division).load(), source(splits, 0.2, division=division).load()
    assert digest(limited.val, limited.test) == digest(whole.val, whole.test)
    assert limited.train_digest != whole.train_digest


def test_limit_above_the_number_of_images():
    with pytest.raises(DataError, match=r"data\.limit=31 leaves 31 of 30 training images of \['train'\]"):
        source(limit=31).load()


@pytest.mark.parametrize("limit", [0, 0.0, -1, -0.5, 1.5, "20%"])
def test_wrong_limit(limit):
    with pytest.raises(DataError, match=rf"data\.limit must be .*, got {limit}"):
        source(limit=limit)


@pytest.mark.parametrize("limit", [0.001, 1])
def test_limit_that_leaves_less_than_two_images(limit):
    """One has no variance."""
    with pytest.raises(DataError, match=rf"data\.limit={limit} leaves [01] of 30 training images"):
        source(limit=limit).load()


# --- what names a data set ------------------------------------------------------------------------------------------


def changed(part: LabelledImages, field: str) -> LabelledImages:
    """A copy with the last pixel, or the last label, one higher."""
    array = getattr(part, field).clone()
    array.view(-1)[-1] += 1
    return part._replace(**{field: array})


def dataset_of(**parts: LabelledImages) -> Dataset:
    whole = {"train": numbered(range(6)), "val": numbered(range(6, 8)), "test": numbered(range(8, 10))} | parts
    return Dataset("numbered", False, **whole)


@pytest.mark.parametrize("field", ["images", "labels"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_digest_changes_with_a_pixel_and_a_label(part, field):
    before = dataset_of()
    after = dataset_of(**{part: changed(getattr(before, part), field)})
    assert after.digest != before.digest
    assert (after.train_digest != before.train_digest) == (part == "train")
    assert (after.test_digest != before.test_digest) == (part == "test")


def test_digest_changes_with_the_division():
    other = dataset_of(train=numbered(range(5)), val=numbered(range(5, 8)))
    assert other.digest != dataset_of().digest
    black = numbered([0] * 10)  # the same bytes however they are divided
    few = numbered([0] * 4)
    assert digest(black, few) != digest(few, black)


def test_digest_changes_with_the_order():
    assert digest(numbered([1, 2])) != digest(numbered([2, 1]))


def test_digest_is_of_the_content_alone():
    assert dataset_of().digest == dataset_of().digest
    strided = LabelledImages(*(array.repeat_interleave(2, 0)[::2] for array in numbered(range(6))))
    assert digest(strided) == digest(numbered(range(6)))
    assert len(digest(strided)) == 16
    int(digest(strided), 16)


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
@pytest.mark.parametrize("division", DIVISIONS)
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
    for part in ("train", "val", "test"):
        assert isinstance(getattr(found, part), LabelledImages)
        assert all(map(torch.equal, getattr(found, part), getattr(expected, part)))


def test_mapped_images_are_those_of_the_source(tmp_path, monkeypatch):
    others = [source(), source(limit=0.5), source(division="random")]
    for each in others:
        assert_same(Mapped(each, tmp_path).load(), each.load())
    expected = [each.load() for each in others]
    monkeypatch.setattr(Numbered, "read", None)
    for each, due in zip(others, expected, strict=True):
        assert_same(Mapped(each, tmp_path).load(), due)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""])
def test_a_damaged_file_of_mapped_images_is_made_anew(tmp_path, damage):
    mapped, expected = Mapped(source(), tmp_path), source().load()
    mapped.load()
    [path] = tmp_path.iterdir()
    damaged = damage(path.read_bytes())
    path.unlink()  # not in place: it may be mapped
    path.write_bytes(damaged)
    assert_same(mapped.load(), expected)
    assert path.read_bytes() != damaged


def test_where_no_file_can_be_written_the_images_stay_in_memory(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert_same(Mapped(source(), tmp_path / "file").load(), source().load())
    assert "the images stay in memory" in capsys.readouterr().out


# --- the two sources ------------------------------------------------------------------------------------------------


def synthetic(**settings) -> Synthetic:
    sizes = {"num_train": 150, "num_test": 30, "drawing_seed": 0}
    division = {"splits": ["train"], "limit": None, "held_out": 0.1, "division": "contiguous"}
    return Synthetic(**(division | sizes | settings))


def test_synthetic_data():
    dataset = synthetic().load()
    parts = (dataset.train, dataset.val, dataset.test)
    assert dataset.is_synthetic
    assert "synthetic" in dataset.name
    assert [part.images.shape for part in parts] == [(n, 3, 32, 32) for n in (135, 15, 30)]
    contents = [image.numpy().tobytes() for part in parts for image in part.images]
    assert len(set(contents)) == len(contents) == 180
    assert synthetic().load().digest == dataset.digest


def test_drawing_seeds_share_no_image():
    drawn = [synthetic(num_train=5, num_test=5, drawing_seed=seed).load() for seed in range(4)]
    images = torch.cat([part.images for dataset in drawn for part in (dataset.train, dataset.val, dataset.test)])
    assert len(images.flatten(1).unique(dim=0)) == 40


def test_synthetic_data_has_no_extra_split():
    with pytest.raises(DataError, match=r"data=synthetic has the splits train and test, got extra"):
        synthetic(splits=["train", "extra"]).load()


def svhn(root: Path, splits=("train",), limit=None) -> SVHN:
    nowhere = "http://127.0.0.1:9/nothing-is-downloaded"
    division = {"splits": splits, "limit": limit, "held_out": 0.1, "division": "contiguous"}
    return SVHN(**division, root=str(root), verify="none", url=nowhere)


@pytest.fixture
def written(tmp_path):
    """A folder of format-2 files: image i of a split is filled with its number, but for one brighter corner."""
    for split, numbers in SPLITS.items():
        X = np.broadcast_to(np.array(numbers, dtype=np.uint8), (32, 32, 3, len(numbers))).copy()
        X[0, 31, 2] += 1  # top right, blue
        y = np.array([[number % 10 or 10] for number in numbers])
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": X, "y": y})
    return tmp_path


@pytest.mark.parametrize(
    ("splits", "counts"),
    [(["train"], (36, 4, 20)), (["train", "extra"], (66, 4, 20)), (["train", "test", "extra"], (84, 4, 2))],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_svhn_files(written, splits, counts):
    dataset = svhn(written, splits).load()
    parts = (dataset.train, dataset.val, dataset.test)
    assert tuple(len(numbers_of(part)) for part in parts) == counts
    assert numbers_of(dataset.val) == [36, 37, 38, 39]
    corner = dataset.val.images[:, 2, 0, 31]
    assert corner.tolist() == [37, 38, 39, 40]
    assert not dataset.is_synthetic
    assert dataset.name == f"svhn {'+'.join(splits)}"


def test_official_figures():
    assert {name: md5 for name, (md5, _) in SVHN.files.items()} == {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
    }


def test_unknown_split(written):
    with pytest.raises(DataError, match=r"splits are train, test, extra; got 'validation'"):
        svhn(written, ["validation"]).load()


def test_missing_file_of_a_split(written):
    (written / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        svhn(written).load()


@pytest.mark.skipif(not (REAL / "extra_32x32.mat").is_file(), reason="real images not at hand")
@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        (["train"], (6749, 750, 1499)),
        (["train", "extra"], (6749 + 1083, 750, 1499)),
        (["train", "test", "extra"], (6749 + 1349 + 1083, 750, 150)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_real_images(splits, counts):
    dataset = svhn(REAL, splits).load()
    parts = (dataset.train, dataset.val, dataset.test)
    assert tuple(len(part.images) for part in parts) == tuple(len(part.labels) for part in parts) == counts
    validation = scipy.io.loadmat(REAL / "train_32x32.mat")["X"][..., 6749:].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(dataset.val.images, validation)
