"""Images other than SVHN's: read from files in the official formats, and every bad file is one line."""

import gzip
import io
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svhn_vae.data.images import CIFAR10, MNIST, Images
from svhn_vae.data.sources import LabelledImages
from svhn_vae.errors import DataError

RNG = np.random.default_rng(0)
NUM = 12
LEVELS = RNG.integers(0, 256, (NUM, 6, 8, 3), dtype=np.uint8)  # (N, H, W, C)
DIVISION = {"splits": ["train"], "limit": None, "held_out": 0.25, "division": "contiguous"}


def images(root: Path | None, **settings) -> Images:
    usual = {**DIVISION, "size": None, "channels": None}
    return Images(**usual | settings, root=None if root is None else str(root))


def write(folder: Path, levels: np.ndarray = LEVELS, names=None) -> Path:
    """Pictures 00.png, 01.png, ... of levels (N, H, W, C) or (N, H, W)."""
    for index, each in enumerate(levels):
        path = folder / (names[index] if names else f"{index:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return folder


def error_of(source: Images | CIFAR10 | MNIST) -> str:
    with pytest.raises(DataError) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_images(found: LabelledImages, levels: np.ndarray, labels=None) -> None:
    """levels (N, H, W, C)."""
    assert found.images.dtype == found.labels.dtype == torch.uint8
    np.testing.assert_array_equal(found.images.numpy(), levels.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == ([0] * len(levels) if labels is None else list(labels))


# --- a folder of pictures, or an array ------------------------------------------------------------------------------


def array(folder: Path) -> Path:
    np.save(folder / "pixels.npy", LEVELS)
    return folder / "pixels.npy"


def channels_first(folder: Path) -> Path:
    np.savez(folder / "x.npz", images=LEVELS.transpose(0, 3, 1, 2), labels=np.zeros(NUM, int))
    return folder / "x.npz"


@pytest.mark.parametrize("make", [write, array, channels_first])
def test_without_splits_every_nth_image_tests(tmp_path, make):
    source = images(make(tmp_path))
    dataset, rest = source.load(), LEVELS[np.arange(NUM) % 4 != 0]
    for part, levels in ((dataset.train, rest[:-2]), (dataset.val, rest[-2:]), (dataset.test, LEVELS[::4])):
        assert_images(part, levels)
    assert source.image_shape == tuple(dataset.image_shape) == (3, 6, 8)
    assert not dataset.is_synthetic
    before = source.fingerprint()
    assert source.fingerprint() == before
    (tmp_path / "new").touch()
    assert (source.fingerprint() != before) == (make is write)


def test_folders_or_arrays_named_train_and_test_are_the_splits(tmp_path):
    for split, levels in (("train", LEVELS[:8]), ("test", LEVELS[8:])):
        write(tmp_path / "folders" / split, levels)
        (tmp_path / "arrays").mkdir(exist_ok=True)
        np.savez(tmp_path / "arrays" / f"{split}.npz", images=levels)
    for kind in ("folders", "arrays"):
        dataset = images(tmp_path / kind).load()
        for part, levels in ((dataset.train, LEVELS[:6]), (dataset.val, LEVELS[6:8]), (dataset.test, LEVELS[8:])):
            assert_images(part, levels)


def test_names_of_sub_folders_are_labels(tmp_path):
    names = [f"{'cat' if index % 3 else 'ant'}/deep/{index:02}.png" for index in range(NUM)]
    dataset = images(write(tmp_path / "train", names=names), division="random").load()
    due = {LEVELS[index].tobytes(): int(index % 3 > 0) for index in range(NUM)}
    for part in (dataset.train, dataset.val, dataset.test):
        for image, label in zip(*part, strict=True):
            assert due[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == label
    write(tmp_path / "test" / "dog")
    assert "no training picture is in a folder dog" in error_of(images(tmp_path))


def test_grey_pictures_have_one_channel_unless_three_are_asked_for(tmp_path):
    write(tmp_path, LEVELS[..., 0])
    assert images(tmp_path).image_shape == (1, 6, 8)
    assert_images(images(tmp_path).load().test, LEVELS[::4, ..., :1])
    assert_images(images(tmp_path, channels=3).load().test, LEVELS[::4, ..., :1].repeat(3, -1))
    write(tmp_path, LEVELS[:1], ["99.png"])
    assert "99.png: it has colours" in error_of(images(tmp_path))
    assert images(tmp_path, channels=3).load().image_shape == (3, 6, 8)


def test_sizes_that_differ_are_refused_or_resized(tmp_path):
    write(tmp_path)
    write(tmp_path, LEVELS[:, :5, :7], [f"b{index}.png" for index in range(NUM)])
    message = error_of(images(tmp_path))
    assert "b0.png: it has 7 x 5 pixels and the first picture 8 x 6" in message
    assert "data.size=6" in message
    source = images(tmp_path, size=4)
    assert source.image_shape == tuple(source.load().image_shape) == (3, 4, 4)
    middle = (1, 0, 7, 6)  # a square
    due = Image.fromarray(LEVELS[0]).resize((4, 4), Image.Resampling.LANCZOS, box=middle)
    np.testing.assert_array_equal(source.load().test.images[0].permute(1, 2, 0), np.array(due))


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[..., 0]], ids=["colour", "grey"])
@pytest.mark.parametrize("settings", [{"size": 4}, {"size": 4, "channels": 3}, {"channels": 3}], ids=str)
def test_an_array_is_resized_and_coloured_as_its_pictures_are(tmp_path, levels, settings):
    np.save(tmp_path / "x.npy", levels)
    array, pictures = images(tmp_path / "x.npy", **settings), images(write(tmp_path / "folder", levels), **settings)
    found, due = array.load(), pictures.load()
    assert found.digest == due.digest
    assert array.image_shape == pictures.image_shape == tuple(found.image_shape)
    np.save(tmp_path / "x.npy", LEVELS)
    assert "x.npy: it has colours" in error_of(images(tmp_path / "x.npy", channels=1))


def test_a_picture_of_any_format_stands_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    for index in range(NUM):
        Image.fromarray(LEVELS[index]).save(
            tmp_path / f"{index:02}.{('png', 'webp')[index % 2]}", lossless=True, exif=exif
        )
    assert images(tmp_path).image_shape == (3, 8, 6)
    assert_images(images(tmp_path).load().test, np.rot90(LEVELS[::4], -1, axes=(1, 2)))


def png(pixels: np.ndarray = LEVELS[0]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


ENORMOUS = png()[:16] + struct.pack(">II", 60_000, 60_000) + png()[24:]  # announces so many pixels
BAD = {"text": b"not found", "half": png()[:-100], "16 bits": png(np.zeros((6, 8), np.uint16)), "enormous": ENORMOUS}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
@pytest.mark.parametrize("name", ["00.png", "07.png"])
def test_a_bad_picture_is_one_line(tmp_path, content, name):
    (write(tmp_path) / name).write_bytes(content)
    assert error_of(images(tmp_path)).startswith(f"{tmp_path / name}: ")


def npz(**contents) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **contents)
    return stream.getvalue()


BAD_ARRAYS = {
    "empty": (b"", ""),
    "half": (npz(images=LEVELS)[:-300], ""),
    "pickled": (npz(images=np.array([{}, {}], dtype=object)), "pickle"),
    "floats": (npz(images=LEVELS / 255), "(12, 6, 8, 3) float64"),
    "two channels": (npz(images=LEVELS[..., :2]), "(12, 6, 8, 2) uint8"),
    "labels of a text": (npz(images=LEVELS, labels=np.array(["a"] * NUM)), "for images (12, "),
    "large labels": (npz(images=LEVELS, labels=np.full(NUM, 256)), "for images (12, "),
}


@pytest.mark.parametrize(("content", "telling"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_bad_array_is_one_line(tmp_path, content, telling):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    message = error_of(images(path))
    assert message.startswith(f"{path}: ")
    assert telling in message


@pytest.mark.parametrize(
    ("settings", "telling"),
    [
        ({"size": 1}, "data.size must be 2..1024"),
        ({"channels": 2}, "data.channels must be 1, 3 or null"),
        ({"splits": ["train", "extra"]}, "the splits are train, test; got 'extra'"),
    ],
)
def test_bad_settings_and_no_pictures_are_one_line(tmp_path, settings, telling):
    (tmp_path / "a.txt").touch()
    assert "it holds a.txt" in error_of(images(tmp_path))
    write(tmp_path)
    for root, given, said in ((tmp_path, settings, telling), (None, {}, "expected a folder of pictures"),
                              (tmp_path / "none", {}, "expected a folder of pictures")):  # fmt: skip
        with pytest.raises(DataError, match=rf"^[^\n]*{said}[^\n]*$"):
            images(root, **given).load()
    np.save(tmp_path / "x.npy", np.zeros((3, 70, 90, 3), np.uint8))
    with pytest.raises(DataError, match=r"^[^\n]*18,900 values[^\n]*data\.size=32$"):
        images(tmp_path / "x.npy").image_shape  # noqa: B018


# --- CIFAR-10 and MNIST, on files in their formats -------------------------------------------------------------------

SIZES = {"data_batch_1": 7, "data_batch_2": 7, "data_batch_3": 7, "data_batch_4": 7, "data_batch_5": 7, "test_batch": 5}
OFFICIAL = {**DIVISION, "verify": "none", "url": "http://127.0.0.1:9"}


def cifar_records() -> dict[str, np.ndarray]:
    """A label, then 1,024 values of red, green and blue each, row by row."""
    rng = np.random.default_rng(1)
    return {name: np.concatenate([rng.integers(0, 10, (num, 1)), rng.integers(0, 256, (num, 3072))], 1).astype(np.uint8)
            for name, num in SIZES.items()}  # fmt: skip


def cifar(folder: Path, damaged: dict[str, bytes] | None = None) -> CIFAR10:
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, records in cifar_records().items():
            content = (damaged or {}).get(name, records.tobytes())
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return CIFAR10(**OFFICIAL, root=str(folder))


def test_cifar(tmp_path):
    dataset, records = cifar(tmp_path).load(), cifar_records()
    train = np.concatenate([records[f"data_batch_{number}"] for number in range(1, 6)])
    planes = train[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert_images(dataset.train, planes[:-9], train[:-9, 0])
    assert_images(dataset.val, planes[-9:], train[-9:, 0])
    test = records["test_batch"]
    assert dataset.test.images[3, 1, 2, 5] == test[3, 1 + 1024 + 2 * 32 + 5]  # green, third row, sixth column
    assert dataset.test.labels.tolist() == test[:, 0].tolist()


@pytest.mark.parametrize(
    "records",
    [{"data_batch_2": b"", "test_batch": b""}, {"test_batch": bytes(3072)}, {"test_batch": bytes([11]) + bytes(3072)}],
    ids=["empty", "a byte is missing", "label 11"],
)
def test_a_bad_cifar_archive_is_one_line(tmp_path, records):
    path = tmp_path / "cifar-10-binary.tar.gz"
    assert error_of(source := cifar(tmp_path, records)).startswith(f"{path}: ")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(source).startswith(f"{path}: ")


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


DIGITS, READ = RNG.integers(0, 256, (9, 28, 28), dtype=np.uint8), np.arange(9, dtype=np.uint8)
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": idx(DIGITS), "train-labels-idx1-ubyte.gz": idx(READ),
    "t10k-images-idx3-ubyte.gz": idx(DIGITS[:4]), "t10k-labels-idx1-ubyte.gz": idx(READ[:4]),
}  # fmt: skip


def mnist(folder: Path, **damaged: bytes) -> MNIST:
    for name, content in MNIST_FILES.items():
        (folder / name).write_bytes(damaged.get(name.partition("-idx")[0].replace("-", "_"), content))
    return MNIST(**OFFICIAL, root=str(folder))


def test_mnist(tmp_path):
    dataset = mnist(tmp_path).load()
    assert_images(dataset.train, DIGITS[:-2, ..., None], READ[:-2])
    assert_images(dataset.test, DIGITS[:4, ..., None], READ[:4])
    assert mnist(tmp_path).image_shape == tuple(dataset.image_shape) == (1, 28, 28)


@pytest.mark.parametrize(
    "content",
    [b"", idx(READ[:3]), idx(READ + 7), idx(DIGITS), idx(READ)[:-9], gzip.compress(b"\0\0\x08\1\xff\xff", mtime=0)],
    ids=["empty", "fewer", "above 9", "images", "half", "no size"],
)
def test_bad_mnist_files_are_one_line(tmp_path, content):
    assert error_of(mnist(tmp_path, train_labels=content)).startswith(f"{tmp_path / 'train-labels-idx1-ubyte.gz'}: ")
    for images in (idx(DIGITS[:, :27]), idx(READ)):
        error_of(mnist(tmp_path, train_images=images))


@pytest.mark.parametrize("make", [cifar, mnist])
def test_a_missing_file_and_an_unknown_split_are_one_line(tmp_path, make):
    source = make(tmp_path)
    with pytest.raises(DataError, match=r"the splits are train, test; got 'extra'"):
        source.read("extra")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert "expected " in error_of(source)
