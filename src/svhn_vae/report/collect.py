"""The runs of a study, from their folders. Needs neither torch nor lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.runs import RunFolder, identity


class Run(NamedTuple):
    """One run folder."""

    name: str
    status: str
    reason: str  # why it diverged or failed
    ended: float  # seconds since 1970, 0 while it runs
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
    return Run(folder.path.name, status, facts.get("reason", ""), facts.get("ended", 0), finished)


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each finished run from the others, for instance `variance=logvar pca.whiten=true`."""
    if len(runs) == 1:
        return [runs[0].name]
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for setting in settings for key in setting)
    differing = [key for key in keys if len({repr(setting.get(key)) for setting in settings}) > 1]
    # Where a group's choices differ, their other settings follow from it.
    shown = [key for key in differing if "." not in key or key.split(".")[0] not in differing]
    return [" ".join(f"{key}={_text(setting[key])}" for key in shown if key in setting) for setting in settings]


def _settings(run: Run) -> dict[str, Any]:
    """Choices by group, then every value that decides the result."""
    values = identity(run.result["config"])
    return {**run.result["choices"], **{key: value for key, value in values.items() if "_target_" not in key}}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
