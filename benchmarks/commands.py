"""Whole commands, timed from outside as a person has them: a tiny run, of which hardly anything is training, sweeps of
such runs, and one run of any size."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from svhn_vae.runs.installation import COMMANDS, PACKAGE
from svhn_vae.training.loggers import read_history

from .bare import seconds_of

TINY = (
    "data=synthetic", "data.num_train=2000", "data.num_test=500", "trainer=demo", "trainer.max_epochs=1",
    "iw_samples=0", "judge=false",
)  # fmt: skip
POSTS_IMAGES = 567_000 * 2_000  # that the 2017 post trained on, in 43.7 hours
POSTS_BEST = -97.17  # nats: its validation loss


class Workplace:
    """An empty folder for outputs and caches."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.own = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(PACKAGE.parent)}
        folder.mkdir(parents=True, exist_ok=True)

    def train(self, *arguments: str) -> None:
        """The command `train` to its end. Raises RuntimeError with what it printed if it failed."""
        accelerator = f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"
        command = [sys.executable, str(COMMANDS / "train.py"), *arguments, accelerator]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | self.own, capture_output=True, text=True, encoding="utf-8"
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def tiny(self, *arguments: str) -> Callable[[], None]:
        return lambda: self.train(*arguments[:1], *TINY, *arguments[1:])


def start_times(place: Workplace, repeats: int) -> dict[str, list[float]]:
    """Seconds of a tiny run: with empty caches, and with those of a run before."""
    cold = [seconds_of(place.tiny("study=cold"))]
    return {"cold": cold, "warm": [seconds_of(place.tiny(f"study=warm{number}")) for number in range(repeats)]}


def sweep_times(place: Workplace, num_jobs: int) -> dict[str, list[float]]:
    """Seconds of a job of a sweep over seeds, and of such a run as a single command; caches are warm."""
    place.train(*TINY, "study=before")
    sweep = seconds_of(place.tiny("-m", f"seed={','.join(map(str, range(num_jobs)))}", "study=sweep"))
    single = [seconds_of(place.tiny(f"seed={seed}", "study=single")) for seed in range(num_jobs)]
    return {"a job of a sweep": [sweep / num_jobs], "a single command": single}


def whole_run(place: Workplace, *overrides: str) -> dict[str, float | None]:
    """A run as a person starts it, validations, checkpoints and pictures included: what the post's would take.

    With the user's own cache: the images may be there. Raises RuntimeError if it has no result.
    """
    del place.own["XDG_CACHE_HOME"]
    place.train(*overrides, "study=whole")
    results = list((place.folder / "outputs" / "whole").glob("*/result.json"))
    if not results:
        raise RuntimeError(f"the run of {' '.join(overrides)} diverged")
    cost = json.loads(results[0].read_text(encoding="utf-8"))["cost"]
    rows = read_history(results[0].with_name("history.csv"))
    reached = [row["seconds"] for row in rows if row.get("val/post_loss", math.inf) <= POSTS_BEST]
    return {
        "images/s": cost["images_per_second"],
        "seconds for the post's 567,000 images x 2,000 epochs": POSTS_IMAGES / cost["images_per_second"],
        "seconds of training to a validation loss of -97.17": min(reached, default=None),
        "GB of the device's memory": cost["peak_device_bytes"] and cost["peak_device_bytes"] / 1e9,
    }
