"""The reader of .mat files: scipy is the oracle for good ones; every bad one is one line that says what is wrong."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from svhn_vae.data import svhn
from svhn_vae.data.sources import LabelledImages
from svhn_vae.data.svhn import read_mat
from svhn_vae.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "svhn"
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


def big_endian(content: bytes) -> bytes:
    """An uncompressed file of X and y as a big-endian machine writes it, labels as int16."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    def matrix(name: str, mat_class: int, values: np.ndarray, kind: int) -> bytes:
        shape = struct.pack(f">{values.ndim}i", *values.shape)
        content = values.astype(values.dtype.newbyteorder(">")).tobytes(order="F")
        header = element(6, struct.pack(">II", mat_class, 0)) + element(5, shape) + element(1, name.encode())
        return element(14, header + element(kind, content))

    return content[:124] + b"\x01\x00MI" + matrix("X", 9, X, 2) + matrix("y", 6, Y.astype(np.int16), 3)


def hdf5_bytes() -> bytes:
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Dec  5 21:09:26 2011 HDF5 schema 1.00 ."
    return (text.ljust(124) + b"\x00\x02IM").ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(200)


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


def error_of(path: Path) -> str:
    """The one line about a file that cannot be used."""
    with pytest.raises(DataError) as caught:
        read_mat(path)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith(str(path))
    return message


def read_or_none(path: Path) -> LabelledImages | None:
    """None where the file cannot be used; any other exception is a bug."""
    try:
        return read_mat(path)
    except DataError:
        return None


