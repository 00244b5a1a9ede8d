"""Hypotheses: what an experiment claims of its runs, and what those runs say of it.

Lists of them stand in experiments' YAML files and in study.json, each with these keys:

    claim: A fixed variance fits worse than one fitted per dimension.
    source: the post, "Variance"
    metric: test/bits_per_dim              of result.json's metrics, or diverged, baseline/NAME, cost/NAME, details/NAME
    minus: null                            another metric of the same run, subtracted
    better: lower                          or higher
    favours: {variance: per_dimension}     the runs that do better, it says: settings or choices -> a value or a list
    over: {variance: fixed}                than these; null: than 0, and favours may then be {}, all runs
    margin: 0.0                            by more than this; negative: worse by less than this
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.errors import UserError
from svhn_vae.report.collect import Run
from svhn_vae.report.hypotheses.design import (
    DIVERGED,
    Advantage,
    Trial,
    advantage,
    claimed,
    fits,
    label,
    left_out,
    method,
    points,
    side_name,
    size,
    why_undecided,
)
from svhn_vae.report.statistics import Estimate

SIGNS = {"lower": -1, "higher": 1}


class Hypothesis(NamedTuple):
    """Its fields are those above."""

    claim: str
    source: str
    metric: str
    better: str
    favours: dict[str, Any]
    over: dict[str, Any] | None
    minus: str | None = None
    margin: float = 0.0


Drawn = list[tuple[str, int, float]]  # what else was set, seed, value


class Verdict(NamedTuple):
    """What the runs of a study say of a hypothesis."""

    claim: str
    source: str
    verdict: str  # supported, refuted or undecided
    effect: (
        Estimate | None
    )  # how much better the favoured runs do, in the metric's units; its interval is NaN of one seed
    metric: str  # with what is subtracted
    better: str
    margin: float
    num_seeds: int
    num_runs: int
    size: str  # of the runs compared: data and digest, images, epochs, batch size, weights
    reason: str  # why it is undecided, how it was tested, what was left out
    favours: str  # names of the sides
    over: str
    favoured: Drawn  # the runs compared
    other: Drawn


def verdicts(study: Path, runs: Sequence[Run], hypotheses: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """One each. What is no hypothesis is undecided, and its reason says what is wrong with it."""
    return [_verdict(study, runs, content) for content in hypotheses]


def _verdict(study: Path, runs: Sequence[Run], content: Mapping[str, Any]) -> Verdict:
    try:
        hypothesis = parse(content)
    except UserError as error:
        claim = content.get("claim") if isinstance(content, Mapping) else content
        return Verdict(str(claim), "", "undecided", None, "", "", 0.0, 0, 0, "", str(error), "", "", [], [])
    if not runs:
        return without_runs(hypothesis, "undecided", f"{study} holds no runs")
    tried = points(runs, hypothesis.metric, hypothesis.minus)
    conditions = [side for side in (hypothesis.favours, hypothesis.over) if side is not None]
    sides = [(side_name(side), [point for point in tried if fits(point, side)]) for side in conditions]
    sign, names = SIGNS[hypothesis.better], claimed(hypothesis.favours, hypothesis.over or {})
    trial = Trial(hypothesis.metric, sign, hypothesis.margin, sides, names)
    return _decided(hypothesis, trial, advantage(trial), num_unknown=len(runs) - len(tried))


def _decided(hypothesis: Hypothesis, trial: Trial, found: Advantage, num_unknown: int) -> Verdict:
    why = why_undecided(trial, found)
    verdict = "undecided" if why else "supported" if found.effect.low > trial.margin else "refuted"
    parts = [*([why] if why else []), *method(trial, found), *left_out(trial, found, num_unknown)]
    drawn = [[(label(point, found.keys), point.run.seed, point.value) for point in side] for side in found.sides]
    compared = [point.run for side in found.sides for point in side]
    return without_runs(hypothesis, verdict, "; ".join(parts))._replace(
        effect=found.effect,
        num_seeds=found.num_seeds,
        num_runs=len(compared),
        size=size(compared),
        favoured=drawn[0],
        other=[point for side in drawn[1:] for point in side],
    )


def without_runs(hypothesis: Hypothesis, verdict: str, reason: str) -> Verdict:
    metric = hypothesis.metric + (f" - {hypothesis.minus}" if hypothesis.minus else "")
    names = side_name(hypothesis.favours), "0" if hypothesis.over is None else side_name(hypothesis.over)
    asked = hypothesis.better, hypothesis.margin
    return Verdict(hypothesis.claim, hypothesis.source, verdict, None, metric, *asked, 0, 0, "", reason, *names, [], [])


def effect_text(effect: Estimate) -> str:
    """With its interval, to two figures of that."""
    reach = (effect.high - effect.low) / 2
    if not reach > 0:  # of one seed there is none, or all seeds agree
        return f"{effect.mean:+.4g}" + (" (1 seed)" if math.isnan(reach) else " (with every seed)")
    decimals = max(0, 1 - math.floor(math.log10(reach)))
    return "{:+z,.{d}f} [{:+z,.{d}f}, {:+z,.{d}f}]".format(effect.mean, effect.low, effect.high, d=decimals)


# --- what is a hypothesis -------------------------------------------------------------------------------------------


def parse(content: object) -> Hypothesis:
    """From plain mappings, lists and values; ValueError, in a line, for what is no hypothesis."""
    if not isinstance(content, Mapping):
        raise UserError(f"a hypothesis must have {', '.join(Hypothesis._fields)}, got {content!r}")
    where = f"hypothesis {content.get('claim')!r}"
    unknown = [key for key in content if key not in FORMS]
    missing = [key for key in FORMS if key not in content and key not in Hypothesis._field_defaults]
    for names, what in ((unknown, "unknown"), (missing, "missing")):
        if names:
            raise UserError(f"{where}: {', '.join(map(str, names))} {what}: expected {', '.join(FORMS)}")
    for key, value in content.items():
        form, has_form = FORMS[key]
        if not has_form(value):
            raise UserError(f"{where}: {key} must be {form}, got {value!r}")
    hypothesis = Hypothesis(**content)
    if hypothesis.over is not None and not (hypothesis.favours and hypothesis.over):
        raise UserError(f"{where}: favours and over must each name settings, unless over is null")
    if hypothesis.favours == hypothesis.over:
        raise UserError(f"{where}: favours and over are the same runs")
    if hypothesis.metric == DIVERGED and hypothesis.minus:
        raise UserError(f"{where}: of diverged, nothing can be subtracted, got minus {hypothesis.minus}")
    return hypothesis


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_metric(value: object) -> bool:
    return isinstance(value, str) and all(value.partition("/"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_wanted(value: object) -> bool:
    """A value, or a list of at least one."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(each is None or isinstance(each, str | int | float) for each in values)


def _are_settings(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(name) and _is_wanted(wanted) for name, wanted in value.items())


FORMS = {
    "claim": ("a sentence", _is_text),
    "source": ("a text", _is_text),
    "metric": (
        "split/quantity, diverged, baseline/NAME, cost/NAME or details/NAME",
        lambda value: value == DIVERGED or _is_metric(value),
    ),
    "minus": ("null or another metric", lambda value: value is None or _is_metric(value)),
    "better": ("lower or higher", lambda value: isinstance(value, str) and value in SIGNS),
    "favours": ("settings or choices with a value or a list of values each", _are_settings),
    "over": ("null, or settings or choices as in favours", lambda value: value is None or _are_settings(value)),
    "margin": ("a number", _is_number),
}
