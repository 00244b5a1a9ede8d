"""What it takes to make a study's runs again, and what in it makes them unlike."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svhn_vae.report.collect import Run
from svhn_vae.report.settings import differing, shared

WORD = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_/.][\w/.+@-]*|\d+-\w+", re.IGNORECASE)  # and 32-true


class Recipe(NamedTuple):
    """How to make one run again."""

    run: Run
    overrides: str  # beside those that all runs share; empty where its configuration is not known
    commit: str
    environment: int  # its place among Environments


class Environment(NamedTuple):
    """Versions and device of some runs."""

    versions: Mapping[str, str]
    device: str
    num_runs: int


class Recipes(NamedTuple):
    shared: str  # overrides of every run
    rows: list[Recipe]
    environments: list[Environment]


def recipes(runs: Sequence[Run]) -> Recipes:
    """Every setting is written out: which are the defaults, a report cannot know, and they may change."""
    settings = [run.settings for run in runs]
    known = [one for one in settings if one]
    apart = set(differing(known))
    environments = [_environment(run) for run in runs]
    different = list(dict.fromkeys(environments))
    rows = [
        Recipe(run, _own(run, one, apart), run.commit, different.index(environment))
        for run, one, environment in zip(runs, settings, environments, strict=True)
    ]
    numbered = [Environment(json.loads(one[0]), one[1], environments.count(one)) for one in different]
    return Recipes(overrides(shared(known)), rows, numbered)


def _environment(run: Run) -> tuple[str, str]:
    return json.dumps(run.result.get("versions", {})), run.cost.get("device") or ""


def _own(run: Run, settings: Mapping[str, Any], apart: set[str]) -> str:
    own = {key: value for key, value in settings.items() if key in apart}
    return overrides({**own, "seed": run.seed}) if settings else ""


def overrides(settings: Mapping[str, Any]) -> str:
    """As train.py takes them, quoted for a shell; what begins with an underscore is Hydra's own."""
    typed = {key: value for key, value in settings.items() if not key.rpartition(".")[2].startswith("_")}
    return " ".join(shlex.quote(f"{key}={_typed(value)}") for key, value in typed.items())


def _typed(value: Any) -> str:
    """In Hydra's grammar, where a word needs no quotes."""
    if isinstance(value, str):
        return value if WORD.fullmatch(value) else "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return json.dumps(value)


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes runs of one study unlike each other beyond their settings, or hard to make again."""
    found = []
    commits = sorted({run.commit for run in runs if run.commit})
    if len({commit.rstrip("+") for commit in commits}) > 1:
        found.append(f"The runs were made by different commits, {', '.join(commits)}: they may differ in the code.")
    changed = [run for run in runs if run.commit.endswith("+")]
    if changed:
        found.append(f"{len(changed)} of {len(runs)} runs were made by files that were changed since their commit (+).")
    found += [f"{run.name}: {run.reason}." for run in runs if run.result and run.reason]
    digests = sorted({run.digest for run in runs if run.digest})
    if len(digests) > 1:
        found.append(f"The runs saw different images, {', '.join(digests)}: each data set has tables of its own.")
    for name, versions in _versions(runs).items():
        if len(versions) > 1:
            found.append(f"The runs were made with different versions of {name}: {', '.join(sorted(versions))}.")
    devices = sorted({run.cost["device"] for run in runs if run.cost.get("device")})
    if len(devices) > 1:
        found.append(f"The runs were trained on different devices, {'; '.join(devices)}: their times do not compare.")
    return found


def _versions(runs: Sequence[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.result.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return found
