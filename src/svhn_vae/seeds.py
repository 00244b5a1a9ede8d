"""Every random number of a run derives from its seed and a place in the run, so that a run can be continued.

Checkpoints hold no generator state: what was drawn at epoch 7 or step 900 can be drawn again by naming that place.
"""

from enum import IntEnum

import numpy as np


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
    """A 64-bit seed for one stream at one place, for instance (seed, epoch)."""
    return int(np.random.SeedSequence((stream, *place)).generate_state(1, np.uint64)[0] >> np.uint64(1))
