"""Every random number of a run derives from its seed and a place in the run, so that a run can be continued.

Checkpoints hold no generator state: what was drawn at epoch 7 or step 900 can be drawn again by naming that place.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from enum import IntEnum

import torch


class Stream(IntEnum):
    """What the numbers are for; different streams of one seed are independent."""

    WEIGHTS = 0
    ORDER = 1
    STEP = 2
    TRAINING_NOISE = 3
    EVALUATION_NOISE = 4
    EVALUATION_LATENTS = 5
    BASIS_NOISE = 6
    PICTURES = 7
    IMPORTANCE_SAMPLES = 8


def derive_seed(stream: Stream, *place: int) -> int:
    """A 63-bit seed for one stream at one place, for instance (seed, epoch).

    A hash of the place's digits: numpy's SeedSequence takes (0,), (0, 0) and (0, 0, 0) for the same.
    """
    name = " ".join(str(int(number)) for number in (stream, *place))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def seed_device(device: torch.device, seed: int) -> None:
    """Seeds a device's default generator. torch.manual_seed does so for all there are, and where CUDA is not in use it
    keeps each call with a stack trace of it, for later: 0.9 ms, and memory that grows."""
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draws on a device from `seed`, and leaves its generator as it was."""
    is_cpu = device.type not in ("cuda", "mps")
    with torch.random.fork_rng([] if is_cpu else [device], device_type="cuda" if is_cpu else device.type):
        seed_device(device, seed)
        yield
