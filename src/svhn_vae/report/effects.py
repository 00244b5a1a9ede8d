"""What the swept factors do: the means of their levels.

Only like is averaged with like: a factor's levels are compared over settings of the other factors (contexts) in which
every level has a score with every seed. What has not is left out, and counted.
"""

import statistics
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


class MainEffect(NamedTuple):
    name: str
    ranking: Ranking  # of its levels
    missing: list[str]  # levels that no context compares with another one
    contexts: list[Cell]  # what the other factors were set to
    seeds: list[int]
    other_seeds: list[int]  # that not all cells have
    left_out: int  # contexts with several levels but not with all


class Effects(NamedTuple):
    factors: list[str]
    main: list[MainEffect]
    num_empty: int  # variants without a score
    is_ambiguous: bool  # two variants at one place of the design

    @property
    def silent(self) -> list[str]:
        """Factors of which no context has all levels."""
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
    """Of the factors of which some context has all levels that meet another one anywhere."""
    given = {cell: of for cell, of in scores.items() if of}
    seeds = sorted(set.intersection(*(set(of) for of in given.values()))) if given else []
    others = sorted({seed for of in given.values() for seed in of} - {*seeds})
    effects = []
    for axis, factor in enumerate(found):
        met: dict[Cell, dict[str, Mapping[int, float]]] = {}  # context -> level -> scores
        for cell, of in given.items():
            met.setdefault((*cell[:axis], *cell[axis + 1 :]), {})[cell[axis]] = of
        several = {context: levels for context, levels in met.items() if len(levels) > 1}
        every = {level for levels in several.values() for level in levels}
        complete = [context for context, levels in several.items() if levels.keys() == every]
        if complete and seeds:
            means = {level: {seed: statistics.fmean(several[context][level][seed] for context in complete)
                             for seed in seeds} for level in sorted(every)}  # fmt: skip
            missing = [f"{factor.name}={level}" for level in dict.fromkeys(factor.levels) if level not in every]
            left_out = len(several) - len(complete)
            ranking = ranking_of(METRIC, means)
            effects.append(MainEffect(factor.name, ranking, missing, complete, seeds, others, left_out))
    return effects
