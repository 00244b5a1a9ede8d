"""Whole commands, timed from outside as a person has them: start, sweeps, report, evaluation."""

import functools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from svhn_vae.runs.installation import COMMANDS, PACKAGE
from svhn_vae.training.loggers import read_history

from .clock import seconds_of

MARKED = Path(__file__).with_name("marked.py")
TINY = (  # a run of which hardly anything is training
    "data=synthetic", "data.num_train=2000", "data.num_test=500", "trainer=demo", "trainer.max_epochs=1",
    "iw_samples=0",
)  # fmt: skip
POSTS_IMAGES = 567_000 * 2_000  # that the 2017 post trained on, in 43.7 hours
POSTS_BEST = -97.17  # nats: its validation loss


class Workplace:
    """An empty folder for outputs and caches."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.own = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(PACKAGE.parent)}
        self.peak_gigabytes: float | None = None  # of memory, of the last command, where the system tells
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *arguments: str) -> list[float]:
        """A command to its end -> when its jobs made their first updates, in seconds from the command.

        Raises RuntimeError with what it printed if it failed.
        """
        times, peak = self.folder / "times", self.folder / "peak"
        for left in (times, peak):
            left.unlink(missing_ok=True)
        command = [sys.executable, str(MARKED), str(times), str(peak), str(COMMANDS / f"{name}.py"), *arguments]
        start = time.time()
        done = subprocess.run(command, cwd=self.folder, env=os.environ | self.own, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        self.peak_gigabytes = int(peak.read_text()) * 1024 / 1e9 if peak.exists() else None
        return [float(line) - start for line in times.read_text().split()] if times.exists() else []

    def train(self, *arguments: str, is_sweep: bool = False) -> list[float]:
        """A tiny run, or several."""
        return self.run("train", *(["-m"] if is_sweep else []), *TINY, self.accelerator, *arguments)

    @property
    def accelerator(self) -> str:
        return f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"

    def ends(self, study: str) -> list[float]:
        """When the runs of a study had their results, in order, as time.time() has it."""
        return sorted(path.stat().st_mtime for path in (self.folder / "outputs" / study).glob("*/result.json"))


def start_times(place: Workplace, repeats: int) -> dict[str, list[float]]:
    """Seconds from the command to the end of its first update: with empty caches, and with those of a run before."""
    cold = place.train("study=cold")
    warm = [place.train(f"study=warm{number}")[0] for number in range(repeats)]
    return {"cold": cold, "warm": warm}


def sweep_times(place: Workplace, num_jobs: int) -> dict[str, list[float]]:
    """Seconds of a sweep over seeds, of its runs as single commands, and from a job's result to the next job's first
    update; caches are warm."""
    place.train("study=before")
    begun = time.time()
    begins = place.train(f"seed={','.join(map(str, range(num_jobs)))}", "study=sweep", is_sweep=True)
    whole, ends = time.time() - begun, [end - begun for end in place.ends("sweep")]
    single = [seconds_of(functools.partial(place.train, f"seed={seed}", "study=single")) for seed in range(num_jobs)]
    between = [begin - end for end, begin in zip(ends, begins[1:], strict=False)]
    return {"sweep": [whole], "as single commands": [sum(single)], "from a result to the next job's update": between}


def together_times(place: Workplace, num_jobs: int, at_once: int) -> dict[str, list[float]]:
    """Seconds of a sweep's jobs one after another and several at once in processes, of joblib's launcher."""
    longer = ("trainer.max_epochs=10", f"seed={','.join(map(str, range(num_jobs)))}")
    joblib = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}")
    alone = seconds_of(lambda: place.train(*longer, "study=after", is_sweep=True))
    several = seconds_of(lambda: place.train(*joblib, *longer, "study=together", is_sweep=True))
    return {"one after another": [alone], f"{at_once} at once": [several]}


def report_times(place: Workplace, study: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of the report on a study, and of the evaluation of one of its runs."""
    run = next((place.folder / "outputs" / study).glob("*/result.json")).parent
    evaluate = ("evaluate", f"run={run}", "iw_samples=16")
    return {
        "report": [seconds_of(lambda: place.run("report", f"outputs/{study}")) for _ in range(repeats)],
        "evaluation": [seconds_of(lambda: place.run(*evaluate)) for _ in range(repeats)],
    }


def whole_run(place: Workplace, *overrides: str) -> dict[str, float | None]:
    """A run as a person starts it, validations, checkpoints and pictures included: what the post's would take.

    With the user's own cache: the images may be there. Raises RuntimeError if it has no result.
    """
    del place.own["XDG_CACHE_HOME"]
    place.run("train", *overrides, place.accelerator, "study=whole")
    results = list((place.folder / "outputs" / "whole").glob("*/result.json"))
    if not results:
        raise RuntimeError(f"the run of {' '.join(overrides)} diverged")
    [result] = results
    cost = json.loads(result.read_text())["cost"]
    rows = read_history(result.with_name("history.csv"))
    reached = [row["seconds"] for row in rows if row.get("val/post_loss", math.inf) <= POSTS_BEST]
    on_device = cost["peak_device_bytes"]
    return {
        "images/s": cost["images_per_second"],
        "seconds for the post's 567,000 images x 2,000 epochs": POSTS_IMAGES / cost["images_per_second"],
        "seconds of training to a validation loss of -97.17": min(reached, default=None),
        "GB of memory": place.peak_gigabytes,
        "GB of the device's": on_device and on_device / 1e9,
    }
