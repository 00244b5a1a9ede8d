"""The official sizes, on generated files: `make stress`. Prints what loading 604,388 images and a PCA of 73,257 take.

Needs 1.5 GB of disk for a while. Fails if loading peaks above 6 GB, or the PCA above 4 GB or 60 s.
"""

import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

SIZES = {"train": 73_257, "test": 26_032, "extra": 531_131}
CODE = """
import resource, sys, time
from pathlib import Path
from svhn_vae.data.svhn import SVHN
from svhn_vae.data.cache import cached_moments
splits, with_pca = sys.argv[2].split("+"), sys.argv[3] == "pca"
start = time.monotonic()
settings = {"limit": None, "held_out": 0.0001, "division": "contiguous", "verify": "none", "url": ""}
source = SVHN(splits=splits, root=sys.argv[1], **settings)
dataset = source.load()
if with_pca:
    start = time.monotonic()
    cached_moments(dataset.train.images, "stress", "sample", Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(len(dataset.train.labels), dataset.train.images.dtype, peak, time.monotonic() - start)
"""


def write(path: Path, num_images: int) -> None:
    """A compressed level-5 .mat file, in pieces: scipy would hold it several times."""
    num_bytes = num_images * 3072
    shape = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<4i", 32, 32, 3, num_images))
    head = shape + struct.pack("<HH4s", 1, 1, b"X") + struct.pack("<II", 2, num_bytes)
    labels = np.resize(np.arange(1, 11, dtype=np.uint8), num_images).tobytes()
    y = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<2i", num_images, 1))
    y = element(14, y + struct.pack("<HH4s", 1, 1, b"y") + element(2, labels))
    with path.open("wb") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(8))
        packer = zlib.compressobj(1)
        file.write(packer.compress(struct.pack("<II", 14, len(head) + num_bytes) + head))
        for pixels in blocks(num_images):
            file.write(packer.compress(pixels.tobytes()))
        file.write(packer.flush())
        end = file.tell()
        file.seek(128)
        file.write(struct.pack("<II", 15, end - 136))
        file.seek(end)
        packed = zlib.compress(y)
        file.write(struct.pack("<II", 15, len(packed)) + packed)


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def blocks(num_images: int, size: int = 5000):
    """Smooth patterns with a little noise: they compress as photographs do."""
    rng = np.random.default_rng(0)
    patterns = np.repeat(rng.integers(0, 256, (500, 3 * 32 * 4), dtype=np.uint8), 8, axis=1)
    for start in range(0, num_images, size):
        chosen = patterns[rng.integers(0, len(patterns), min(size, num_images - start))]
        yield (chosen & 0xF0) | rng.integers(0, 16, chosen.shape, dtype=np.uint8)


def measure(folder: str, splits: str, what: str) -> tuple[float, float]:
    """Peak memory in GiB and seconds, of a process of its own."""
    command = [sys.executable, "-c", CODE, folder, splits, what]
    count, dtype, peak, seconds = subprocess.run(
        command, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.split()
    print(f"{what} of {splits}: {int(count):,} images, {dtype}, peak {float(peak):.2f} GiB, {float(seconds):.1f} s")
    return float(peak), float(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for split, num_images in SIZES.items():
            write(Path(folder) / f"{split}_32x32.mat", num_images)
        load_peak, _ = measure(folder, "train+extra", "load")
        pca_peak, pca_seconds = measure(folder, "train", "pca")
    within = [load_peak < 6e9 / 2**30, pca_peak < 4e9 / 2**30, pca_seconds < 60]
    print(f"{sum(within)} passed, {within.count(False)} failed")
    sys.exit(within.count(False))


if __name__ == "__main__":
    main()
