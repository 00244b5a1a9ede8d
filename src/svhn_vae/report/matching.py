"""Which runs compare with which: the design of a study, found in the settings of its runs."""

import json
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from svhn_vae.report.collect import Run
from svhn_vae.runs.identity import identity

DIVERGED = "diverged"  # as a metric: 1 or 0 of every run that ended diverged or done
SOURCES = {"baseline": "baselines", "cost": "cost", "details": "details"}  # prefix of a metric -> part of result.json
DIGEST = "data.digest"  # of the images: a setting like others, that no configuration holds


class Point(NamedTuple):
    """A run and what it measured."""

    run: Run
    settings: dict[str, str]  # its choices and, dotted, all else that decides its result but the seed, as texts
    value: float | None  # of the metric
    missing: str  # why there is no value


def points(runs: Sequence[Run], metric: str, minus: str | None) -> list[Point]:
    """Every run whose configuration is known, which older runs that did not finish have not kept."""
    return [Point(run, settings(run), *_value(run, metric, minus)) for run in runs if run.config]


def _value(run: Run, metric: str, minus: str | None) -> tuple[float | None, str]:
    """The number, and why there is none."""
    if metric != DIVERGED and not run.result:
        return None, run.status
    values = {name: measured(run, name) for name in (metric, minus) if name}
    absent = [name for name, value in values.items() if value is None]
    if absent:
        return None, run.status if metric == DIVERGED else f"without {' and '.join(absent)}"
    if not all(map(math.isfinite, values.values())):
        return None, "not finite"
    return values[metric] - (values[minus] if minus else 0.0), ""


def measured(run: Run, metric: str) -> float | None:
    """A number of a run by the metric's name; None where it has none."""
    if metric == DIVERGED:
        return {"diverged": 1.0, "done": 0.0}.get(run.status)
    prefix, _, name = metric.partition("/")
    part, name = (SOURCES[prefix], name) if prefix in SOURCES else ("metrics", metric)
    value = run.result.get(part, {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def settings(run: Run) -> dict[str, str]:
    """What decides a run's result but its seed, by dotted name or group, as texts that are equal where values are."""
    decisive = identity(run.settings) | ({DIGEST: run.digest} if run.digest else {})
    return {name: text(value) for name, value in decisive.items()}


def text(value: object) -> str:
    """As in YAML; 1.0 is 1, because a setting may be written both ways."""
    if isinstance(value, str):
        return value
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, default=str)


def fits(point: Point, conditions: Mapping[str, Any]) -> bool:
    """Whether a run has the settings, of which each is a value or a list of values."""
    return all(point.settings.get(name) in _texts(wanted) for name, wanted in conditions.items())


def _texts(wanted: Any) -> list[str]:
    return [text(wanted), *(text(value) for value in wanted)] if isinstance(wanted, list) else [text(wanted)]


def in_words(conditions: Mapping[str, Any]) -> str:
    texts = {name: _texts(wanted)[1:] or _texts(wanted) for name, wanted in conditions.items()}
    return " ".join(f"{name}={'|'.join(values)}" for name, values in texts.items()) or "all runs"


# --- the design -----------------------------------------------------------------------------------------------------


def claimed(favours: Mapping[str, Any], over: Mapping[str, Any]) -> set[str]:
    """The settings in which the sides differ because the hypothesis says so."""
    every = favours.keys() | over.keys()
    found = {name for name in every if name not in favours or name not in over or favours[name] != over[name]}
    return found | ({DIGEST} if any(name.startswith("data.") for name in found) else set())


def factors(a: Sequence[Point], b: Sequence[Point], names: Collection[str]) -> list[str]:
    """The fewest settings that tell apart what else was varied on both sides, besides `names`, which make the sides.

    One of which the sides share no value is left out: it follows from the sides, as pca=none from model=conv. So is one
    that the others decide on either side: it follows from them, as a width from a scale. And one of a group whose
    choice makes the sides: it is not the same thing on the other side.
    """
    values = {name: (_values(a, name), _values(b, name)) for name in _others(a, b, names)}
    shared = [name for name, (of_a, of_b) in values.items() if of_a & of_b and len(of_a | of_b) > 1]
    found: list[str] = []
    # Fully crossed ones first. Else in the order of the settings: choices before what they bring.
    for name in sorted(shared, key=lambda name: values[name][0] != values[name][1]):
        if any(_tells(side, found, name) for side in (a, b)):
            found.append(name)
    return found


def _others(a: Sequence[Point], b: Sequence[Point], names: Collection[str]) -> list[str]:
    every = dict.fromkeys(name for point in (*a, *b) for name in point.settings)
    return [name for name in every if name not in names and name.partition(".")[0] not in names]


def _values(side: Sequence[Point], name: str) -> set[str]:
    """Without that of runs which have no such setting."""
    return {point.settings[name] for point in side if name in point.settings}


def _tells(side: Sequence[Point], names: Sequence[str], name: str) -> bool:
    """Whether runs that `names` do not tell apart differ in `name`."""
    return len({cell(point, [*names, name]) for point in side}) > len({cell(point, names) for point in side})


def cell(point: Point, names: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(point.settings.get(name) for name in names)


def label(point: Point, names: Sequence[str]) -> str:
    return " ".join(f"{name}={point.settings.get(name, 'none')}" for name in names)


def by_place(side: Sequence[Point], place: Callable[[Point], Hashable]) -> dict[Any, list[Point]]:
    groups: dict[Any, list[Point]] = {}
    for point in side:
        groups.setdefault(place(point), []).append(point)
    return groups


def differing(a: Sequence[Point], b: Sequence[Point], keys: Sequence[str], names: Collection[str]) -> list[str]:
    """In what runs that were matched on `keys` differ besides `names`: it follows from the sides, or confounds them.

    A setting of a group is not named where the group's choice is.
    """
    mine, theirs = (by_place(side, lambda point: cell(point, keys)) for side in (a, b))
    pairs = [(mine[place], theirs[place]) for place in mine.keys() & theirs.keys()]
    every = [name for name in _others(a, b, names) if name not in keys]
    found = [name for name in every if any(_values(one, name) != _values(two, name) for one, two in pairs)]
    return sorted(name for name in found if name.partition(".")[0] not in {*found} - {name})
