"""What the swept factors do: the means of their levels.

Only like is averaged with like. A factor's levels are compared over settings of the other factors (contexts) in which
every level has a score with every seed; what has not is left out of the means and named.

Shapes: S seeds, C contexts, I levels of a factor.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from svhn_vae.report.collect import METRIC, Variant, telling
from svhn_vae.report.ranking import Ranking, ranking_of

Cell = tuple[str, ...]  # a level of each factor
Scores = Mapping[Cell, Mapping[int, float]]  # cell -> seed -> score


class Factor(NamedTuple):
    """One thing that was varied; settings that always change together are one factor."""

    name: str
    levels: list[str]  # of each variant, in the variants' order


class Part(NamedTuple):
    """A complete part of the design."""

    levels: list[str]
    contexts: list[Cell]  # what the other factors were set to
    seeds: list[int]
    other_seeds: list[int]  # that not all of its cells have
    left_out: int  # contexts with several levels that are not complete


class MainEffect(NamedTuple):
    name: str
    ranking: Ranking  # of its levels
    missing: list[str]  # levels without a place in the part
    part: Part


class Effects(NamedTuple):
    factors: list[str]
    main: list[MainEffect]
    num_empty: int  # variants without a score
    is_ambiguous: bool  # two variants at one place of the design

    @property
    def silent(self) -> list[str]:
        """Factors of which no two levels were tried with all else alike."""
        return [name for name in self.factors if name not in {effect.name for effect in self.main}]


def effects_of(found: Sequence[Variant]) -> Effects:
    """Of bits/dim. A variant of which a seed diverged has no score: what survived is a choice by its result."""
    known = [variant for variant in found if variant.settings]
    groups = list(dict.fromkeys(group for variant in known for group in variant.choices))
    varied = factors([variant.settings for variant in known], groups)
    given = [{} if variant.num_diverged else variant.scores() for variant in known]
    scores = cells(varied, given)
    is_ambiguous = bool(varied) and not scores
    return Effects([one.name for one in varied], main_effects(varied, scores), given.count({}), is_ambiguous)


def factors(variants: Sequence[Mapping[str, str]], groups: Sequence[str]) -> list[Factor]:
    """What was varied between variants, from their settings; `groups` as in collect.telling."""
    keys = dict.fromkeys(key for run in telling(variants, groups) for key in run)
    values = [{**dict.fromkeys(keys, "-"), **dict.fromkeys(groups, "none"), **settings} for settings in variants]
    together: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        levels = [of[key] for of in values]
        together.setdefault(tuple(map(levels.index, levels)), []).append(key)
    return [Factor(", ".join(names), [", ".join(of[key] for key in names) for of in values])
            for names in together.values()]  # fmt: skip


def cells(found: Sequence[Factor], scores: Sequence[Mapping[int, float]]) -> Scores:
    """Of each variant its place in the design and its scores; {} if nothing was varied or two share a place."""
    places = list(zip(*(factor.levels for factor in found), strict=True))
    return dict(zip(places, scores, strict=True)) if found and len(set(places)) == len(places) else {}


def main_effects(found: Sequence[Factor], scores: Scores) -> list[MainEffect]:
    """Of the factors of which some levels were tried in the same contexts."""
    effects = []
    for axis, factor in enumerate(found):
        if part := balanced(scores, axis):
            ranking = ranking_of(METRIC, {level: _by_seed(scores, axis, level, part) for level in part.levels})
            missing = [f"{factor.name}={name}" for name in dict.fromkeys(factor.levels) if name not in part.levels]
            effects.append(MainEffect(factor.name, ranking, missing, part))
    return effects


def _by_seed(scores: Scores, axis: int, level: str, part: Part) -> dict[int, float]:
    """The mean over contexts."""
    places = [(*context[:axis], level, *context[axis:]) for context in part.contexts]
    return {seed: statistics.fmean(scores[place][seed] for place in places) for seed in part.seeds}


def balanced(scores: Scores, axis: int) -> Part | None:
    """The part of the design with the most runs in which each level of the factor `axis` has a score in every context
    with every seed that all cells have. None where there are not two levels."""
    given = {cell: seeds for cell, seeds in scores.items() if seeds}
    seeds = set.intersection(*(set(one) for one in given.values())) if given else set()
    others = {seed for one in given.values() for seed in one} - seeds
    met: dict[Cell, set[str]] = {}  # context -> the levels that it has
    for cell in given if seeds else ():
        met.setdefault((*cell[:axis], *cell[axis + 1 :]), set()).add(cell[axis])
    parts = []
    while met := {context: levels for context, levels in met.items() if len(levels) > 1}:
        times = Counter(level for levels in met.values() for level in levels)
        complete = [context for context, levels in met.items() if levels == times.keys()]
        parts.append(Part(sorted(times), complete, sorted(seeds), sorted(others), len(met) - len(complete)))
        rarest = min(times, key=lambda level: (times[level], level))
        met = {context: levels - {rarest} for context, levels in met.items()}
    best = max(parts, key=lambda part: (len(part.levels) * len(part.contexts), len(part.levels)), default=None)
    return best if best and best.contexts else None
