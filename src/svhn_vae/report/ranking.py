"""Which variant is the best, and which cannot be told apart from it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.numpy import load_file

from svhn_vae.report.collect import METRIC, Run, Variant
from svhn_vae.report.statistics import (
    Comparison,
    Estimate,
    Summed,
    against,
    blocks,
    compare_all,
    paired_by_block,
    paired_by_seed,
    summed,
)

OWN_BASELINE = ("PPCA", "independent Gaussian")  # the first that a run has: without a network, in its coordinates
MIN_SEEDS = 3  # to compare by seed
NATS_PER_BIT = 3072 * math.log(2)
IMAGES, FEW_SEEDS = "by image, in blocks of neighbours", f", where two share fewer than {MIN_SEEDS} seeds"
ALIKE = "cannot be told apart"


class Ranking(NamedTuple):
    """The best of the variants that have bits/dim, and the others against it."""

    best: Variant
    others: list[Comparison]  # empty where there is no other, or no test
    how: str  # by what the comparisons are paired; empty where there is no test


def ranked(found: Sequence[Variant]) -> list[Variant]:
    """The best first; those without a score last, in their order."""
    return sorted(found, key=lambda variant: (math.isnan(variant.score), variant.score))


def rank(study: Path, found: Sequence[Variant]) -> Ranking | None:
    """None where no variant has a finite score."""
    scored = {variant.label: variant for variant in ranked(found) if math.isfinite(variant.score)}
    if not scored:
        return None
    best = next(iter(scored))
    if len(scored) < 2:
        return Ranking(scored[best], [], "")
    seeds = {name: variant.scores(METRIC) for name, variant in scored.items()}
    pairs = list(itertools.combinations(scored, 2))
    by_image = [pair for pair in pairs if not _share_seeds(*(seeds[name] for name in pair))]
    images = {name: bits_of_images(study, scored[name]) for name in dict.fromkeys(itertools.chain(*by_image))}
    if None in images.values():
        return Ranking(scored[best], [], "")

    def paired(a: str, b: str) -> Estimate:
        if _share_seeds(seeds[a], seeds[b]):
            return paired_by_seed(seeds[a], seeds[b])
        return paired_by_block(images[a], images[b])

    how = "by seed" if not by_image else IMAGES if len(by_image) == len(pairs) else f"by seed; {IMAGES}{FEW_SEEDS}"
    return Ranking(scored[best], against(best, compare_all({name: name for name in scored}, paired)), how)


def _share_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    return len(a.keys() & b.keys()) >= MIN_SEEDS


def bits_of_images(study: Path, variant: Variant) -> Summed | None:
    """Bits per dimension of the test images, the mean over seeds, in blocks; None where a run has not kept them."""
    files = [study / run.name / "per_image.safetensors" for run in variant.runs]
    if not all(file.is_file() for file in files):
        return None
    elbo = sum(load_file(file)["elbo"].astype(float) for file in files) / len(files)
    return summed(8 - elbo / NATS_PER_BIT, blocks(len(elbo)))


def baselines(runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Name and bits/dim of every model without a network, the best first."""
    found = {(name, bits) for run in runs for name, bits in run.result.get("baselines", {}).items()}
    return sorted(found, key=lambda named: named[1])


def own_baseline(variant: Variant) -> tuple[str, float] | None:
    """The model without a network that has the variant's coordinates."""
    known = variant.runs[0].result.get("baselines", {}) if variant.runs else {}
    own = [(name, bits) for start in OWN_BASELINE for name, bits in known.items() if name.startswith(start)]
    return own[0] if own else None


def is_no_better(variant: Variant) -> bool:
    """Than its own baseline."""
    own = own_baseline(variant)
    return own is not None and variant.score >= own[1]