def assert_oracle(read: LabelledImages, pixels: np.ndarray, y: np.ndarray) -> None:
    """Image i, channel c, row h, column w is MATLAB's pixels[h, w, c, i]; label 10 is the digit 0."""
    assert read.images.dtype == read.labels.dtype == torch.uint8
    assert read.images.is_contiguous()
    np.testing.assert_array_equal(read.images.numpy(), pixels.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(read.labels.numpy(), np.where(y == 10, 0, y).ravel())


GOOD = {
    "compressed": mat_bytes(),
    "stored": mat_bytes(compressed=False),
    "double labels": mat_bytes(y=Y.astype(float)),
    "int32 labels": mat_bytes(y=Y.astype(np.int32)),
    "row of labels": mat_bytes(y=Y.T, compressed=False),
    "more arrays": mat_bytes(names=np.array(["a", "b"], dtype=object), note="text", weights=np.eye(3)),
    "big endian": big_endian(mat_bytes()),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_good_file(written, content):
    assert_oracle(read_mat(written(content)), X, Y)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("trailing", [(), (1,)], ids=["3-D", "4-D"])
def test_single_image(written, compressed, trailing):
    """MATLAB drops the last dimension; a single label is stored inside its tag."""
    content = mat_bytes(compressed, X=X[..., 0].reshape(32, 32, 3, *trailing), y=Y[:1])
    assert_oracle(read_mat(written(content)), X[..., :1], Y[:1])


def test_pixel_is_where_it_was(written):
    image = read_mat(written(mat_bytes())).images
    for i, c, h, w in [(0, 0, 0, 1), (1, 2, 31, 0), (4, 1, 7, 19)]:
        assert image[i, c, h, w] == X[h, w, c, i]


BAD = {
    "empty": (b"", "empty"),
    "text": (b"not here, moved to another server\n" * 9, "no .mat file"),
    "short text": (b"hello", "no .mat file"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>" * 5, "no .mat file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(300), "no .mat file"),
    "zeros": (bytes(4096), "no .mat file"),
    "pickle": (b"\x80\x04\x95" + bytes(range(200)), "no .mat file"),
    "v4": (mat_bytes(False, "4", X=np.eye(3), y=Y), "no .mat file"),
    "v7.3": (hdf5_bytes(), "save -v7"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "no .mat file"),
    "no arrays": (mat_bytes()[:128], "got []"),
    "no X": (mat_bytes(X=None), "got ['y']"),
    "no y": (mat_bytes(y=None), "got ['X']"),
    "wrong keys": (mat_bytes(X=None, y=None, images=X, labels=Y), "['images', 'labels']"),
    "X twice": (mat_bytes() + mat_bytes(y=None)[128:], "got ['X', 'y', 'X']"),
    "format 1": (mat_bytes(X=None, y=None, digitStruct={"name": "1.png"}), "format 1"),
    "images first": (mat_bytes(X=X.transpose(3, 0, 1, 2)), "got (5, 32, 32, 3)"),
    "28 x 28": (mat_bytes(X=X[:28, :28]), "got (28, 28, 3, 5)"),
    "grey": (mat_bytes(X=X[:, :, 0]), "got (32, 32, 5)"),
    "5-D": (mat_bytes(X=X[..., None].repeat(2, -1)), "got (32, 32, 3, 5, 2)"),
    "double X": (mat_bytes(X=X / 255), "got double"),
    "int8 X": (mat_bytes(X=X.view(np.int8)), "got int8"),
    "logical X": (mat_bytes(X=X > 99), "got logical"),
    "complex X": (mat_bytes(X=X + 1j), "got complex ones"),
    "cell X": (mat_bytes(X=np.full((32, 32, 3, 1), "", dtype=object), y=Y[:1]), "got cell"),
    "no images": (mat_bytes(X=X[..., :0], y=Y[:0]), "got (32, 32, 3, 0)"),
    "fewer labels": (mat_bytes(y=Y[:4]), "one per image, got (4, 1) uint8"),
    "matrix of labels": (mat_bytes(y=np.ones((5, 2))), "got (5, 2) float64"),
    "text labels": (mat_bytes(y="12345"), "must be (5, 1) numbers"),
    "label 0": (mat_bytes(y=labels(1, 2, 0, 4, 5)), "got 0 at image 2 (1 of 5"),
    "label 11": (mat_bytes(y=labels(1, 2, 3, 4, 11)), "got 11 at image 4"),
    "label -1": (mat_bytes(y=labels(-1, 2, 3, 4, 5)), "got -1 at image 0"),
    "label 1.5": (mat_bytes(y=labels(1, 1.5, 3, 4, 5)), "got 1.5 at image 1"),
    "label NaN": (mat_bytes(y=labels(1, 2, 3, np.nan, 5)), "got nan at image 3"),
    "label inf": (mat_bytes(y=labels(1, 2, 3, np.inf, 5)), "got inf at image 3"),
    "garbage behind": (mat_bytes() + b"<html>timeout</html>", "no array begins"),
    "zeros behind": (mat_bytes() + bytes(512), "no array begins"),
    "a few bytes behind": (mat_bytes() + b"\n", "last 1 bytes"),
    "middle damaged": (flipped(mat_bytes(), 6000), "damaged"),
    "checksum damaged": (flipped(mat_bytes(), len(mat_bytes()) - 1), "incorrect data check"),
    "value type unknown": (
        flipped(mat_bytes(compressed=False), 184, 0x5A),
        "its values have type",
    ),  # crashes scipy 1.17.1
}


@pytest.mark.parametrize(("content", "telling"), BAD.values(), ids=BAD)
def test_bad_file(written, content, telling):
    assert telling in error_of(written(content))


def test_no_file_or_no_permission(written, tmp_path, monkeypatch):
    """Root may read everything, so the refusal is simulated."""
    assert "cannot be read (No such file or directory)" in error_of(tmp_path / "none.mat")
    assert "cannot be read (Is a directory)" in error_of(tmp_path)
    path = written(mat_bytes())
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "cannot be read (Permission denied)" in error_of(path)


def test_no_memory(written, monkeypatch):
    def too_much(*_, **__):
        raise MemoryError

    monkeypatch.setattr(svhn.np, "ascontiguousarray", too_much)
    assert "no memory for its images" in error_of(written(mat_bytes()))


def test_interrupt_is_not_hidden(written, monkeypatch):
    def read(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(svhn.scipy.io, "loadmat", read)
    with pytest.raises(KeyboardInterrupt):
        read_mat(written(mat_bytes()))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_noticed(written, compressed):
    content = mat_bytes(compressed)
    lengths = {len(content) * part // 64 for part in range(64)} | {1, 10, 127, 128, 129, 135, 136, 137}
    for length in sorted(lengths | {len(content) - left for left in range(1, 40)}):
        message = error_of(written(content[:length]))
        assert length == 0 or (f"it has {length:,} bytes" in message and "182,040,794" in message)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_corruption_is_an_error_or_harmless(written, compressed):
    """Without checksums (not compressed) changed pixels pass, but never another shape; with them nothing passes."""
    content = mat_bytes(compressed)
    hot = [*range(112, 260), *range(len(content) - 90, len(content)), *range(300, len(content), 1009)]
    for index in hot:
        for bits in (0x01, 0x80, 0xFF):
            read = read_or_none(written(flipped(content, index, bits)))
            if read and compressed:
                assert_oracle(read, X, Y)
            elif read:
                assert read.images.shape == (NUM, 3, 32, 32)
                assert read.labels.max() < 10


def test_corrupt_headers_inside_a_valid_stream(written):
    """The checksum is right, so the bytes reach the reader of headers."""
    content = mat_bytes(compressed=False)
    num_bytes = 8 + struct.unpack("<I", content[132:136])[0]
    for index in range(64):
        for bits in (0x01, 0x10, 0x80, 0xFF):
            packed = zlib.compress(flipped(content[128 : 128 + num_bytes], index, bits), 1)
            path = written(content[:128] + struct.pack("<II", 15, len(packed)) + packed + content[128 + num_bytes :])
            if read := read_or_none(path):
                assert_oracle(read, X, Y)


@pytest.mark.parametrize(("split", "num_images"), [("train", 7499), ("test", 1499), ("extra", 1083)])
def test_real_images(split, num_images):
    path = REAL / f"{split}_32x32.mat"
    if not path.is_file():
        pytest.skip(f"{path}: real images not at hand")
    arrays = scipy.io.loadmat(path)
    assert arrays["X"].shape[3] == num_images
    assert_oracle(read_mat(path), arrays["X"], arrays["y"])


@pytest.mark.parametrize(("split", "size"), [("train", "2,686,976"), ("extra", "42,877")])
def test_real_interrupted_download(split, size):
    path = REAL / "interrupted" / f"{split}_32x32.mat"
    if not path.is_file():
        pytest.skip(f"{path}: real images not at hand")
    message = error_of(path)
    assert "interrupted" in message
    assert f"it has {size} bytes; the official file has {svhn.SVHN.files[path.name][1]:,}" in message


def test_file_that_changes_while_it_is_read(written, monkeypatch):
    monkeypatch.setattr(svhn.scipy.io, "loadmat", lambda *_, **__: {"X": X})
    assert "damaged (KeyError('y'))" in error_of(written(mat_bytes()))
