"""A sweep killed outright at random calls to the file system, where writes are caught half done, and continued by the
same command until it ends as a sweep left alone, bit for bit: `make stress`, and tests/test_kill.py."""

import os
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stress.disk import Disk
from stress.fingerprint import fingerprints
from stress.forked import TINY, train, warm_up

SWEEP = ("-m", "variance=relu_eps,logvar", *TINY)


class Alone(NamedTuple):
    """The sweep that nobody disturbs."""

    folder: Path
    found: dict[str, str]  # its fingerprints
    calls: list[str]  # to the file system


def kill_itself(call: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watched(folder: Path, n: int, pattern: str = "") -> None:
    """In the process to be killed, which kills itself at the n-th call that matches."""
    Disk(folder, n, kill_itself, pattern=pattern, log=folder / "calls").install()


def left_alone(folder: Path) -> Alone:
    warm_up()
    done = train(folder, *SWEEP, prepare=partial(watched, folder, 0))
    assert done.returncode == 0, done.printed
    calls = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return Alone(folder, fingerprints(folder / "outputs" / "default"), calls)


def differing(folder: Path, alone: Alone) -> list[str]:
    """What is not as in the sweep that was left alone; files half written."""
    found = fingerprints(folder / "outputs" / "default")
    names = [name for name in sorted({*found, *alone.found}) if found.get(name) != alone.found.get(name)]
    return names + [str(path.relative_to(folder)) for path in (folder / "outputs").rglob("*.partial")]


def main(num_kills: int = 50, seed: int = 0) -> int:
    """The number of sweeps that ended otherwise."""
    root, rng, num_wrong, number = Path(tempfile.mkdtemp(prefix="killed-")), random.Random(seed), 0, 0
    alone = left_alone(root / "alone")
    while number < num_kills:
        folder, is_over = root / "killed", False
        while not is_over:
            n = rng.randint(1, len(alone.calls)) if number < num_kills else 0
            done = train(folder, *SWEEP, prepare=partial(watched, folder, n))
            is_over = done.returncode != -signal.SIGKILL
            number += not is_over
            print(f"{number:>4} {'ended' if is_over else 'killed'} after call {n}", flush=True)
        wrong = [f"exit code {done.returncode}"] * bool(done.returncode) + differing(folder, alone)
        num_wrong += bool(wrong)
        print(f"differs: {', '.join(wrong)}\n{done.printed}" if wrong else "the same to the last bit", flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(root)
    print(f"{number} kills, {num_wrong} sweeps not as if left alone")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
