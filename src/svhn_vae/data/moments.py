"""The pixels' moments, fitted once per set of training images and kept on disk for every later run.

The whole spectrum is kept, so that every number of components, whitened or not, is a slice of it.
"""

import functools
from pathlib import Path

import numpy as np
from torch import Tensor

from svhn_vae.data.batches import dequantised_chunks
from svhn_vae.data.kept import kept_or_made
from svhn_vae.scatter import FITS, Moments
from svhn_vae.seeds import Stream

FORMAT = 3  # to be raised with any change of what is fitted, so that older files are not read
MAX_IMAGES = 100_000  # the post's number; float64 covariance of that many holds 2.5 GB


def moments_once(images: Tensor, digest: str, scatter: str, cache: Path) -> Moments:
    """The moments of images (N, 3, 32, 32) uint8 named by `digest`; from `cache`, or fitted and put there.

    scatter: one of scatter.FITS, `sample` or `robust`.

    At most MAX_IMAGES evenly spaced images are fitted on. The dequantisation noise is the same in every run.
    """
    path = cache / f"moments-{FORMAT}-{scatter}-{digest}.safetensors"
    fit = functools.partial(_fit, images, scatter)
    return kept_or_made(path, Moments, fit, made="fitted", advice="cache=FOLDER is another place")


def spaced(images: Tensor, at_most: int) -> Tensor:
    """Every n-th image, n the least that leaves `at_most` or fewer."""
    return images[:: -(-len(images) // at_most)]


def _fit(images: Tensor, scatter: str) -> Moments:
    images = spaced(images, MAX_IMAGES)
    x = np.empty((len(images), images[0].numel()))
    start = 0
    for chunk in dequantised_chunks(images, Stream.BASIS_NOISE):
        x[start : start + len(chunk)] = chunk.flatten(1).numpy()
        start += len(chunk)
    return FITS[scatter](x)
