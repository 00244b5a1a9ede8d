"""Which variants have the best density and which the best pictures, what cannot be told apart from them, and the answer
to a study's question in sentences.

A variant of which a seed diverged has no rank: the seeds that survived are a choice by their result.
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

from svhn_vae.report.collect import FRECHET, METRIC, Run, Variant
from svhn_vae.report.statistics import NOTHING, Gap, gaps, image_errors, in_blocks, seed_errors

QUESTION = "Which variant has the best density, and which the best pictures?"
OWN_BASELINE = ("PPCA", "independent Gaussian")  # the first that a run has: without a network, in its coordinates
OLD_IMAGE_SHAPE = (3, 32, 32)  # of runs before 0.2, which did not note it
MAX_NAMED = 5
STATES = {"diverged": "diverged", "failed": "failed", "interrupted": "interrupted", "running": "still running"}
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


def rank(study: Path, found: Sequence[Variant], metric: str) -> Ranking | None:
    """None where no variant has the metric with every seed."""
    whole = {one.label: one for one in found if not one.num_diverged and one.scores(metric)}
    if not whole:
        return None
    ranking = ranking_of(metric, {label: one.scores(metric) for label, one in whole.items()})
    if metric == METRIC and len(whole) > 1:
        images = [bits_of_images(study, whole[label]) for label in ranking.places]
        by_image = gaps([place.mean for place in ranking.places.values()], image_errors(images))
        for (label, place), gap in zip(ranking.places.items(), by_image, strict=True):
            ranking.places[label] = place._replace(images=gap)
    return ranking


def ranking_of(metric: str, scores: Mapping[str, Mapping[int, float]]) -> Ranking:
    """Of the scores under each label, by seed."""
    means = {label: statistics.fmean(of.values()) for label, of in scores.items()}
    labels = sorted(scores, key=means.__getitem__)
    known = seed_errors([scores[label] for label in labels])
    to_best = gaps([means[label] for label in labels], known.of_pair)
    rows = enumerate(zip(labels, known.reaches, to_best, strict=True), 1)
    places = {label: Place(at, means[label], reach, gap) for at, (label, reach, gap) in rows}
    return Ranking(metric, places, known.how)


def bits_of_images(study: Path, variant: Variant) -> np.ndarray | None:
    """Bits per dimension of the test images, the mean over seeds, in blocks; None where a run has not kept them."""
    try:
        files = [load_file(study / run.name / "per_image.safetensors")["elbo"] for run in variant.runs]
        elbo = np.mean(np.stack(files), axis=0, dtype=float)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    num_dims = math.prod(variant.runs[0].result.get("data", {}).get("image_shape", OLD_IMAGE_SHAPE))
    return in_blocks(8 - elbo / (num_dims * math.log(2))) if np.isfinite(elbo).all() else None


def front(found: Sequence[Variant]) -> list[str]:
    """Of the variants with both metrics and every seed, those that no other beats in both."""
    points = {
        one.label: (one.mean(METRIC), one.mean(FRECHET))
        for one in found
        if not one.num_diverged and one.scores(METRIC) and one.scores(FRECHET)
    }
    return [
        label
        for label, (bits, distance) in points.items()
        if not any(a <= bits and b <= distance and (a, b) != (bits, distance) for a, b in points.values())
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


def is_no_better(variant: Variant) -> bool:
    own = own_baseline(variant)
    return own is not None and variant.mean() >= own[1]


# --- in sentences ---------------------------------------------------------------------------------------------------


def answer(found: Sequence[Variant], rankings: Sequence[Ranking]) -> list[str]:
    """Of variants with the same test images, for both sides; `rankings` are of those metrics that any variant has."""
    of_metric = {one.metric: one for one in rankings}
    sentences = []
    for metric, (side, name, form) in SIDES.items():
        if metric in of_metric:
            sentences.append(_best(of_metric[metric], side, name, form))
            sentences += _against_baselines(found, of_metric[metric].best) if metric == METRIC else []
        else:
            sentences.append(_why_unranked(found, metric, side))
    beaten_by_none = front(found)
    if len(beaten_by_none) > 1:
        sentences.append(f"No variant beats these in both: {_named(beaten_by_none)}.")
    diverged = [one.label for one in found if one.num_diverged]
    if diverged and len(found) > 1:
        sentences.append(f"Without a rank, because a seed diverged: {_named(diverged)}.")
    return sentences


def _best(ranking: Ranking, side: str, name: str, form: str) -> str:
    first, num_others = ranking.places[ranking.best], len(ranking.places) - 1
    reach = f" ± {first.reach:{form}}" if math.isfinite(first.reach) else ""
    text = f"Best {side}: {ranking.best}, {first.mean:{form}}{reach} {name}"
    if not num_others:
        return f"{text}; no other variant has a rank."
    if not math.isfinite(first.reach):
        return (
            f"{text}, before {num_others} other{'s' * (num_others != 1)}; with one seed each, other seeds may differ."
        )
    worse = num_others - len(ranking.alike)
    told = f"; not told apart from it: {_named(ranking.alike)}" if ranking.alike else ""
    return f"{text}; {worse} of {num_others} others {'is' if worse == 1 else 'are'} worse{told}."


def _why_unranked(found: Sequence[Variant], metric: str, side: str) -> str:
    if not any(variant.runs for variant in found):
        return "No run has finished." if metric == METRIC else ""
    if any(variant.scores(metric) for variant in found):
        return f"No ranking of {side}: of every variant, a seed diverged."
    if metric == FRECHET:
        return "No ranking of pictures: no run was judged (judge=true)."
    return "No ranking of density: no finished run has bits/dim."


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


def state(runs: Sequence[Run]) -> str:
    """How many runs there are and what became of them, for instance `4 runs: 3 finished, 1 diverged.`"""
    of_status = Counter(run.status for run in runs)
    parts = [f"{of_status['done']} finished"]
    parts += [f"{of_status[status]} {words}" for status, words in STATES.items() if of_status[status]]
    others = sum(num for status, num in of_status.items() if status not in {"done", *STATES})
    parts += [f"{others} without a status"] if others else []
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {', '.join(parts)}."
