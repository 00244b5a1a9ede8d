"""Which settings tell runs apart, and which they share. Settings are flat: dotted key or config group -> value."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
PRESETS = ("trainer", "experiment")  # their choices set values of other groups
ABSENT = "-"  # of a setting that a run does not have


def in_words(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def differing(runs: Sequence[Settings]) -> list[str]:
    """The keys in which the runs are not all alike, lacking a key being a difference, too."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({_exact(run.get(key, ABSENT)) for run in runs}) > 1]


def shared(runs: Sequence[Settings]) -> dict[str, Any]:
    """What all runs have alike."""
    apart = set(differing(runs))
    return {key: value for key, value in runs[0].items() if key not in apart} if runs else {}


def telling(runs: Sequence[Settings], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Of each run, the least that tells it from the others; `groups` are the keys that are choices of files.

    A choice is named where the runs differ in it; a value only where runs of the same choices differ in it, because
    otherwise it follows from the choice.
    """
    values = [{**dict.fromkeys(groups, "none"), **run} for run in runs]  # of a group not chosen from
    keys = dict.fromkeys(key for run in values for key in run)
    found: list[dict[str, Any]] = [{} for _ in runs]
    for key in keys:
        alike: dict[tuple[str, ...], set[str]] = {}
        for run in values:
            alike.setdefault(_governing(key, run), set()).add(_exact(run.get(key)))
        for run, told in zip(values, found, strict=True):
            if key in run and len(alike[_governing(key, run)]) > 1:
                told[key] = run[key]
    return found


def _governing(key: str, run: Settings) -> tuple[str, ...]:
    """The run's choices that the value of `key` may follow from."""
    group, _, setting = key.partition(".")
    names = () if key in PRESETS else [name for name in (group if setting else key, *PRESETS) if name != key]
    return tuple(_exact(run.get(name)) for name in names)


def _exact(value: object) -> str:
    """As the run's identity tells values apart: 1 is not 1.0."""
    return json.dumps(value, sort_keys=True, default=str)
