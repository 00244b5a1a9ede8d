"""Which runs of a study compare with which: those of the same seed that are alike in all but what makes the sides.

The design of a study is found in the settings of its runs.
"""

import math
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from svhn_vae.report.collect import TRAIN_IMAGES, Run, text_of

DIVERGED = "diverged"  # as a metric: 1 or 0 of every run that ended diverged or done
PARTS = {"baseline": "baselines", "cost": "cost", "details": "details"}  # prefix of a metric -> part of result.json
TEST_IMAGES = "data.test_digest"  # a setting like others, that no configuration holds


class Point(NamedTuple):
    run: Run
    settings: dict[str, str]  # its choices and, dotted, all else that decides its result but the seed, as texts
    value: Any  # float, of the metric, or None
    missing: str  # why there is no value

    @property
    def variant(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.settings.items())

    def at(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """What these settings are; None where there is none."""
        return tuple(self.settings.get(name) for name in names)


def points(runs: Sequence[Run], metric: str, minus: str | None) -> list[Point]:
    """Every run whose configuration is known, which older runs that did not finish have not kept.

    A variant of which a seed diverged has no score: the seeds that survived are a choice by their result.
    """
    found = [Point(run, _with_images(run), *_value(run, metric, minus)) for run in runs if run.config]
    cut = {one.variant for one in found if one.run.status == DIVERGED} if metric != DIVERGED else set()
    survived = {"value": None, "missing": "of a variant of which a seed diverged"}
    return [one._replace(**survived) if one.value is not None and one.variant in cut else one for one in found]


def _with_images(run: Run) -> dict[str, str]:
    images = {TEST_IMAGES: run.test_images, TRAIN_IMAGES: run.train_images}
    return run.texts | {name: digest for name, digest in images.items() if digest}


def _value(run: Run, metric: str, minus: str | None) -> tuple[float | None, str]:
    """The number, and why there is none."""
    if metric == DIVERGED:
        value = {DIVERGED: 1.0, "done": 0.0}.get(run.status)
        return value, run.status if value is None else ""
    values = {name: _measured(run, name) for name in (metric, minus) if name}
    absent = [name for name, value in values.items() if not math.isfinite(value)]
    if absent:
        return None, f"without {' and '.join(absent)}" if run.result else run.status
    return values[metric] - (values[minus] if minus else 0.0), ""


def _measured(run: Run, metric: str) -> float:
    prefix, _, name = metric.partition("/")
    return run.number(*((PARTS[prefix], name) if prefix in PARTS else ("metrics", metric)))


def fits(point: Point, conditions: Mapping[str, Any]) -> bool:
    """Whether a run has the settings, of which each is a value or a list of values."""
    return all(
        point.settings.get(name) in (text_of(name, wanted), *_texts(name, wanted))
        for name, wanted in conditions.items()
    )


def side_name(conditions: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={'|'.join(_texts(name, wanted))}" for name, wanted in conditions.items()) or "all runs"


def _texts(name: str, wanted: Any) -> list[str]:
    return [text_of(name, value) for value in (wanted if isinstance(wanted, list) else [wanted])]


# --- what compares with what ----------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """The runs on the sides of a hypothesis, one side or two, and what of them compares."""

    sides: list[list[Point]]
    keys: list[str]  # what else was varied on both sides: a run compares with those of the same keys and seed
    kept: list[list[Point]]  # of each side, the runs that have a counterpart
    by_seed: list[float]  # the mean difference of each seed; of one side, its mean
    also: list[str]  # in what else the sides differ
    num_both: int  # runs on both sides, with which nothing compares


def compared(tried: Sequence[Point], favours: Mapping[str, Any], over: Mapping[str, Any] | None) -> Compared:
    sides = [[one for one in tried if fits(one, side)] for side in (favours, over) if side is not None]
    names = claimed(favours, over) if over is not None else set()
    keys = factors(sides[0], sides[-1], names)
    num_both = len({one.run.name for one in sides[0]} & {one.run.name for one in sides[1]}) if over is not None else 0
    kept, by_seed = matched([[] for _ in sides] if num_both else sides, keys)
    return Compared(sides, keys, kept, by_seed, differing(kept[0], kept[-1], keys, names), num_both)


def claimed(favours: Mapping[str, Any], over: Mapping[str, Any]) -> set[str]:
    """The settings in which the sides differ because the hypothesis says so."""
    every = favours.keys() | over.keys()
    found = {name for name in every if name not in favours or name not in over or favours[name] != over[name]}
    return found | ({TEST_IMAGES, TRAIN_IMAGES} if any(name.startswith("data.") for name in found) else set())


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
        if any(len(by_place(side, [*found, name])) > len(by_place(side, found)) for side in (a, b)):
            found.append(name)
    return found


def differing(a: Sequence[Point], b: Sequence[Point], keys: Sequence[str], names: Collection[str]) -> list[str]:
    """In what runs that were matched on `keys` differ besides `names`: it follows from the sides, or confounds them.

    A setting of a group is not named where the group's choice is.
    """
    mine, theirs = by_place(a, keys), by_place(b, keys)
    pairs = [(mine[place], theirs[place]) for place in mine.keys() & theirs.keys()]
    every = [name for name in _others(a, b, names) if name not in keys]
    found = [name for name in every if any(_values(one, name) != _values(two, name) for one, two in pairs)]
    return sorted(name for name in found if name.partition(".")[0] not in {*found} - {name})


def _others(a: Sequence[Point], b: Sequence[Point], names: Collection[str]) -> list[str]:
    every = dict.fromkeys(name for point in (*a, *b) for name in point.settings)
    return [name for name in every if name not in names and name.partition(".")[0] not in names]


def _values(side: Sequence[Point], name: str) -> set[str]:
    return {point.settings[name] for point in side if name in point.settings}


def grouped(side: Iterable[Point], place: Callable[[Point], Hashable]) -> dict[Any, list[Point]]:
    groups: dict[Any, list[Point]] = {}
    for point in side:
        groups.setdefault(place(point), []).append(point)
    return groups


def by_place(side: Iterable[Point], names: Sequence[str]) -> dict[tuple, list[Point]]:
    return grouped(side, lambda point: point.at(names))


def matched(sides: Sequence[Sequence[Point]], keys: Sequence[str]) -> tuple[list[list[Point]], list[float]]:
    """The runs that have a counterpart of the same seed and `keys`, and of each seed the mean difference."""
    having = [[one for one in side if one.value is not None] for side in sides]
    groups = [grouped(side, lambda one: (one.run.seed, *one.at(keys))) for side in having]
    places = [place for place in groups[0] if place in groups[-1]]
    by_seed: dict[int, list[float]] = {}
    for place in places:
        first, *second = (statistics.fmean(one.value for one in group[place]) for group in groups)
        by_seed.setdefault(place[0], []).append(first - sum(second))
    kept = [[one for place in places for one in group[place]] for group in groups]
    return kept, [statistics.fmean(of) for of in by_seed.values()]
