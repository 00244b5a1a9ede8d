"""How much better some runs do than others, and how surely: by seed in a score, by run in the share that diverged.

An advantage is positive where the favoured runs are better. `sign` is 1 where higher is better, -1 where lower is.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from svhn_vae.report.matching import DIVERGED, Point, by_place, cell, factors
from svhn_vae.report.proportions import difference, share
from svhn_vae.report.statistics import Estimate, estimate

ROUNDING = 1e-12  # of the largest score: what is less is no difference


class Trial(NamedTuple):
    """What is to be compared: runs whether they have ended or not."""

    metric: str
    sign: int
    margin: float
    sides: list[tuple[str, list[Point]]]  # name and runs: the favoured ones, and the others if there are to be any
    names: set[str]  # the settings that make the sides

    @property
    def on_both_sides(self) -> set[str]:
        """Runs that would be compared with themselves."""
        names = [{point.run.name for point in side} for _, side in self.sides]
        return names[0] & names[1] if len(names) > 1 else set()


class Advantage(NamedTuple):
    """What is known, and the runs that it is known from."""

    effect: Estimate | None  # None: no run compares; its interval is NaN of one seed
    num_seeds: int
    sides: list[list[Point]]  # the runs compared
    keys: list[str]  # the settings on which the sides were matched, or in which the only side varies


def advantage(trial: Trial) -> Advantage:
    sides = [side for _, side in trial.sides]
    if trial.on_both_sides:
        return Advantage(None, 0, [[] for _ in sides], [])
    if len(sides) == 1:
        return (in_share if trial.metric == DIVERGED else in_value)(*sides, trial.sign)
    return (in_shares if trial.metric == DIVERGED else in_scores)(*sides, trial.names, trial.sign)


def in_scores(favoured: Sequence[Point], other: Sequence[Point], names: Collection[str], sign: int) -> Advantage:
    """Runs of the same seed and the same other settings are compared, the mean difference of each seed is one value.

    A seed's runs share noise and images, so they are no independent values, however many settings there are.
    """
    keys = factors(favoured, other, names)
    mine, theirs = ({place: _mean(group) for place, group in _places(side, keys).items()} for side in (favoured, other))
    shared = [place for place in mine if place in theirs]
    scale = max(map(abs, (*mine.values(), *theirs.values())), default=0.0)
    effect = _over_seeds([(place[0], sign * (mine[place] - theirs[place])) for place in shared], scale)
    kept = [[p for p in _scored(side) if _place(p, keys) in shared] for side in (favoured, other)]
    return Advantage(effect, effect.num if effect else 0, kept, keys)


def in_value(favoured: Sequence[Point], sign: int) -> Advantage:
    """The score itself, against nothing: the mean over settings of each seed is one value."""
    keys = factors(favoured, favoured, ())
    values = [(place[0], sign * _mean(group)) for place, group in _places(favoured, keys).items()]
    effect = _over_seeds(values, max((abs(value) for _, value in values), default=0.0))
    return Advantage(effect, effect.num if effect else 0, [_scored(favoured)], keys)


def in_shares(favoured: Sequence[Point], other: Sequence[Point], names: Collection[str], sign: int) -> Advantage:
    """Shares of runs for which the metric is 1, pooled over the settings that both sides have been run at."""
    keys = factors(favoured, other, names)
    cells = [{cell(point, keys) for point in _scored(side)} for side in (favoured, other)]
    kept = [[p for p in _scored(side) if cell(p, keys) in cells[0] & cells[1]] for side in (favoured, other)]
    effect = difference(*map(_share, kept)) if all(kept) else None
    num_seeds = min(len({point.run.seed for point in side}) for side in kept)
    return Advantage(_signed(effect, sign) if effect else None, num_seeds, kept, keys)


def in_share(favoured: Sequence[Point], sign: int) -> Advantage:
    """One share, against none."""
    kept = _scored(favoured)
    effect = _signed(_share(kept), sign) if kept else None
    return Advantage(effect, len({point.run.seed for point in kept}), [kept], factors(kept, kept, ()))


def _scored(side: Sequence[Point]) -> list[Point]:
    return [point for point in side if point.value is not None]


def _place(point: Point, keys: Sequence[str]) -> tuple[int | str | None, ...]:
    return (point.run.seed, *cell(point, keys))


def _places(side: Sequence[Point], keys: Sequence[str]) -> Mapping[tuple, list[Point]]:
    return by_place(_scored(side), lambda point: _place(point, keys))


def _mean(group: Sequence[Point]) -> float:
    return statistics.fmean(point.value for point in group)


def _share(side: Sequence[Point]) -> Estimate:
    return share(int(sum(point.value for point in side)), len(side))


def _signed(effect: Estimate, sign: int) -> Estimate:
    mean, low, high, *rest = effect
    return effect if sign > 0 else Estimate(-mean, -high, -low, *rest)


def _over_seeds(values: Sequence[tuple[int, float]], scale: float) -> Estimate | None:
    """Student's t over the means of the seeds, from (seed, value) of every setting.

    Where all seeds agree, t would be infinite and its p value 0, of two seeds as of twenty. The value is then taken as
    it is, without a p value: it does not depend on the seed, or is too coarse to.
    """
    by_seed: dict[int, list[float]] = {}
    for seed, value in values:
        by_seed.setdefault(seed, []).append(value)
    means = [statistics.fmean(group) for group in by_seed.values()]
    if len(means) > 1 and max(means) - min(means) <= ROUNDING * scale:
        mean = means[0] if abs(means[0]) > ROUNDING * scale else 0.0
        return Estimate(mean, mean, mean, math.nan, len(means))
    return estimate(means) if means else None
