"""The runs of a study, from their folders. Needs neither torch nor lightning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.runs import RunFolder, identity


class Run(NamedTuple):
    """One run folder."""

    name: str
    status: str
    reason: str  # why it diverged or failed
    result: dict[str, Any]  # {} unless done


def read_runs(study: Path) -> list[Run]:
    """Every run of a study, whatever its status, by name; runs set aside by a rerun are left out."""
    folders = sorted(path.parent for path in study.glob("*/status.json") if ".previous" not in path.parent.name)
    return [_read(RunFolder(folder)) for folder in folders]


def _read(folder: RunFolder) -> Run:
    facts, result = folder.facts, folder.result
    status = facts.get("status", "new")
    if status == "done" and not result:
        status, facts = "failed", {"reason": "its result.json is missing or damaged: rerun=true makes it anew"}
    finished = result if status == "done" else {}
    return Run(folder.path.name, status, facts.get("reason", ""), finished)


class Variant(NamedTuple):
    """Finished runs that differ in their seed alone."""

    label: str
    runs: list[Run]  # in the order of their seeds

    def scores(self, metric: str) -> dict[int, float]:
        """Seed -> the metric, of the runs that have it."""
        results = [run.result for run in self.runs]
        return {result["seed"]: result["metrics"][metric] for result in results if metric in result["metrics"]}


def variants(runs: Sequence[Run]) -> list[Variant]:
    """Finished runs by configuration, whatever their seed, each under a label that tells it from the others."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {**identity(run.result["config"]), **run.result["choices"], "seed": None}
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(run)
    first = [group[0] for group in groups.values()]
    named = labels(first) if len(first) > 1 else [run.name.rpartition("-seed")[0] or run.name for run in first]
    return [
        Variant(label, sorted(group, key=lambda run: run.result["seed"]))
        for label, group in zip(named, groups.values(), strict=True)
    ]


PRESETS = ("trainer", "experiment")  # their choices set values of other groups


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each finished run from the others but its seed, for instance `variance=logvar pca.whiten=true`.

    A choice is named where the runs differ in it; a value only where runs of the same choices differ in it, because
    otherwise it follows from the choice.
    """
    choices = [run.result["choices"] for run in runs]
    groups = dict.fromkeys((group for choice in choices for group in choice), "none")  # of a group not chosen from
    values = [{**groups, **choice, **_values(run)} for choice, run in zip(choices, runs, strict=True)]
    keys = dict.fromkeys(key for run in values for key in run)
    telling = [[key for key in keys if key in run and _tells(key, run, values)] for run in values]
    return [" ".join(f"{key}={_text(run[key])}" for key in shown) for run, shown in zip(values, telling, strict=True)]


def _values(run: Run) -> dict[str, Any]:
    """By dotted key, every value that decides the result."""
    settings = identity(run.result["config"]).items()
    return {key: value for key, value in settings if "_target_" not in key and key != "seed"}


def _tells(key: str, run: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether a run differs in `key` from another one that made the choices which the value may follow from."""
    group, _, setting = key.partition(".")
    governing = () if key in PRESETS else {group if setting else None, *PRESETS} - {key, None}
    alike = [other for other in others if all(run.get(name) == other.get(name) for name in governing)]
    return any(other.get(key) != run[key] for other in alike)


def _text(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
