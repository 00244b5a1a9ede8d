"""Tensors that take seconds to make and are always the same, kept on disk for every later run.

A file's name says what it holds, and how that was made: its content is only asked whether it is whole. A cache that
cannot be read or written costs time and a notice, never a run.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from svhn_vae.data.batches import dequantised_chunks, every_nth
from svhn_vae.errors import Damaged
from svhn_vae.model.covariance import FITS, Moments, shrunk
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.seeds import Stream

MOMENTS_FORMAT = 5  # to be raised with any change of what is fitted, so that older files are not read
MAX_IMAGES = {  # that moments are fitted on
    "sample": 1_000_000,  # 3,072 pixels' covariance of so many costs 2 nats of an image's log-density; 0.1 ms each
    "robust": 100_000,  # all at once in memory, in float64 2.5 GB
}
CPU = torch.device("cpu")
CHUNKS_AT_ONCE = 8  # of dequantised images, for larger products
NUM_IN_MEMORY = 4  # the moments of both scatters, and the images of two splits

Content = TypeVar("Content", bound=tuple)  # a NamedTuple of tensors
_in_memory: dict[Path, Any] = {}  # what this process has read or made, the latest last


def cached(path: Path, kind: type[Content], make: Callable[[], Content]) -> Content:
    """From memory, from `path`, or as `make` returns it, and then put there.

    Not to be written to, because the jobs of one process share it. What is not finite is not kept.
    """
    content = _in_memory.pop(path, None) or _read(path, kind)
    if content is None:
        content = make()
        if not all(array.isfinite().all() for array in content if array.ndim):
            return content
        _write(content, path)
    _in_memory[path] = content
    for oldest in list(_in_memory)[:-NUM_IN_MEMORY]:
        del _in_memory[oldest]
    return content


def _read(path: Path, kind: type[Content]) -> Content | None:
    """None if there is no such file, with a notice if it is damaged or may not be read."""
    try:
        return kind(**load_tensors(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (Damaged, TypeError) as error:  # TypeError: it has other names
        print(f"  {path} is damaged ({error}): made anew", flush=True)
    except OSError as error:
        print(f"  {path} cannot be read ({error.strerror}): made anew; cache=FOLDER is another place", flush=True)
    return None


def _write(content: Any, path: Path) -> None:
    try:
        save_tensors(content._asdict(), path)
    except OSError as error:
        print(f"  {path} cannot be written ({error}): the next command makes it anew; cache=FOLDER is another place",
              flush=True)  # fmt: skip


def cached_moments(images: Tensor, digest: str, scatter: str, cache: Path, device: torch.device = CPU) -> Moments:
    """The moments of images (N, C, H, W) uint8 named by `digest`; from `cache`, or fitted and put there.

    scatter: one of covariance.SCATTERS: `sample`, what is `shrunk` of it, or `robust`.

    At most MAX_IMAGES evenly spaced images are fitted on, their covariance on the device. The dequantisation noise is
    the same in every run. The whole spectrum is kept: every number of components, whitened or not, is a slice of it.
    """
    if scatter == "shrunk":
        sample = cached_moments(images, digest, "sample", cache, device)
        return shrunk(sample, len(every_nth(images, MAX_IMAGES["sample"])))
    path = cache / f"moments-{MOMENTS_FORMAT}-{scatter}-{digest}.safetensors"
    return cached(path, Moments, functools.partial(fitted_moments, images, scatter, device))


def fitted_moments(images: Tensor, scatter: str, device: torch.device = CPU) -> Moments:
    """As `cached_moments` has them the first time."""
    place = device if scatter == "sample" and device.type != "mps" else CPU  # MPS has no float64
    chunks = dequantised_chunks(every_nth(images, MAX_IMAGES[scatter]), Stream.BASIS_NOISE)
    several = iter(lambda: list(itertools.islice(chunks, CHUNKS_AT_ONCE)), [])
    return FITS[scatter](torch.cat(part).flatten(1).to(place).double() for part in several)
