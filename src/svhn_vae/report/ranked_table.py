"""The page's ranked table: a row per variant and baseline, a column per figure that any run has."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from svhn_vae.report.collect import METRIC, Run, Variant
from svhn_vae.report.curves import limits
from svhn_vae.report.ranking import ALIKE, Ranking, baselines, is_no_better
from svhn_vae.report.statistics import Comparison, Estimate, estimate


class Column(NamedTuple):
    """One figure of a run."""

    title: str
    part: str  # of result.json
    name: str
    form: str
    meaning: str


COLUMNS = (
    Column("modelled", "parts", "modelled", ".3f", "bits/dim of what the VAE models, with its Jacobian"),
    Column("KL", "parts", "kl", ".3f", "bits/dim of the latents"),
    Column("residual", "parts", "residual", ".3f", "bits/dim of the coordinates that were cut off"),
    Column("KL, nats", "metrics", "test/kl", ".1f", "per test image"),
    Column("active", "metrics", "test/active_units", ".0f", "latents in use"),
    Column("k-sample bound", "metrics", "test/iw_bits_per_dim", ".3f", "bits/dim of the importance-weighted bound"),
    Column("seen", "metrics", "seen/bits_per_dim", ".3f", "bits/dim of training images, scored like test images"),
    Column("residual variance", "metrics", "test/calibration/residual_variance", ".2f",
           "mean square of (y - mean) / sigma: 1 is right, above it sigma is too small"),
    Column("coverage 90", "metrics", "test/calibration/coverage_90", ".3f", "share inside a Gaussian's 90 % interval"),
    Column("PSNR, dB", "metrics", "test/reconstruction/psnr", ".1f", "of reconstructed test images"),
    Column("sharpness", "metrics", "test/reconstruction/sharpness", ".2f", "of reconstructions: 1 is the image's own"),
    Column("order", "metrics", "order/rank_correlation", ".2f",
           "rank correlation of a component's size and how early it is learnt"),
    Column("Frechet", "metrics", "samples/frechet", ".1f", "of samples, in the judge's features: lower is better"),
    Column("kernel", "metrics", "samples/kernel", ".3f", "distance of samples, in the judge's features"),
    Column("precision", "metrics", "samples/precision", ".2f", "share of samples that look like images"),
    Column("recall", "metrics", "samples/recall", ".2f", "share of images that samples look like"),
    Column("digit entropy", "metrics", "samples/digit_entropy", ".2f", "nats, of the digits that samples show"),
    Column("memorised", "metrics", "samples/memorised", ".2f", "share of samples nearer to training images"),
    Column("sharpness of samples", "metrics", "samples/sharpness", ".2f", "1 is that of images"),
    Column("digit kept", "metrics", "analogies/digit_agreement", ".2f", "share of analogies with the original's digit"),
    Column("colour moved", "metrics", "analogies/colour_distance", ".3f", "of analogies from the original"),
    Column("judge", "metrics", "judge/accuracy", ".3f", "the judge's own accuracy, on test images"),
    Column("weights", "cost", "num_parameters", ",.0f", "trained numbers"),
    Column("epochs", "cost", "epochs", ",.0f", "trained"),
    Column("seconds", "cost", "seconds", ",.0f", "of training; > where a continued run has only its last part"),
    Column("images/s", "cost", "images_per_second", ",.0f", "in training"),
)  # fmt: skip


class Value(NamedTuple):
    """A cell."""

    text: str
    number: float  # to sort by
    hint: str  # seed by seed


class Bar(NamedTuple):
    """Where a score stands on the scale of its table, in percent."""

    at: float
    low: float
    high: float
    beyond: str  # the end of the scale that it lies beyond: low, high or empty


class Row(NamedTuple):
    label: str
    is_variant: bool
    score: Value
    bar: Bar | None
    gap: Value  # to the best
    counts: str  # of its runs: finished, and what became of the others
    cells: list[Value]
    is_no_better: bool  # than its own baseline


class RankedTable(NamedTuple):
    scale: str  # the ends of the bars
    columns: list[Column]
    rows: list[Row]


def ranked_table(found: Sequence[Variant], ranking: Ranking | None) -> RankedTable:
    """The best first; then what has no density, and at the end what never finished."""
    runs = [run for variant in found for run in variant.runs]
    columns = [column for column in COLUMNS if any(math.isfinite(number(run, column)) for run in runs)]
    references = baselines(runs)
    scale = limits([[variant.score for variant in found], [bits for _, bits in references[:1]]], most=0.9)
    gaps = {comparison.a: comparison for comparison in ranking.others} if ranking else {}
    rows = [((False, False, bits), _baseline_row(name, bits, scale, len(columns))) for name, bits in references]
    for variant in found:
        rows.append((_place(variant), _variant_row(variant, columns, gaps.get(variant.label), scale)))
    ends = "{:.3g} to {:.3g}".format(*scale) if scale else ""
    return RankedTable(ends, columns, [row for _, row in sorted(rows, key=lambda placed: placed[0])])


def _place(variant: Variant) -> tuple[bool, bool, float]:
    return not variant.runs, math.isnan(variant.score), variant.score


def number(run: Run, column: Column) -> float:
    value = run.result.get(column.part, {}).get(column.name)
    return math.nan if value is None else value


def _baseline_row(name: str, bits: float, scale: tuple[float, float], num_cells: int) -> Row:
    nothing = Value("", math.nan, "")
    bar = _bar(estimate([bits]), scale)
    return Row(name, False, Value(f"{bits:.3f}", bits, ""), bar, nothing, "", [nothing] * num_cells, False)


def _variant_row(variant: Variant, columns: Sequence[Column], gap: Comparison | None, scale: tuple | None) -> Row:
    scores = variant.scores(METRIC)
    found = estimate(list(scores.values()))
    text = interval_text(found, ".3f") if scores else "no density" if variant.runs else ""
    score = Value(text, found.mean, by_seed(scores, ".4f"))
    bar = _bar(found, scale) if scale and math.isfinite(found.mean) else None
    cells = [_cell(variant, column) for column in columns]
    return Row(variant.label, True, score, bar, _gap(gap), counts(variant), cells, is_no_better(variant))


def _cell(variant: Variant, column: Column) -> Value:
    """The mean over the seeds that have it."""
    values = {run.seed: value for run in variant.runs if math.isfinite(value := number(run, column))}
    if not values:
        return Value("", math.nan, "")
    mean = estimate(list(values.values())).mean
    part_only = column.name == "seconds" and any(run.cost.get("continued") for run in variant.runs)
    return Value(f"{'>' * part_only}{mean:{column.form}}", mean, by_seed(values, column.form))


def _gap(comparison: Comparison | None) -> Value:
    if comparison is None:
        return Value("", math.nan, "")
    difference, alike = comparison.difference, comparison.verdict == ALIKE
    hint = (
        f"{difference.low:+.4f} to {difference.high:+.4f} (this pair's 95 %), p = {comparison.p_value:.2g} after Holm"
    )
    return Value(f"{difference.mean:+.3f}{' ≈' * alike}", difference.mean, hint)


def _bar(found: Estimate, scale: tuple[float, float]) -> Bar:
    low, high = scale
    place = [100 * (value - low) / (high - low) for value in found[:3]]
    at, left, right = (min(max(value, 0.0), 100.0) if math.isfinite(value) else place[0] for value in place)
    return Bar(at, min(left, at), max(right, at), "low" if place[0] < 0 else "high" if place[0] > 100 else "")


def counts(variant: Variant) -> str:
    """For instance `3, 1 diverged`."""
    others = Counter(run.status for run in variant.unfinished)
    return ", ".join([str(len(variant.runs)), *(f"{num} {status}" for status, num in sorted(others.items()))])


def interval_text(found: Estimate, form: str) -> str:
    """The mean, and half of its interval where there is one."""
    return f"{found.mean:{form}}" + (f" ± {found.high - found.mean:{form}}" if math.isfinite(found.high) else "")


def by_seed(values: dict[int, float], form: str) -> str:
    return ", ".join(f"seed {seed}: {value:{form}}" for seed, value in values.items()) if len(values) > 1 else ""
