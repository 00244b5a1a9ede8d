"""A sweep killed outright at random moments and continued by the same command: `make stress`, and tests/test_kill.py.

Half of the kills come after a random time, half at a random call to the file system, where writes are caught half
done. Prints each: when, what its files say that it was doing, its last call; and whether the end is that of a sweep
left alone, bit for bit.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stress.disk import Disk
from stress.fingerprint import fingerprints
from stress.forked import TINY, Command, Done, train, warm_up

SWEEP = ("-m", "variance=relu_eps,logvar", *TINY)


class Kill(NamedTuple):
    seconds: float  # since its process began
    doing: str  # by the files that it left
    last_call: str  # to the file system
    how: str


class Alone(NamedTuple):
    """The sweep that nobody disturbs."""

    folder: Path
    found: dict[str, str]  # its fingerprints
    seconds: float
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
    return Alone(folder, fingerprints(folder / "outputs" / "default"), done.seconds, calls)


def killed(folder: Path, alone: Alone, how: str, rng: random.Random) -> Kill | Done:
    """The command, killed at a random moment; what it came to if it was faster."""
    by_call = how == "call"
    n = rng.randint(1, len(alone.calls)) if by_call else 0
    deadline = rng.uniform(0, alone.seconds)
    command = Command(folder, *SWEEP, prepare=partial(watched, folder, n))
    start = time.monotonic()
    command.process.join(None if by_call else deadline)
    command.kill()
    done = command.wait()
    if done.returncode != -signal.SIGKILL:
        return done
    calls = (folder / "calls").read_text(encoding="utf-8").splitlines() if (folder / "calls").is_file() else []
    return Kill(time.monotonic() - start, doing(folder), calls[-1] if calls else "none yet", how)


def doing(folder: Path) -> str:
    """What the latest of its runs was at, by the files in its folder."""
    runs = list((folder / "outputs" / "default").glob("*/status.json"))
    if not runs:
        return "starting"
    run = max(runs, key=lambda path: path.stat().st_mtime_ns).parent
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    if status["status"] != "running":
        return f"between runs: {status['status']}"
    if "cost" not in status:
        return "training" if (run / "checkpoints" / "last.ckpt").is_file() else "before its first checkpoint"
    if not (run / "per_image.safetensors").is_file():
        return "scoring"
    return "drawing" if not (run / "result.json").is_file() else "ending"


def continued(folder: Path, alone: Alone, kills: Iterator[str], rng: random.Random) -> tuple[list[Kill], Done]:
    """Kills the sweep, continues it and kills it again, until it is done or no kill is left."""
    found = []
    for how in kills:
        outcome = killed(folder, alone, how, rng)
        if isinstance(outcome, Done):
            return found, outcome
        found.append(outcome)
    return found, train(folder, *SWEEP, prepare=partial(watched, folder, 0))


def differing(folder: Path, alone: Alone) -> list[str]:
    """What is not as in the sweep that was left alone; files half written."""
    found = fingerprints(folder / "outputs" / "default")
    names = [name for name in sorted({*found, *alone.found}) if found.get(name) != alone.found.get(name)]
    return names + [str(path.relative_to(folder)) for path in (folder / "outputs").rglob("*.partial")]


def main(num_kills: int = 50, seed: int = 0) -> int:
    """The number of sweeps that ended otherwise."""
    root, rng, num_wrong, number = Path(tempfile.mkdtemp(prefix="killed-")), random.Random(seed), 0, 0
    alone = left_alone(root / "alone")
    print(f"left alone: {alone.seconds:.1f} s, {len(alone.calls)} calls to the file system", flush=True)
    print(f"{'kill':>4} {'after s':>7}  {'by':4}  {'doing':<28}  last call", flush=True)
    sweep = 0
    while number < num_kills:
        sweep += 1
        folder = root / f"sweep{sweep}"
        hows = iter(["call", "time"] * num_kills)
        kills, done = continued(folder, alone, (next(hows) for _ in range(num_kills - number)), rng)
        for kill in kills:
            number += 1
            print(f"{number:>4} {kill.seconds:>7.2f}  {kill.how:4}  {kill.doing:<28}  {kill.last_call}", flush=True)
        wrong = [f"exit code {done.returncode}"] * bool(done.returncode) + differing(folder, alone)
        num_wrong += bool(wrong)
        told = [line.strip() for line in done.printed.splitlines() if "continues" in line or "already" in line]
        same = f"differs: {', '.join(wrong)}\n{done.printed}" if wrong else "the same to the last bit"
        print(f"     sweep {sweep}, killed {len(kills)} times: {same} ({'; '.join(told)})", flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(root)
    print(f"{number} kills, {sweep} sweeps, {num_wrong} not as if left alone")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
