"""What the swept factors do: the means of their levels, and how two factors act together.

Only like is averaged with like. A factor's levels are compared over settings of the other factors (contexts) in which
every level has a score with every seed; what has not is left out of the means and named.

Shapes: S seeds, C contexts, I levels of a factor, J of another.
"""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from svhn_vae.report.settings import ABSENT, Settings, in_words, telling
from svhn_vae.report.statistics import Estimate, estimate, holm

Cell = tuple[str, ...]  # a level of each factor
Scores = Mapping[Cell, Mapping[int, float]]  # cell -> seed -> score
MAX_TABLES = 15  # of pairs of factors


class Factor(NamedTuple):
    """One thing that was varied; settings that always change together are one factor."""

    name: str
    levels: list[str]  # of each variant, in the variants' order


class Block(NamedTuple):
    """A complete part of the design."""

    levels: list[list[str]]  # of each factor that is looked at
    contexts: list[Cell]  # what the other factors were set to
    seeds: list[int]
    other_seeds: list[int]  # that not all of its cells have
    values: np.ndarray  # (S, C, I) or (S, C, I, J)
    left_out: int  # contexts with several levels that are not complete


class Level(NamedTuple):
    name: str
    mean: Estimate
    gap: Estimate | None  # to the best level, paired by seed; None of the best itself


class MainEffect(NamedTuple):
    name: str
    levels: list[Level]  # the best first
    missing: list[str]  # levels without a place in the block
    block: Block


class Interaction(NamedTuple):
    """How far the cells are from what the two main effects add up to."""

    names: tuple[str, str]
    missing: list[str]  # levels without a place in the block
    block: Block
    means: list[list[Estimate]]  # (I, J)
    excess: list[list[Estimate]]  # (I, J): cell - row - column + all
    p_values: list[list[float]]  # (I, J): of the excess, corrected for the number of cells
    contrast: Estimate | None  # of two by two levels: what the one factor does at the one level less what at the other


def factors(variants: Sequence[Settings], groups: Sequence[str]) -> list[Factor]:
    """What was varied between variants, from their settings; `groups` as in settings.telling."""
    told = telling(variants, groups)
    keys = dict.fromkeys(key for run in told for key in run)
    values = [{**dict.fromkeys(groups, "none"), **settings} for settings in variants]
    together: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        levels = [in_words(settings.get(key, ABSENT)) for settings in values]
        together.setdefault(tuple(levels.index(level) for level in levels), []).append(key)
    return [_factor(names, values) for names in together.values()]


def _factor(keys: list[str], values: Sequence[Settings]) -> Factor:
    levels = [", ".join(in_words(settings.get(key, ABSENT)) for key in keys) for settings in values]
    return Factor(", ".join(keys), levels)


def cells(found: Sequence[Factor], scores: Sequence[Mapping[int, float]]) -> Scores:
    """Of each variant its place in the design and its finite scores; {} if nothing was varied or two share a place."""
    places = list(zip(*(factor.levels for factor in found), strict=True))
    if not found or len(set(places)) < len(places):
        return {}
    finite = [{seed: score for seed, score in given.items() if math.isfinite(score)} for given in scores]
    return dict(zip(places, finite, strict=True))


def main_effects(found: Sequence[Factor], scores: Scores) -> list[MainEffect]:
    """Of the factors of which some levels were tried in the same contexts."""
    blocks = [balanced(scores, [axis]) for axis in range(len(found))]
    return [_main_effect(factor, block) for factor, block in zip(found, blocks, strict=True) if block]


def _main_effect(factor: Factor, block: Block) -> MainEffect:
    of_seeds = dict(zip(block.levels[0], block.values.mean(1).T, strict=True))  # level -> (S,)
    best = min(of_seeds, key=lambda name: of_seeds[name].mean())
    levels = [
        Level(name, estimate(values), None if name == best else estimate(values - of_seeds[best]))
        for name, values in sorted(of_seeds.items(), key=lambda item: item[1].mean())
    ]
    return MainEffect(factor.name, levels, _missing(factor, block.levels[0]), block)


def _missing(factor: Factor, levels: Collection[str]) -> list[str]:
    return [f"{factor.name}={name}" for name in dict.fromkeys(factor.levels) if name not in levels]


def interactions(found: Sequence[Factor], scores: Scores) -> list[Interaction]:
    """Of the first MAX_TABLES pairs of factors of which two by two levels or more were tried in the same contexts."""
    pairs = itertools.combinations(range(len(found)), 2)
    tables = ((pair, block) for pair in pairs if (block := balanced(scores, pair)))
    return [_interaction(found, pair, block) for pair, block in itertools.islice(tables, MAX_TABLES)]


