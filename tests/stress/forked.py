"""`python src/train.py ...` in processes that are forked from one that has imported everything.

A process start costs 5 s of imports, and the tests of faults start hundreds. Each child has its own working folder, its
own output and its own signals. The fit of the moments and the baselines are replaced by cheap ones: 10 s of linear
algebra per data set that no fault depends on. Everything else is the real command.
"""

import gc
import itertools
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # of what is forked: no thread survives that, so there must be none
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "svhn_vae.experiment.sweep",
        "scipy.stats",
        "matplotlib.backends.backend_agg",
        "hydra.main",
        "tensorboard.plugins.hparams.summary",
    ]
)
Prepare = Callable[[], None]
NUMBERS = itertools.count()
TRAIN = Path(__file__).parents[2] / "src" / "train.py"
TINY = (
    "data=synthetic", "data.num_train=240", "data.num_test=40", "trainer=demo", "network_scale=0.03125",
    "trainer.max_epochs=4", "batch_size=50", "pca.n_components=20", "iw_samples=2", "judge=false",
)  # fmt: skip


class Done(NamedTuple):
    returncode: int  # negative: the signal that ended it
    printed: str
    seconds: float


class Command:
    """One command on its way; `prepare` is called in its process before it begins."""

    def __init__(self, folder: Path, *arguments: str, prepare: Prepare | None = None, script: Path = TRAIN) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder.with_name(f"{folder.name}.{next(NUMBERS)}.log")
        self._start = time.monotonic()
        self.process = CONTEXT.Process(target=_run, args=(folder, self.log, script, arguments, prepare))
        self.log.touch()  # it may be killed before it writes
        self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float = 300) -> Done:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"nothing after {timeout} s: {self.log.read_text(encoding='utf-8')}")
        return Done(self.process.exitcode, self.log.read_text(encoding="utf-8"), time.monotonic() - self._start)


def warm_up() -> None:
    """Starts the process that is forked."""
    process = CONTEXT.Process(target=make_cheap)
    process.start()
    process.join()


def train(folder: Path, *arguments: str, prepare: Prepare | None = None, script: Path = TRAIN) -> Done:
    return Command(folder, *arguments, prepare=prepare, script=script).wait()


def _run(folder: Path, log: Path, script: Path, arguments: tuple[str, ...], prepare: Prepare | None) -> None:
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    gc.freeze()  # what was imported stays
    make_cheap()
    if prepare is not None:
        prepare()
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def make_cheap() -> None:
    """Moments along the pixels' own axes, baselines that are all uniform, and plots without anything."""
    import numpy as np
    import torch

    from svhn_vae.evaluation import baselines, calibration, order_of_learning
    from svhn_vae.model import covariance as scatter
    from svhn_vae.report import plots

    def along_axes(batches) -> scatter.Moments:
        x = torch.cat(list(batches)).numpy()
        variances, order = torch.from_numpy(x.var(0)).sort(descending=True)
        components = torch.eye(x.shape[1])[order]
        mean, infinite = torch.from_numpy(x.mean(0)), torch.tensor(torch.inf, dtype=torch.float64)
        return scatter.Moments(mean, components, variances, infinite, variances.sum())

    def uniform(images, moments, num_components) -> dict:
        moments("sample")
        return dict.fromkeys(("uniform", "independent Gaussian", f"PPCA, K = {num_components}"), baselines.Uniform())

    scatter.FITS.update(sample=along_axes, robust=along_axes)
    baselines.fitted = uniform
    plots.FigureCanvasSVG = Blank
    calibration.rendered = order_of_learning.rendered = lambda figure: np.zeros((10, 10, 3), np.uint8)


def without_pictures() -> None:
    """For commands whose pictures nobody looks at: they are written, but black. Half of a tiny run is to draw them."""
    import numpy as np

    from svhn_vae.pictures import gallery
    from svhn_vae.training import callbacks

    gallery.draw = callbacks.draw = lambda subject, name: np.zeros((10, 10, 3), np.uint8)


class Blank:
    """In place of matplotlib's canvas."""

    def __init__(self, figure) -> None:
        pass

    def print_svg(self, file, **_) -> None:
        file.write("<svg></svg>")
