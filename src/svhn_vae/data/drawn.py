"""Drawn digits, kept in the user's cache folder: 6,000 take two seconds to draw."""

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

import pooch
import torch

from svhn_vae.data import digits
from svhn_vae.data.kept import kept_or_made
from svhn_vae.data.mat import LabelledImages

KEPT = range(1_000, 100_001)  # images of a file: fewer are drawn in no time, more are held in memory three times
LIBRARIES = ("numpy", "pillow", "matplotlib")  # other versions may round otherwise, or bring other fonts


def drawn_once(num_images: int, seed: int) -> LabelledImages:
    """As `digits.draw_digits` draws them."""

    def draw() -> LabelledImages:
        images, labels = digits.draw_digits(num_images, seed)
        return LabelledImages(torch.from_numpy(images), torch.from_numpy(labels))

    if num_images not in KEPT:
        return draw()
    path = Path(pooch.os_cache("svhn-vae")) / f"digits-{_drawer()}-{seed}-{num_images}.safetensors"
    return kept_or_made(path, LabelledImages, draw, made="drawn", advice="XDG_CACHE_HOME=FOLDER is another place")


@functools.cache
def _drawer() -> str:
    """Names the code that draws, and the libraries that it draws with."""
    source = Path(digits.__file__).read_text(encoding="utf-8")
    return hashlib.sha256(" ".join([source, *map(version, LIBRARIES)]).encode()).hexdigest()[:8]