def _interaction(found: Sequence[Factor], pair: tuple[int, int], block: Block) -> Interaction:
    means = block.values.mean(1)  # (S, I, J)
    excess = means - means.mean(2, keepdims=True) - means.mean(1, keepdims=True) + means.mean((1, 2), keepdims=True)
    of_cells = _over_seeds(excess)
    p_values = np.array([[cell.p_value for cell in row] for row in of_cells])
    names, contrast = (found[pair[0]].name, found[pair[1]].name), None
    missing = [name for axis, levels in zip(pair, block.levels, strict=True) for name in _missing(found[axis], levels)]
    if means.shape[1:] == (2, 2):  # its four cells say one thing: no correction
        contrast = estimate(means[:, 0, 0] - means[:, 0, 1] - means[:, 1, 0] + means[:, 1, 1])
    elif np.isfinite(p_values).all():
        p_values = np.reshape(holm(p_values.ravel()), p_values.shape)
    return Interaction(names, missing, block, _over_seeds(means), of_cells, p_values.tolist(), contrast)


def _over_seeds(values: np.ndarray) -> list[list[Estimate]]:
    """(S, I, J) -> (I, J)."""
    return [[estimate(values[:, i, j]) for j in range(values.shape[2])] for i in range(values.shape[1])]


def balanced(scores: Scores, axes: Sequence[int]) -> Block | None:
    """The part of the design with the most runs in which each combination of levels of the factors `axes` has a score
    in every context with every seed; or one with more levels, if it has half as many runs. None where there are not two
    levels of each."""
    parts = list(_parts(scores, axes))
    most = max((_num_runs(part) for part in parts), default=0)
    large = [part for part in parts if 2 * _num_runs(part) >= most > 0]
    if not large:
        return None
    best = max(large, key=lambda part: (sum(map(len, part.levels)), _num_runs(part)))
    return best._replace(values=_values(scores, axes, best))


def _num_runs(part: Block) -> int:
    return math.prod(map(len, part.levels)) * len(part.contexts) * len(part.seeds)


def _parts(scores: Scores, axes: Sequence[int]) -> Iterator[Block]:
    """Without their values: those of all seeds, then without the seed that the fewest cells have, and so on."""
    times = Counter(seed for given in scores.values() for seed in given)
    seeds = sorted(times, key=lambda seed: (-times[seed], seed))
    for num_seeds in range(len(seeds), 0, -1):
        kept = sorted(seeds[:num_seeds])
        having = [cell for cell, given in scores.items() if set(kept) <= given.keys()]
        for levels, contexts, left_out in _grids(having, axes):
            yield Block(levels, contexts, kept, sorted(seeds[num_seeds:]), np.empty(0), left_out)


def _grids(having: Collection[Cell], axes: Sequence[int]) -> Iterator[tuple[list[list[str]], list[Cell], int]]:
    """Levels, the contexts that have all of them, and the number of those that do not: first of all levels, then
    without the one that is met in the fewest contexts, and so on."""
    met: dict[Cell, set[Cell]] = {}  # context -> the combinations that it has
    for cell in having:
        met.setdefault(_context(cell, axes), set()).add(tuple(cell[axis] for axis in axes))
    while met := {context: those for context, those in met.items() if _has_two_of_each(those)}:
        times = [Counter(names) for names in zip(*itertools.chain.from_iterable(met.values()), strict=True)]
        levels = [_in_order(names) for names in times]
        every = set(itertools.product(*levels))
        complete = [context for context, those in met.items() if those >= every]
        yield levels, complete, len(met) - len(complete)
        rarest = min((num, axis, name) for axis, names in enumerate(times) for name, num in names.items())
        met = {context: {one for one in those if one[rarest[1]] != rarest[2]} for context, those in met.items()}


def _has_two_of_each(combinations: Collection[Cell]) -> bool:
    return bool(combinations) and all(len(set(names)) > 1 for names in zip(*combinations, strict=True))


def _values(scores: Scores, axes: Sequence[int], part: Block) -> np.ndarray:
    """(S, C, I) or (S, C, I, J)."""
    place = {(_context(cell, axes), tuple(cell[axis] for axis in axes)): given for cell, given in scores.items()}
    combinations = list(itertools.product(*part.levels))
    values = [[[place[context, one][seed] for one in combinations] for context in part.contexts] for seed in part.seeds]
    return np.reshape(values, (len(part.seeds), len(part.contexts), *map(len, part.levels)))


def _context(cell: Cell, axes: Sequence[int]) -> Cell:
    return tuple(level for axis, level in enumerate(cell) if axis not in axes)


def _in_order(names: Collection[str]) -> list[str]:
    """Numbers by their size, words by the alphabet."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)
