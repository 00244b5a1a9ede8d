"""The experiments that test 24 claims of the 2017 post and two of ours: complete, testable, of two sizes."""

import functools
import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conftest import CONF, composed, shared_jobs_of
from svhn_vae.experiment.configuration import plain
from svhn_vae.experiment.preflight import Job
from svhn_vae.report.hypotheses import parse
from svhn_vae.runs.identity import flatten

FOLDER = CONF / "experiment" / "claims"
CLAIMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MIN_SEEDS = 3
FULL_SIZE = {"trainer.max_epochs": 2000, "batch_size": 1000, "network_scale": 1.0, "optimizer.lr": 1e-4}
SWEPT_AT_BOTH_SIZES = {"batch_size", "network_scale", "trainer.max_epochs"}  # an experiment names both sizes' values


@functools.cache
def sweep(name: str) -> dict[str, list[str]]:
    """What the experiment varies: key -> its values, as they are typed."""
    params = OmegaConf.to_container(composed(f"experiment=claims/{name}").hydra.sweeper.params)
    parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in params.items()])
    return {
        override.get_key_element(): list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in parsed
    }


@functools.cache
def jobs(name: str) -> list[Job]:
    """Of one seed: those of the others differ in nothing else."""
    return shared_jobs_of([f"experiment=claims/{name}", f"seed={sweep(name)['seed'][0]}"], is_sweep=True)


@functools.cache
def choices(*overrides: str) -> dict[str, str]:
    return OmegaConf.to_container(composed(*overrides).hydra.runtime.choices)


def settings(name: str, job: Job) -> dict[str, object]:
    """Of a job: values and choices."""
    groups = choices(f"experiment=claims/{name}")
    chosen = [override for override in job.overrides if override.partition("=")[0] in groups]
    return {**flatten(job.settings), **choices(f"experiment=claims/{name}", *chosen)}


def selects(run: dict[str, object], conditions: dict[str, object]) -> bool:
    return all(
        run.get(key, "no such setting") in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in conditions.items()
    )


def test_there_are_24_claims_of_the_post_and_two_of_ours():
    assert [name[:2] for name in CLAIMS] == [f"{number:02}" for number in range(1, 27)]


@pytest.mark.parametrize("name", CLAIMS)
def test_an_experiment_says_how_to_run_it_at_both_sizes_and_what_it_asks(name):
    text, swept = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), sweep(name)
    package, command, *_ = text.splitlines()
    assert package == "# @package _global_"
    assert command == f"# python src/train.py -m experiment=claims/{name} data.root=FOLDER data.verify=none"
    cfg = composed(f"experiment=claims/{name}")
    assert cfg.study == f"claims/{name}"
    assert cfg.question.endswith("?")
    of_judge = [one for one in cfg.hypotheses if str(one.metric).startswith(("samples/", "analogies/"))]
    assert cfg.judge or not of_judge
    full = flatten(plain(composed(f"experiment=claims/{name}", "trainer=default")))
    due = {key: value for key, value in FULL_SIZE.items() if key not in swept}
    assert {key: full[key] for key in due} == due
    header = text.split("defaults:")[0]
    assert "Full size, on a GPU: the same with trainer=default" in header
    assert all(f"{key}=" in header for key in SWEPT_AT_BOTH_SIZES & swept.keys())


@pytest.mark.parametrize("name", CLAIMS)
def test_its_hypotheses_are_of_runs_that_its_command_makes_with_three_seeds(name):
    assert not [(job.wrong, job.impossible) for job in jobs(name) if job.wrong or job.impossible]
    num_runs = math.prod(len(values) for key, values in sweep(name).items() if key != "seed")
    assert len({job.name for job in jobs(name)}) == len(jobs(name)) == num_runs
    assert len(set(sweep(name)["seed"])) >= MIN_SEEDS
    stated = OmegaConf.to_container(composed(f"experiment=claims/{name}").hypotheses)
    assert stated
    varied = [settings(name, job) for job in jobs(name)]
    for hypothesis in map(parse, stated):
        chosen = [[selects(run, side) for run in varied] for side in hypothesis.sides]
        assert all(any(side) for side in chosen), hypothesis.claim
        assert not any(all(both) for both in zip(*chosen, strict=True)) or len(chosen) == 1, hypothesis.claim
