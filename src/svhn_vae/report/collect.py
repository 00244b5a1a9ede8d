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


PRESETS = ("trainer", "experiment")  # their choices set values of other groups


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each finished run from the others, for instance `variance=logvar pca.whiten=true`.

    A choice is named where the runs differ in it; a value only where runs of the same choices differ in it, because
    otherwise it follows from the choice.
    """
    if len(runs) == 1:
        return [runs[0].name]
    choices = [run.result["choices"] for run in runs]
    values = [{**choice, **_values(run)} for choice, run in zip(choices, runs, strict=True)]
    keys = dict.fromkeys(key for run in values for key in run)
    telling = [[key for key in keys if key in run and _tells(key, run, values)] for run in values]
    return [" ".join(f"{key}={_text(run[key])}" for key in shown) for run, shown in zip(values, telling, strict=True)]


def _values(run: Run) -> dict[str, Any]:
    """By dotted key, every value that decides the result."""
    return {key: value for key, value in identity(run.result["config"]).items() if "_target_" not in key}


def _tells(key: str, run: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether a run differs in `key` from another one that made the choices which the value may follow from."""
    group, _, setting = key.partition(".")
    follows_from_nothing = key == "seed" or key in PRESETS
    governing = () if follows_from_nothing else {group if setting else None, *PRESETS} - {key, None}
    alike = [other for other in others if all(run.get(name) == other.get(name) for name in governing)]
    return any(other.get(key) != run[key] for other in alike)


def _text(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
