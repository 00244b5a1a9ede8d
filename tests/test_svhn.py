"""SVHN's two formats: scipy is the oracle for good .mat files, the official crops for whole pictures; every bad file is
one line that says what is wrong."""

import contextlib
import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from svhn_vae.data import svhn
from svhn_vae.data.sources import LabelledImages
from svhn_vae.data.svhn import FIELDS, SVHN, SVHNFull, read_folder, read_mat, resized
from svhn_vae.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "svhn"
DIVISION = {"splits": ["train"], "limit": None, "held_out": 0.4, "division": "contiguous"}
NUM = 5
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (32, 32, 3, NUM), dtype=np.uint8)
Y = np.array([[1], [2], [9], [10], [5]], dtype=np.uint8)


def mat_bytes(compressed: bool = True, version: str = "5", **arrays) -> bytes:
    """X and Y with some arrays replaced, or left out where None."""
    arrays = {name: array for name, array in {"X": X, "y": Y, **arrays}.items() if array is not None}
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=compressed, format=version)
    return buffer.getvalue()


def flipped(content: bytes, index: int, bits: int = 0xFF) -> bytes:
    return content[:index] + bytes([content[index] ^ bits]) + content[index + 1 :]


def labels(*values) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


@pytest.fixture
def written(tmp_path):
    def write(content: bytes, name: str = "train_32x32.mat") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def error_of(read, path: Path) -> str:
    """The one line about files that cannot be used."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def assert_oracle(read: LabelledImages, pixels: np.ndarray, y: np.ndarray) -> None:
    """Image i, channel c, row h, column w is MATLAB's pixels[h, w, c, i]; label 10 is the digit 0."""
    assert read.images.dtype == read.labels.dtype == torch.uint8
    assert read.images.is_contiguous()
    np.testing.assert_array_equal(read.images.numpy(), pixels.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(read.labels.numpy(), np.where(y == 10, 0, y).ravel())


SINGLE = {"X": X[..., 0], "y": Y[:1]}  # MATLAB drops the last dimension; a single label is stored inside its tag
GOOD = {
    "compressed": (mat_bytes(), NUM),
    "stored": (mat_bytes(compressed=False), NUM),
    "double labels": (mat_bytes(y=Y.astype(float)), NUM),
    "row of int32 labels": (mat_bytes(y=Y.T.astype(np.int32), compressed=False), NUM),
    "more arrays": (mat_bytes(names=np.array(["a", "b"], dtype=object), note="text", weights=np.eye(3)), NUM),
    "one image, compressed": (mat_bytes(**SINGLE), 1),
    "one image, stored": (mat_bytes(compressed=False, **SINGLE), 1),
}


@pytest.mark.parametrize(("content", "num"), GOOD.values(), ids=GOOD)
def test_good_file(written, content, num):
    assert_oracle(read_mat(written(content)), X[..., :num], Y[:num])


BAD = {
    "empty": (b"", "it has 0 bytes"),
    "text": (b"not here, moved to another server\n" * 9, "damaged or interrupted"),
    "no arrays": (mat_bytes()[:128], "expected arrays X and y"),
    "no X": (mat_bytes(X=None), "expected arrays X and y"),
    "images first": (mat_bytes(X=X.transpose(3, 0, 1, 2)), "got (5, 32, 32, 3)"),
    "int8 X": (mat_bytes(X=X.view(np.int8)), "int8"),
    "complex X": (mat_bytes(X=X + 1j), "complex"),
    "fewer labels": (mat_bytes(y=Y[:4]), "one per image, got (4, 1) uint8"),
    "matrix of labels": (mat_bytes(y=np.ones((5, 2))), "got (5, 2) float64"),
    "label 11": (mat_bytes(y=labels(1, 2, 3, 4, 11)), "got 11 at image 4"),
    "label NaN": (mat_bytes(y=labels(1, 2, 3, np.nan, 5)), "got nan at image 3"),
    "checksum damaged": (flipped(mat_bytes(), len(mat_bytes()) - 1), "incorrect data check"),
}


@pytest.mark.parametrize(("content", "telling"), BAD.values(), ids=BAD)
def test_bad_file(written, content, telling):
    assert telling in error_of(read_mat, written(content))


def test_what_is_not_the_files_fault(written, tmp_path, monkeypatch):
    assert "cannot be read (No such file or directory)" in error_of(read_mat, tmp_path / "none.mat")
    monkeypatch.setattr(svhn.np, "ascontiguousarray", lambda *_: (_ for _ in ()).throw(MemoryError))
    assert "no memory for its images" in error_of(read_mat, written(mat_bytes()))


def test_damaged_tags_do_not_crash_the_process(written):
    """Bits and bytes of the tags of an uncompressed file; scipy alone crashes at about one in fifty."""
    content, random = mat_bytes(compressed=False), np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.integers(124, 200)] = random.integers(0, 256)
        path = written(bytes(damaged))
        with contextlib.suppress(DataError):
            read_mat(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncation_is_noticed(written, compressed):
    """But of padding, which is no content."""
    content = mat_bytes(compressed)
    for length in {len(content) * part // 16 for part in range(16)} | {1, 10, 127, 129, 137, len(content) - 4}:
        message = error_of(read_mat, written(content[:length]))
        assert length == 0 or (f"it has {length:,} bytes" in message and "182,040,794" in message)


@pytest.fixture
def files(tmp_path):
    """A folder of format-2 files: image i of a split is filled with its number, but for one brighter corner."""
    for split, numbers in {"train": range(40), "test": range(100, 120), "extra": range(200, 230)}.items():
        pixels = np.broadcast_to(np.array(numbers, dtype=np.uint8), (32, 32, 3, len(numbers))).copy()
        pixels[0, 31, 2] += 1  # top right, blue
        y = np.array([[number % 10 or 10] for number in numbers])
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": y})
    return tmp_path


def svhn_of(root: Path, *splits: str) -> SVHN:
    nowhere = "http://127.0.0.1:9/nothing-is-downloaded"
    return SVHN(**DIVISION | {"splits": splits, "held_out": 0.1}, root=str(root), verify="none", url=nowhere)


def test_files_of_splits(files):
    dataset = svhn_of(files, "train", "test", "extra").load()
    assert [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)] == [84, 4, 2]
    assert dataset.val.images[:, 0, 0, 0].tolist() == [36, 37, 38, 39]
    assert dataset.val.images[:, 2, 0, 31].tolist() == [37, 38, 39, 40]
    assert dataset.val.labels.tolist() == [6, 7, 8, 9]
    assert not dataset.is_synthetic
    assert dataset.name == "svhn train+test+extra"
    with pytest.raises(DataError, match=r"splits are train, test, extra; got 'validation'"):
        svhn_of(files, "validation").load()
    (files / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        svhn_of(files, "train").load()


@pytest.mark.skipif(not REAL.is_dir(), reason="real images not at hand")
def test_real_images_and_an_interrupted_download_of_them():
    dataset = svhn_of(REAL, "train", "test", "extra").load()
    counts = [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)]
    assert counts == [6749 + 1349 + 1083, 750, 150]
    arrays = scipy.io.loadmat(REAL / "train_32x32.mat")
    assert_oracle(dataset.val, arrays["X"][..., 6749:], arrays["y"][6749:])
    message = error_of(read_mat, REAL / "interrupted" / "train_32x32.mat")
    assert "interrupted" in message
    assert "it has 2,686,976 bytes; the official file has 182,040,794" in message


# --- format 1 -------------------------------------------------------------------------------------------------------

HEIGHT, WIDTH = 40, 90
PICTURES = {"1.png": [(20, 4, 20, 32, 1), (43, 5, 11, 32, 10)], "2.png": [(50, 0, 32, 32, 7)]}  # boxes of digits
LEVELS = {name: RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for name in PICTURES}


def write(folder: Path, pictures=PICTURES, drop: str = "") -> Path:
    """A folder in the official layout: the values of one box in place, of several behind references."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, levels in LEVELS.items():
        Image.fromarray(levels).save(folder / name)
    with h5py.File(folder / "digitStruct.mat", "w", userblock_size=512) as file:
        refs, top = file.create_group("#refs#"), file.create_group("digitStruct")
        kept: dict[str, list] = {"name": [], "bbox": []}

        def keep(values) -> h5py.Reference:
            return refs.create_dataset(f"r{len(refs)}", data=values).ref

        for number, (name, boxes) in enumerate(pictures.items()):
            kept["name"].append(keep(np.frombuffer(name.encode(), np.uint8).astype(np.uint16)[:, None]))
            group = refs.create_group(f"b{number}")
            for field, values in zip(FIELDS, np.array(boxes, float).reshape(-1, 5).T, strict=True):
                several = np.array([keep(np.array([[value]])) for value in values], h5py.ref_dtype)[:, None]
                group.create_dataset(field, data=values[:, None] if len(boxes) == 1 else several)
            kept["bbox"].append(group.ref)
        for key, values in kept.items():
            if key != drop:
                top.create_dataset(key, data=np.array(values, h5py.ref_dtype)[:, None])
    return folder


def full(root: Path | None, **settings) -> SVHNFull:
    return SVHNFull(**DIVISION | {"size": 32} | settings, root=None if root is None else str(root))


def error_of_folder(folder: Path) -> str:
    return error_of(lambda path: read_folder(path, 32), folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="real images not at hand")
def test_crops_are_the_official_ones():
    """Of 1,701,888 values 13 lie on a tie of rounding, and differ by one level."""
    crops, official = read_folder(REAL / "format1" / "train", 32), read_mat(REAL / "extra_32x32.mat")
    off = np.abs(crops.images.numpy().astype(int) - official.images[:554].numpy())
    assert crops.labels.tolist() == official.labels[:554].tolist()
    assert off.max() <= 1
    assert (off > 0).sum() <= 40


def test_a_box_is_extended_to_a_square_less_what_lies_outside_of_the_picture(tmp_path):
    """Of 32 pixels a side, nothing is resized; the label 10 is the digit 0."""
    found = read_folder(write(tmp_path), 32)
    assert found.labels.tolist() == [1, 0, 7]
    corners = [("1.png", 14, 4), ("1.png", 33, 5), ("2.png", 50, 0)]
    for crop, (name, left, top) in zip(found.images, corners, strict=True):
        np.testing.assert_array_equal(crop.permute(1, 2, 0), LEVELS[name][top : top + 32, left : left + 32])
    found = read_folder(write(tmp_path, {"1.png": [(-2, -3, 20, 32, 1), (70, 20, 40, 24, 2)]}), 32).images.numpy()
    for crop, seen in zip(found, [LEVELS["1.png"][:29, :24], LEVELS["1.png"][12:, 70:]], strict=True):
        np.testing.assert_array_equal(crop.transpose(1, 2, 0), resized(seen, 32))


@pytest.mark.parametrize("shape", [(20, 20), (50, 20), (33, 48)])
def test_resizing_against_pillow(shape):
    """Pillow has the same kernel; it takes columns first and rounds otherwise. No value reaches 0 or 255."""
    smooth = np.array(Image.fromarray(LEVELS["1.png"] // 2 + 64).resize(shape[::-1], Image.Resampling.BOX))
    expected = np.array(Image.fromarray(smooth).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    off = np.abs(resized(smooth, 32) - expected)[4:-4, 4:-4]  # at the borders Pillow leaves outer pixels out
    assert off.max() <= 2


def test_splits_sizes_and_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(svhn, "user_cache", lambda: tmp_path / "cache")
    for split in ("train", "test"):
        write(tmp_path / split)
    settings = full(tmp_path, size=16)
    data = settings.load()
    assert data.image_shape == settings.image_shape == (3, 16, 16)
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [2, 1, 3]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    before = settings.fingerprint()
    (tmp_path / "train" / "3.png").touch()
    assert settings.fingerprint() != before


BAD_BOXES = {
    "outside": ((200, 4, 20, 30, 1), "meet the picture, 90 x 40"),
    "empty": ((20, 4, 0, 30, 1), "'width': 0.0"),
    "NaN": ((np.nan, 4, 20, 30, 1), "'left': nan"),
    "enormous": ((20, 4, 20, 1e300, 1), "'height': 1e+300"),
    "half a pixel": ((20.5, 4, 20, 30, 1), "'left': 20.5"),
    "label 11": ((20, 4, 20, 30, 11), "got 11 at image 1"),
}


@pytest.mark.parametrize(("box", "telling"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_a_bad_box_is_one_line(tmp_path, box, telling):
    message = error_of_folder(write(tmp_path, {"1.png": [(20, 4, 20, 32, 1), box]}))
    assert telling in message
    assert message.startswith(str(tmp_path / ("digitStruct.mat" if "image 1" in telling else "1.png")))


def test_a_damaged_struct_is_one_line(tmp_path):
    """Cut short, of other bytes, without a part, without boxes; pictures missing, damaged, or named outside."""
    path = tmp_path / "digitStruct.mat"
    good = (write(tmp_path) / path.name).read_bytes()
    for content in (b"", b"not found", good[: len(good) // 2], good[:512] + bytes(len(good) - 512)):
        path.write_bytes(content)
        assert error_of_folder(tmp_path).startswith(f"{path}: damaged")
    assert "damaged" in error_of_folder(write(tmp_path, drop="name"))
    assert "got none" in error_of_folder(write(tmp_path, {"1.png": []}))
    for name, said in (("../1.png", "got '../1.png'"), ("3.png", "3.png: cannot be read (No such file")):
        assert said in error_of_folder(write(tmp_path, {name: [(20, 4, 20, 30, 1)]}))
    (write(tmp_path) / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert error_of_folder(tmp_path).startswith(f"{tmp_path / '2.png'}: damaged")


def test_a_missing_folder_and_bad_settings_are_one_line(tmp_path):
    for root in (None, tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"expected train/digitStruct.mat[^\n]*unpack the official train\.tar\.gz"):
            full(root).load()
    with pytest.raises(DataError, match="the splits are train, test, extra"):
        full(tmp_path, splits=["all"]).load()
    for size in (1, 65, "32", True, None):
        with pytest.raises(DataError, match=r"data\.size must be 2\.\.64"):
            full(tmp_path, size=size)
