"""`python src/train.py ...` in processes that are forked from one that has imported everything.

A process start costs 5 s of imports, and the tests of faults start hundreds. Each child has its own working folder, its
own output and its own signals. The fit of the moments and the baselines are replaced by cheap ones: 10 s of linear
algebra per data set that no fault depends on. `exact` leaves them. Everything else is the real command.
"""

import gc
import itertools
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

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
SRC = Path(__file__).parents[2] / "src"
TRAIN = SRC / "train.py"
TINY = (
    "data=synthetic", "data.num_train=240", "data.num_test=40", "trainer=demo", "network_scale=0.03125",
    "trainer.max_epochs=4", "batch_size=50", "pca.n_components=20", "iw_samples=2", "judge=false",
)  # fmt: skip


class Done(NamedTuple):
    returncode: int  # negative: the signal that ended it
    stdout: str
    stderr: str
    seconds: float

    @property
    def printed(self) -> str:
        return self.stdout + self.stderr


class Command:
    """One command on its way; `prepare` is called in its process before it begins."""

    def __init__(
        self, folder: Path, *arguments: str, prepare: Prepare | None = None, script: str = "train", exact: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = next(NUMBERS)
        self.logs = [folder.with_name(f"{folder.name}.{number}.{name}") for name in ("out", "err")]
        for log in self.logs:
            log.touch()  # it may be killed before it writes
        self._start = time.monotonic()
        begin = SRC / f"{script}.py", arguments, None if exact else make_cheap, prepare
        self.process = CONTEXT.Process(target=_run, args=(folder, self.logs, *begin))
        self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float = 300) -> Done:
        self.process.join(timeout)
        stdout, stderr = (log.read_text(encoding="utf-8") for log in self.logs)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"nothing after {timeout} s: {stdout}{stderr}")
        return Done(self.process.exitcode, stdout, stderr, time.monotonic() - self._start)


def warm_up() -> None:
    """Starts the process that is forked."""
    process = CONTEXT.Process(target=make_cheap)
    process.start()
    process.join()


def command(script: str, folder: Path, *arguments: str, **how: Any) -> Done:
    """`python src/SCRIPT.py *arguments` in a folder; `how` as in Command."""
    return Command(folder, *arguments, script=script, **how).wait()


train = partial(command, "train")


def _run(folder: Path, logs: list[Path], script: Path, arguments: tuple[str, ...], *prepares: Prepare | None) -> None:
    os.chdir(folder)
    for number, log in enumerate(logs, start=1):
        with log.open("ab") as file:
            os.dup2(file.fileno(), number)
    gc.freeze()  # what was imported stays
    for prepare in prepares:
        if prepare is not None:
            prepare()
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def make_cheap() -> None:
    """Moments along the pixels' own axes, baselines that are all uniform, and plots without anything.

    They are kept in a cache in the working folder, where no exact ones are."""
    os.environ["XDG_CACHE_HOME"] = str(Path.cwd() / "cache")
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
        law = SimpleNamespace(log_prob=lambda x: torch.zeros(len(x)))
        return dict.fromkeys(("independent Gaussian", f"PPCA, K = {num_components}"), law)

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


def without_training_a_judge() -> None:
    """For commands that ask one, whatever it says."""
    from svhn_vae.evaluation import judge

    judge.fit = lambda dataset, settings, device: judge.Judge(settings.width, settings.dropout, 3).eval()


class Blank:
    """In place of matplotlib's canvas."""

    def __init__(self, figure) -> None:
        pass

    def print_svg(self, file, **_) -> None:
        file.write("<svg></svg>")
