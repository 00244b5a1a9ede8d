"""SVHN's format 1: the crops are the official ones, and every bad file is one line that says what is wrong."""

import contextlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from svhn_vae.data import svhn_full
from svhn_vae.data.svhn import read_mat
from svhn_vae.data.svhn_full import FIELDS, SVHNFull, read_folder, resized
from svhn_vae.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "svhn"
RNG = np.random.default_rng(0)
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


def source(root: Path | None, **settings) -> SVHNFull:
    usual = {"splits": ["train"], "limit": None, "held_out": 0.4, "division": "contiguous", "size": 32}
    return SVHNFull(**usual | settings, root=None if root is None else str(root))


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(folder, 32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="real images not at hand")
def test_crops_are_the_official_ones():
    """Of 1,701,888 values 13 lie on a tie of rounding, and differ by one level."""
    crops, official = read_folder(REAL / "format1" / "train", 32), read_mat(REAL / "extra_32x32.mat")
    off = np.abs(crops.images.numpy().astype(int) - official.images[:554].numpy())
    assert crops.labels.tolist() == official.labels[:554].tolist()
    assert off.max() <= 1
    assert (off > 0).sum() <= 40


def test_a_box_is_extended_to_a_square(tmp_path):
    """Of 32 pixels a side, so that nothing is resized; the label 10 is the digit 0."""
    found = read_folder(write(tmp_path), 32)
    assert found.labels.tolist() == [1, 0, 7]
    for crop, (name, left, top) in zip(
        found.images, [("1.png", 14, 4), ("1.png", 33, 5), ("2.png", 50, 0)], strict=True
    ):
        np.testing.assert_array_equal(crop.permute(1, 2, 0), LEVELS[name][top : top + 32, left : left + 32])


def test_what_lies_outside_of_the_picture_is_left_out(tmp_path):
    found = read_folder(write(tmp_path, {"1.png": [(-2, -3, 20, 32, 1), (70, 20, 40, 24, 2)]}), 32).images.numpy()
    for crop, seen in zip(found, [LEVELS["1.png"][:29, :24], LEVELS["1.png"][12:, 70:]], strict=True):
        np.testing.assert_array_equal(crop.transpose(1, 2, 0), resized(seen, 32))


@pytest.mark.parametrize("shape", [(50, 50), (20, 20), (50, 20), (20, 50), (33, 48)])
def test_resizing_against_pillow(shape):
    """Pillow has the same kernel; it takes columns first and rounds otherwise. No value reaches 0 or 255."""
    smooth = np.array(Image.fromarray(LEVELS["1.png"] // 2 + 64).resize(shape[::-1], Image.Resampling.BOX))
    expected = np.array(Image.fromarray(smooth).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    off = np.abs(resized(smooth, 32) - expected)[4:-4, 4:-4]  # at the borders Pillow leaves outer pixels out
    assert off.max() <= 2


def test_splits_sizes_and_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(svhn_full, "user_cache", lambda: tmp_path / "cache")
    for split in ("train", "test"):
        write(tmp_path / split)
    settings = source(tmp_path, size=16)
    data = settings.load()
    assert data.image_shape == settings.image_shape == (3, 16, 16)
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [2, 1, 3]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    before = settings.fingerprint()
    (tmp_path / "train" / "3.png").touch()
    assert settings.fingerprint() != before


BAD_BOXES = {
    "outside": ((200, 4, 20, 30, 1), "meet the picture, 90 x 40"),
    "above": ((20, -40, 20, 30, 1), "meet the picture"),
    "empty": ((20, 4, 0, 30, 1), "'width': 0.0"),
    "negative": ((20, 4, 20, -30, 1), "'height': -30.0"),
    "NaN": ((np.nan, 4, 20, 30, 1), "'left': nan"),
    "infinite": ((20, np.inf, 20, 30, 1), "'top': inf"),
    "enormous": ((20, 4, 20, 1e300, 1), "'height': 1e+300"),
    "half a pixel": ((20.5, 4, 20, 30, 1), "'left': 20.5"),
    "label 0": ((20, 4, 20, 30, 0), "got 0 at image 1"),
    "label 11": ((20, 4, 20, 30, 11), "got 11 at image 1"),
    "label NaN": ((20, 4, 20, 30, np.nan), "got nan at image 1"),
}


@pytest.mark.parametrize(("box", "telling"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_a_bad_box_is_one_line(tmp_path, box, telling):
    message = error_of(write(tmp_path, {"1.png": [(20, 4, 20, 32, 1), box]}))
    assert telling in message
    assert message.startswith(str(tmp_path / ("digitStruct.mat" if "image 1" in telling else "1.png")))


def bytes_of_a_good_one(folder: Path) -> bytes:
    return (write(folder) / "digitStruct.mat").read_bytes()


def test_a_damaged_struct_is_one_line(tmp_path):
    """Cut short, of other bytes, without a part, without boxes; pictures missing, damaged, or named outside."""
    good, path = bytes_of_a_good_one(tmp_path), tmp_path / "digitStruct.mat"
    for content in (b"", b"not found", good[: len(good) // 2], good[:600], good[:512] + bytes(len(good) - 512)):
        path.write_bytes(content)
        assert error_of(tmp_path).startswith(f"{path}: damaged")
    for part in ("name", "bbox"):
        assert "damaged" in error_of(write(tmp_path, drop=part))
    assert "got none" in error_of(write(tmp_path, {"1.png": []}))
    assert "got '../1.png'" in error_of(write(tmp_path, {"../1.png": [(20, 4, 20, 30, 1)]}))
    assert f"{tmp_path / '3.png'}: cannot be read (No such file" in error_of(
        write(tmp_path, PICTURES | {"3.png": [(20, 4, 20, 30, 1)]})
    )
    (write(tmp_path) / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert error_of(tmp_path).startswith(f"{tmp_path / '2.png'}: damaged")


def test_every_corruption_is_an_error_or_harmless(tmp_path):
    good, path = bytes_of_a_good_one(tmp_path), tmp_path / "digitStruct.mat"
    for index in range(512, len(good), 61):
        path.write_bytes(good[:index] + bytes([good[index] ^ 0xFF]) + good[index + 1 :])
        with contextlib.suppress(DataError):
            assert read_folder(tmp_path, 32).images.shape[1:] == (3, 32, 32)


def test_a_missing_folder_and_bad_settings_are_one_line(tmp_path):
    for root in (None, tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"expected train/digitStruct.mat[^\n]*unpack the official train\.tar\.gz"):
            source(root).load()
    with pytest.raises(DataError, match="the splits are train, test, extra"):
        source(tmp_path, splits=["all"]).load()
    for size in (1, 65, "32", True, None):
        with pytest.raises(DataError, match=r"data\.size must be 2\.\.64"):
            source(tmp_path, size=size)
