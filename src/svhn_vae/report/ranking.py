"""Which variants have the best density and which the best pictures, what cannot be told apart from them, what each
swept factor does, and the answer to a study's question in sentences.

A variant of which a seed diverged has no rank and no part in effects: the seeds that survived are a choice by their
result.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from svhn_vae.errors import counted
from svhn_vae.report.collect import FRECHET, METRIC, Run, Variant, telling
from svhn_vae.report.statistics import NOTHING, Gap, gaps, image_errors, in_blocks, seed_errors

QUESTION = "Which variant has the best density, and which the best pictures?"
OWN_BASELINE = ("PPCA", "independent Gaussian")  # the first that a run has: without a network, in its coordinates
OLD_IMAGE_SHAPE = (3, 32, 32)  # of runs before 0.2, which did not note it
MAX_NAMED = 5
SIDES = {METRIC: ("density", "test bits/dim", ".3f"), FRECHET: ("pictures", "Frechet distance of samples", ".1f")}


class Place(NamedTuple):
    rank: int
    mean: float
    reach: float  # half of the mean's interval over seeds
    seeds: Gap  # to the best: with other seeds
    images: Gap = NOTHING  # on other images


class Ranking(NamedTuple):
    metric: str
    places: dict[str, Place]  # by label
    how: str  # whence the errors over seeds are known

    @property
    def best(self) -> str:
        return next(iter(self.places))

    @property
    def alike(self) -> list[str]:
        """Which other seeds might show to be as good as the best."""
        return [label for label, place in self.places.items() if place.rank > 1 and not place.seeds.is_worse]


def ranked(found: Sequence[Variant]) -> list[Variant]:
    """The best first; then those of which a seed diverged, those without a density, and those without a result."""
    return sorted(found, key=lambda one: (not one.runs, math.isnan(one.mean()), one.num_diverged > 0, one.mean()))


def rankings_of(study: Path, found: Sequence[Variant]) -> dict[str, Ranking]:
    """By metric, of both sides; without those that no variant has with every seed."""
    rankings = {}
    for metric in SIDES:
        whole = {one.label: one for one in found if not one.num_diverged and one.scores(metric)}
        if whole:
            rankings[metric] = ranking_of(metric, {label: one.scores(metric) for label, one in whole.items()})
    if METRIC in rankings:
        by_label, places = {one.label: one for one in found}, rankings[METRIC].places
        errors = image_errors([bits_of_images(study, by_label[label]) for label in places])
        to_best = gaps([place.mean for place in places.values()], errors)
        for (label, place), gap in zip([*places.items()][1:], to_best[1:], strict=True):
            places[label] = place._replace(images=gap)
    return rankings


def ranking_of(metric: str, scores: Mapping[str, Mapping[int, float]]) -> Ranking:
    """Of the scores under each label, by seed."""
    means = {label: statistics.fmean(of.values()) for label, of in scores.items()}
    labels = sorted(scores, key=means.__getitem__)
    known = seed_errors([scores[label] for label in labels])
    to_best = gaps([means[label] for label in labels], known.of_pair)
    rows = enumerate(zip(labels, known.reaches, to_best, strict=True), 1)
    return Ranking(metric, {label: Place(at, means[label], reach, gap) for at, (label, reach, gap) in rows}, known.how)


def bits_of_images(study: Path, variant: Variant) -> np.ndarray | None:
    """Bits per dimension of the test images, the mean over seeds, in blocks; None where a run has not kept them."""
    try:
        files = [load_file(study / run.name / "per_image.safetensors")["elbo"] for run in variant.runs]
        elbo = np.mean(np.stack(files), axis=0, dtype=float)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    num_dims = math.prod(variant.runs[0].result["data"].get("image_shape", OLD_IMAGE_SHAPE))
    return in_blocks(8 - elbo / (num_dims * math.log(2))) if np.isfinite(elbo).all() else None


def front(found: Sequence[Variant]) -> list[Variant]:
    """Of the variants with both metrics and every seed, those that no other beats in both."""
    both = [one for one in found if not one.num_diverged and one.scores(METRIC) and one.scores(FRECHET)]
    points = [(one.mean(METRIC), one.mean(FRECHET)) for one in both]
    return [
        one
        for one, (bits, distance) in zip(both, points, strict=True)
        if not any(a <= bits and b <= distance and (a, b) != (bits, distance) for a, b in points)
    ]


def baselines(runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Name and bits/dim of every model without a network, the best first; with the number of training images where it
    was fitted to several sets of them."""
    found = {(name, run.number("baselines", name), run.result["data"].get("num_train"))
             for run in runs for name in run.result.get("baselines") or ()}  # fmt: skip
    times = Counter(name for name, _ in {(name, bits) for name, bits, _ in found})
    named = {(f"{name}, {num} training images" if times[name] > 1 else name, bits) for name, bits, num in found}
    return sorted((one for one in named if math.isfinite(one[1])), key=lambda one: one[1])


def own_baseline(variant: Variant) -> tuple[str, float] | None:
    """The model without a network that has the variant's coordinates."""
    known = baselines(variant.runs[:1])
    return next((one for start in OWN_BASELINE for one in known if one[0].startswith(start)), None)


# --- effects --------------------------------------------------------------------------------------------------------


