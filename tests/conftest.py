"""What every test shares: the choices of each config group, composed configurations, a cache folder of its own."""

import copy
import csv
import functools
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from numpy.typing import ArrayLike
from omegaconf import DictConfig

from svhn_vae.experiment.configuration import CONF, composing, register_resolvers
from svhn_vae.experiment.preflight import Composer, Job

# pytest-xdist's workers ignore Ctrl-C, and so would the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
REPO = Path(__file__).parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:  # the warnings are this process's: what a command prints is tested
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)
STARTS_PROCESSES = re.compile(r"^(?:import|from) (?:subprocess|multiprocessing|stress|test_end_to_end)\b", re.MULTILINE)
# The user's cache is left alone. Set before anything reads it, and inherited by the processes that tests begin.
PREFIX = "svhn-vae-tests-"
IS_FIRST = PREFIX not in os.environ.get("XDG_CACHE_HOME", "")
if IS_FIRST:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix=PREFIX)


def options(group: str) -> list[str]:
    """The choices of a config group: every YAML file in its folder, so that a new one is tested unasked."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    """The configuration that `python src/train.py *overrides` runs, Hydra's own part included."""
    cfg = copy.deepcopy(composed_once(overrides))
    HydraConfig.instance().set_config(cfg)
    return cfg


@functools.cache
def composed_once(overrides: tuple[str, ...]) -> DictConfig:
    """Kept, because Hydra needs 0.1 s and tests ask thousands of times."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("train", list(overrides), return_hydra_config=True)


def shared_jobs_of(words: list[str], *, is_sweep: bool, **_: object) -> list[Job]:
    """preflight.jobs_of, but all commands share what each would compose for itself."""
    with composing():
        composer = shared_composer()
        return [composer.job(job) for job in composer.overrides_of_jobs(words, is_sweep=is_sweep)]


@functools.cache
def shared_composer() -> Composer:
    return Composer("train")


def in_batches(x: ArrayLike) -> list[torch.Tensor]:
    """Images x (N, D) as what moments are fitted on: some at a time."""
    return list(torch.as_tensor(x, dtype=torch.float64).split(100))


def rows_of(path: Path) -> list[dict[str, float]]:
    """Of a history.csv; of each row the metrics that it has."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all tests of a file that imports what starts processes, so that `-m "not process"` leaves them out.

    They are the slow ones, and come first, so that at the end both workers have small files left."""
    paths = {item.path for item in items}
    starting = {path for path in paths if STARTS_PROCESSES.search(path.read_text(encoding="utf-8"))}
    for item in items:
        if item.path in starting:
            item.add_marker("process")
    items.sort(key=lambda item: item.path not in starting)


def pytest_unconfigure() -> None:
    if IS_FIRST:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
