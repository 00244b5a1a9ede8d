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
    PRIOR = 9
    SHARD = 10
    AUGMENTATION = 11


def derive_seed(stream: Stream, *place: int) -> int:
    """A 63-bit seed for one stream at one place, for instance (seed, epoch).

    A hash of the place's digits: numpy's SeedSequence takes (0,), (0, 0) and (0, 0, 0) for the same.
    """
    name = " ".join(str(int(number)) for number in (stream, *place))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def seed_device(device: torch.device, seed: int) -> None:
    """Seeds a device's default generator. torch.manual_seed does so for all there are, and where CUDA is not in use it
    keeps each call with a stack trace of it, for later: 0.9 ms, and memory that grows."""
    if device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        generator_of(device).manual_seed(seed)


def generator_of(device: torch.device) -> torch.Generator:
    """What draws on a CPU or CUDA device where no generator is named."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draws on a device from `seed`, and leaves its generator as it was."""
    get_state, set_state = torch.mps.get_rng_state, torch.mps.set_rng_state
    if device.type != "mps":
        get_state, set_state = generator_of(device).get_state, generator_of(device).set_state
    before = get_state()
    seed_device(device, seed)
    try:
        yield
    finally:
        set_state(before)
