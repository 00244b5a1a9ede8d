"""Fifty tiny runs in one process: `make stress`. Resident memory after the tenth and after the fiftieth are alike."""

import re
import sys
import tempfile
from functools import partial
from pathlib import Path

from stress.forked import TINY, train

WITHIN = (0.1, 50.0)  # of the first, or MB: whichever is more


def measured(folder: Path) -> None:
    """Prints resident memory after each run, in MB, and removes the run's largest file, 37 MB."""
    from svhn_vae.experiment.sweep import Sweep

    real = Sweep.run_job

    def run_job(self, cfg) -> float:
        value = real(self, cfg)
        for path in folder.rglob("basis.safetensors"):
            path.unlink()
        resident = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) / 1024
        print(f"resident {resident:.1f}", flush=True)
        return value

    Sweep.run_job = run_job


def resident(folder: Path, num_runs: int, *arguments: str) -> list[float]:
    """MB after each run of a sweep."""
    seeds = f"seed=range({num_runs // 2})"
    sweep = ("-m", "variance=relu_eps,logvar", seeds, *TINY, "trainer.max_epochs=1", *arguments)
    done = train(folder, *sweep, prepare=partial(measured, folder))
    assert done.returncode == 0, done.printed
    found = [float(text) for text in re.findall(r"^resident (.*)$", done.printed, re.MULTILINE)]
    assert len(found) == num_runs, done.printed
    return found


def is_flat(before: float, after: float) -> bool:
    relative, absolute = WITHIN
    return after - before < max(relative * before, absolute)


def main(num_runs: int = 50) -> int:
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        found = resident(Path(folder) / "sweep", num_runs)
    for number in range(0, num_runs, 5):
        print(f"after run {number + 1:>3}: {found[number]:.0f} MB")
    print(f"after run {num_runs:>3}: {found[-1]:.0f} MB; {found[-1] - found[9]:+.1f} MB since the tenth")
    return int(not is_flat(found[9], found[-1]))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
