"""Searches settings that train well, by Optuna: python src/search.py study=NAME optimizer.lr='interval(1e-4,1e-2)'

A setting is searched where it is an interval(LOW,HIGH) of numbers, tag(log,interval(...)), a range(LOW,HIGH,STEP), or
several values A,B; all other words are the runs' settings. A trial is a run, and its score is val/negative_elbo. The
study's folder keeps the trials: the same command goes on with a search that was killed. Settings: conf/search.yaml
"""

import itertools
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from svhn_vae.errors import UserError, how_to_install
from svhn_vae.experiment.configuration import quiet, register_resolvers
from svhn_vae.experiment.preflight import configured, jobs_of, unreadable, with_home
from svhn_vae.experiment.sweep import Sweep
from svhn_vae.runs.files import locked, write_json
from svhn_vae.runs.installation import CONF, as_typed, parser_of

OWN = ("trials", "sampler_seed", "num_random")


class Trial(Sweep):
    """One run of a search, which prints no table of the study."""

    def tell(self) -> None:
        pass


def search() -> int:
    """Runs trials until there are as many as asked for; returns the exit code."""
    parser = parser_of(__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="settings, as for train.py")
    words = [with_home(word) for word in parser.parse_args().overrides]
    register_resolvers()
    quiet()
    try:
        import optuna
    except ImportError:
        raise UserError(f"search needs optuna: {how_to_install('search')}") from None
    settings, searched, fixed, folder = plan(words)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with locked(folder / "search.db"):
        storage = f"sqlite:///{folder.resolve() / 'search.db'}"
        study = optuna.create_study(study_name="search", storage=storage, load_if_exists=True)
        seed = settings.sampler_seed + len(study.trials)  # a command that goes on does not draw the first trials again
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=settings.num_random, seed=seed)
        return run_trials(study, searched, fixed, settings.trials, folder)


def plan(words: list[str]) -> tuple[Any, dict[str, Any], list[str], Path]:
    """The search's settings, what is searched, the words that are fixed, the study's folder. Raises UserError if a run
    cannot be built."""
    settings = configured("search", [word for word in words if word.split("=")[0] in OWN])
    searched, fixed = {}, []
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            if override.is_sweep_override():
                searched[override.get_key_element()] = distribution(override)
            elif word.split("=")[0] not in OWN:
                fixed.append(word)
        except HydraException as error:
            raise UserError(unreadable(word, error)) from None
        except ValueError as error:  # Optuna's of an interval without numbers
            raise UserError(f"{word}: {error}") from None
    return settings, searched, fixed, check(searched, fixed)


def distribution(override: Override) -> Any:
    """What Hydra's grammar says of a setting's values, for Optuna."""
    from optuna import distributions

    values: Any = override.value()
    if isinstance(values, IntervalSweep):
        low, high, log = values.start, values.end, "log" in values.tags
        whole = isinstance(low, int) and isinstance(high, int)
        return (distributions.IntDistribution if whole else distributions.FloatDistribution)(low, high, log=log)  # pyright: ignore[reportArgumentType]
    if isinstance(values, RangeSweep):
        return distributions.CategoricalDistribution(list(values.range()))  # pyright: ignore[reportArgumentType]
    return distributions.CategoricalDistribution([str(one) for one in override.sweep_string_iterator()])


def check(searched: dict[str, Any], fixed: list[str]) -> Path:
    """Composes and builds a run at both ends of every interval, and with every choice; returns the study's folder."""
    if not searched:
        raise UserError("nothing to search: expected a setting with values, such as optimizer.lr='interval(1e-4,1e-2)'")
    ends = {key: getattr(each, "choices", None) or (each.low, each.high) for key, each in searched.items()}
    corners = [{key: values[min(place, len(values) - 1)] for key, values in ends.items()}
               for place in range(max(map(len, ends.values())))]  # fmt: skip
    jobs = list(itertools.chain(*(jobs_of([*fixed, *words_of(corner)], is_sweep=False) for corner in corners)))
    if faults := [fault for job in jobs if (fault := job.wrong or job.impossible)]:
        raise UserError("; ".join(dict.fromkeys(faults)))
    if any(job.settings["trainer"]["strategy"] == "ddp" for job in jobs):
        raise UserError("a search trains each run in one process: leave out trainer=ddp, or sweep with train -m")
    return jobs[0].path.parent


def words_of(params: dict[str, Any]) -> list[str]:
    """Three digits of a number: it is part of the name of the run's folder."""
    return [f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]


def run_trials(study: Any, searched: dict[str, Any], fixed: list[str], num_trials: int, folder: Path) -> int:
    """Those that a killed command left are taken up again: their runs continue."""
    from optuna.trial import TrialState

    for left in study.get_trials(states=[TrialState.RUNNING]):
        study.enqueue_trial(left.params)
        study.tell(left.number, state=TrialState.FAIL)
    num_failed = 0
    for number in range(len(study.get_trials(states=[TrialState.COMPLETE])), num_trials):
        trial = study.ask(searched)
        print(f"\ntrial {number + 1} of {num_trials}: {' '.join(words_of(trial.params))}", flush=True)
        code, value = run_trial([*fixed, *words_of(trial.params)])
        if code >= 128:
            return code
        num_failed += code
        study.tell(trial, None if code else value, state=TrialState.FAIL if code else TrialState.COMPLETE)
        note(study, folder)
    if study.get_trials(states=[TrialState.COMPLETE]):
        print(f"\nbest: {study.best_value:.1f} nats with {' '.join(words_of(study.best_params))}")
        print(f"the study's table and page: {as_typed('python src/report.py')} {shlex.quote(str(folder))}")
    return int(num_failed > 0)


def run_trial(words: list[str]) -> tuple[int, float]:
    """The exit code of a run, and val/negative_elbo; infinite where it diverged."""
    sys.argv[1:] = words
    trial = Trial()
    code = trial.launch(hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(trial.run_job))
    value = trial.outcomes[0].value if trial.outcomes else math.nan
    return code, math.inf if math.isnan(value) else value


def note(study: Any, folder: Path) -> None:
    """The finished trials, for the report, which reads no database."""
    trials = [{"number": one.number, "params": one.params, "value": one.value if math.isfinite(one.value) else None}
              for one in study.get_trials(deepcopy=False) if one.value is not None]  # fmt: skip
    write_json(folder / "search.json", {"trials": trials})
