"""The pixels' moments, fitted once per set of training images and kept on disk for every later run.

The whole spectrum is kept, so that every number of components, whitened or not, is a slice of it.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from svhn_vae.data.batches import dequantised_chunks
from svhn_vae.data.kept import kept_or_made
from svhn_vae.model.covariance import FITS, Moments
from svhn_vae.seeds import Stream

FORMAT = 4  # to be raised with any change of what is fitted, so that older files are not read
MAX_IMAGES = {  # that are fitted on
    "sample": 1_000_000,  # 3,072 pixels' covariance of so many costs 2 nats of an image's log-density; 0.1 ms each
    "robust": 100_000,  # all at once in memory, in float64 2.5 GB
}
CPU = torch.device("cpu")
CHUNKS_AT_ONCE = 8  # of dequantised images, for larger products


def moments_once(images: Tensor, digest: str, scatter: str, cache: Path, device: torch.device = CPU) -> Moments:
    """The moments of images (N, 3, 32, 32) uint8 named by `digest`; from `cache`, or fitted and put there.

    scatter: one of scatter.FITS, `sample` or `robust`.

    At most MAX_IMAGES evenly spaced images are fitted on, their covariance on the device. The dequantisation noise is
    the same in every run.
    """
    path = cache / f"moments-{FORMAT}-{scatter}-{digest}.safetensors"
    fit = functools.partial(fitted, images, scatter, device)
    return kept_or_made(path, Moments, fit, made="fitted", advice="cache=FOLDER is another place")


def spaced(images: Tensor, at_most: int) -> Tensor:
    """Every n-th image, n the least that leaves `at_most` or fewer."""
    return images[:: -(-len(images) // at_most)]


def fitted(images: Tensor, scatter: str, device: torch.device = CPU) -> Moments:
    """As `moments_once` has them the first time."""
    return FITS[scatter](_batches(spaced(images, MAX_IMAGES[scatter]), device if scatter == "sample" else CPU))


def _batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """x (B, D) float64 on the device."""
    chunks = dequantised_chunks(images, Stream.BASIS_NOISE)
    while several := list(itertools.islice(chunks, CHUNKS_AT_ONCE)):
        yield torch.cat(several).flatten(1).to(device).double()
