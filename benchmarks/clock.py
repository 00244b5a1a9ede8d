"""Times in turns: on a machine that does other things beside, only what was measured in one round can be compared."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import torch


class Timed(NamedTuple):
    """Of one way: seconds in each round, and for the same amount of work relative to the first way's, the median."""

    seconds: list[float]
    relative_speed: float

    @property
    def median(self) -> float:
        return median(self.seconds)


def in_turns(rounds: dict[str, list[float]]) -> dict[str, Timed]:
    """Seconds of each way and round -> medians; a ratio is taken within a round. The first way is 1."""
    reference = next(iter(rounds.values()))
    return {
        name: Timed(seconds, median(ref / own for ref, own in zip(reference, seconds, strict=True)))
        for name, seconds in rounds.items()
    }


def seconds_of(work: Callable[[], object]) -> float:
    with stopwatch() as seconds:
        work()
    return seconds[0]


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Fills its list when the block, and what it gave to a GPU, has ended."""
    seconds: list[float] = []
    synchronise()
    start = time.perf_counter()
    yield seconds
    synchronise()
    seconds.append(time.perf_counter() - start)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of square matrix products on a device, the best of some."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2.0 * size**3 / min(seconds_of(lambda: a @ b) for _ in range(10))