class Effect(NamedTuple):
    """The means of a factor's levels. Only like is averaged with like: over those settings of the other factors
    (contexts) in which every level has a score with every seed. What has not is left out, and counted."""

    name: str
    ranking: Ranking  # of its levels
    missing: list[str]  # levels that no context compares with another one
    num_contexts: int
    left_out: int  # contexts with several levels but not with all
    seeds: list[int]
    other_seeds: list[int]  # that not all variants have


def factors_of(settings: Sequence[Mapping[str, str]], groups: Sequence[str]) -> dict[str, list[str]]:
    """What was varied -> its level in each variant; settings that always change together are one factor. `groups` as in
    collect.telling."""
    keys = dict.fromkeys(key for told in telling(settings, groups) for key in told)
    together: dict[tuple[int, ...], dict[str, list[str]]] = {}
    for key in keys:
        levels = [of.get(key, "none" if key in groups else "-") for of in settings]
        together.setdefault(tuple(map(levels.index, levels)), {})[key] = levels
    return {", ".join(alike): list(map(", ".join, zip(*alike.values(), strict=True))) for alike in together.values()}


def effects(factors: Mapping[str, list[str]], scores: Sequence[Mapping[int, float]]) -> list[Effect]:
    """Of each factor of which some context has all levels that meet another one anywhere; `scores` are those of each
    variant by seed, {} where it has none."""
    given = [set(of) for of in scores if of]
    seeds = sorted(set.intersection(*given)) if given else []
    found = []
    for name, levels in factors.items():
        contexts: dict[tuple, dict[str, Mapping[int, float]]] = {}
        others = [of for other, of in factors.items() if other != name]
        for level, of, *context in zip(levels, scores, *others, strict=True):
            contexts.setdefault(tuple(context), {}).update({level: of} if of else {})
        several = [by_level for by_level in contexts.values() if len(by_level) > 1]
        every = {level for by_level in several for level in by_level}
        complete = [by_level for by_level in several if by_level.keys() == every]
        if complete and seeds:
            means = {level: {seed: statistics.fmean(by_level[level][seed] for by_level in complete) for seed in seeds}
                     for level in sorted(every)}  # fmt: skip
            missing = [f"{name}={level}" for level in dict.fromkeys(levels) if level not in every]
            counts = len(complete), len(several) - len(complete)
            other_seeds = sorted(set().union(*given) - {*seeds})
            found.append(Effect(name, ranking_of(METRIC, means), missing, *counts, seeds, other_seeds))
    return found


# --- in sentences ---------------------------------------------------------------------------------------------------


def interval_text(mean: float, reach: float, form: str = ".3f", sign: str = "") -> str:
    return f"{mean:{sign}{form}}" + (f" ± {reach:{form}}" if math.isfinite(reach) else "")


def answer(found: Sequence[Variant], rankings: Mapping[str, Ranking]) -> list[str]:
    """For both sides, of variants with the same test images."""
    sentences = []
    for metric, (side, name, form) in SIDES.items():
        if ranking := rankings.get(metric):
            sentences.append(f"Best {side}: {_best(ranking, name, form)}")
            sentences += _against_baselines(found, ranking.best) if metric == METRIC else []
        else:
            sentences.append(_why_unranked(found, metric, side))
    beaten_by_none = [one.label for one in front(found)]
    if len(beaten_by_none) > 1:
        sentences.append(f"No variant beats these in both: {_named(beaten_by_none)}.")
    diverged = [one.label for one in found if one.num_diverged]
    if diverged and len(found) > 1:
        sentences.append(f"Without a rank, because a seed diverged: {_named(diverged)}.")
    return sentences


def _best(ranking: Ranking, name: str, form: str) -> str:
    first, num_others = ranking.places[ranking.best], len(ranking.places) - 1
    text = f"{ranking.best}, {interval_text(first.mean, first.reach, form)} {name}"
    if not num_others:
        return f"{text}; no other variant has a rank."
    if not math.isfinite(first.reach):
        return f"{text}, before {counted(num_others, 'other')}; with one seed each, other seeds may differ."
    worse = num_others - len(ranking.alike)
    told = f"; not told apart from it: {_named(ranking.alike)}" if ranking.alike else ""
    return f"{text}; {worse} of {num_others} others {'is' if worse == 1 else 'are'} worse{told}."


def _why_unranked(found: Sequence[Variant], metric: str, side: str) -> str:
    if not any(variant.runs for variant in found):
        return "No run has finished." if metric == METRIC else ""
    if any(variant.scores(metric) for variant in found):
        return f"No ranking of {side}: of every variant, a seed diverged."
    why = {FRECHET: "no run was judged (judge=true)", METRIC: "no finished run has bits/dim"}
    return f"No ranking of {side}: {why[metric]}."


def _against_baselines(found: Sequence[Variant], label: str) -> list[str]:
    best = next(variant for variant in found if variant.label == label)
    known, own = baselines(best.runs), own_baseline(best)
    if not known:
        return []
    text = f"That is {_more_or_less(best.mean() - known[0][1])} the best model without a network, {known[0][0]}"
    if own and own[0] != known[0][0]:
        text += f", and {_more_or_less(best.mean() - own[1])} its own baseline, {own[0]}"
    return [f"{text}."]


def _more_or_less(difference: float) -> str:
    return f"{abs(difference):.3f} {'less' if difference < 0 else 'more'} than"


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MAX_NAMED} more" if len(labels) > MAX_NAMED else ""
    return "; ".join(labels[:MAX_NAMED]) + more
