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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.errors import UserError
from svhn_vae.report.collect import Run
from svhn_vae.report.matching import DIVERGED, Compared, Point, by_place, compared, grouped, points, side_name
from svhn_vae.report.statistics import Estimate, contrast, difference_of_shares, estimate, share

SIGNS = {"lower": -1, "higher": 1}
ROUNDING = 1e-12  # of the largest score: what is less is no difference
MIN_SEEDS = 2
MAX_NAMED = 6  # settings in a line


class Hypothesis(NamedTuple):
    claim: str
    source: str
    metric: str
    better: str
    favours: dict[str, Any]
    over: dict[str, Any] | None
    minus: str | None = None
    margin: float = 0.0

    @property
    def sides(self) -> list[dict[str, Any]]:
        return [side for side in (self.favours, self.over) if side is not None]


class Verdict(NamedTuple):
    claim: str
    source: str = ""
    verdict: str = "undecided"  # or supported, refuted, not run
    reason: str = ""  # why it is undecided, how it was tested, what was left out
    metric: str = ""  # with what is subtracted
    better: str = ""
    margin: float = 0.0
    favours: str = ""  # names of the sides
    over: str = ""
    effect: Estimate | None = None  # how much better the favoured runs do, in the metric's units
    num_seeds: int = 0
    num_runs: int = 0
    size: str = ""  # of the runs compared: data and digest, images, epochs, batch size, weights
    drawn: Sequence[Sequence[tuple[str, int, float]]] = ()  # by side, the runs compared: what else was set, seed, value


def verdicts(study: Path, runs: Sequence[Run], hypotheses: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """One each. What is no hypothesis is undecided, and its reason says what is wrong with it."""
    return [_verdict(study, runs, content) for content in hypotheses]


def _verdict(study: Path, runs: Sequence[Run], content: Mapping[str, Any]) -> Verdict:
    try:
        hypothesis = parse(content)
    except UserError as error:
        return Verdict(str(content.get("claim") if isinstance(content, Mapping) else content), reason=str(error))
    if not runs:
        return untested(hypothesis, "undecided", f"{study} holds no runs")
    tried = points(runs, hypothesis.metric, hypothesis.minus)
    found = _tested(hypothesis, tried)
    unknown = len(runs) - len(tried)
    return found._replace(reason=f"{found.reason}; {unknown} unfinished of unknown settings") if unknown else found


def untested(hypothesis: Hypothesis, verdict: str, reason: str) -> Verdict:
    metric = hypothesis.metric + (f" - {hypothesis.minus}" if hypothesis.minus else "")
    names = side_name(hypothesis.favours), "0" if hypothesis.over is None else side_name(hypothesis.over)
    asked = metric, hypothesis.better, hypothesis.margin
    return Verdict(hypothesis.claim, hypothesis.source, verdict, reason, *asked, *names)


def effect_text(effect: Estimate) -> str:
    """With its interval, to two figures of that."""
    reach = (effect.high - effect.low) / 2
    if not reach > 0:  # of one seed there is none, or all seeds agree
        return f"{effect.mean:+.4g}" + (" (1 seed)" if math.isnan(reach) else " (with every seed)")
    decimals = max(0, 1 - math.floor(math.log10(reach)))
    return "{:+z,.{d}f} [{:+z,.{d}f}, {:+z,.{d}f}]".format(effect.mean, effect.low, effect.high, d=decimals)


# --- the effect -----------------------------------------------------------------------------------------------------


def _tested(hypothesis: Hypothesis, tried: Sequence[Point]) -> Verdict:
    found = compared(tried, hypothesis.favours, hypothesis.over)
    effect, how = _effect(hypothesis, tried, found) if found.by_seed else (None, "")
    why = _why_undecided(hypothesis, found, effect)
    verdict = "undecided" if why else "supported" if effect.low > hypothesis.margin else "refuted"  # pyright: ignore[reportOptionalMemberAccess]
    runs = [one.run for side in found.kept for one in side]
    return untested(hypothesis, verdict, "; ".join(filter(None, [why, *_how(hypothesis, found, how)])))._replace(
        effect=effect,
        num_seeds=len(found.by_seed),
        num_runs=len(runs),
        size=size(runs),
        drawn=[[(_place(one, found.keys), one.run.seed, one.value) for one in side] for side in found.kept],
    )


def _place(point: Point, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={text or 'none'}" for key, text in zip(keys, point.at(keys), strict=True))


def _effect(hypothesis: Hypothesis, tried: Sequence[Point], found: Compared) -> tuple[Estimate, str]:
    """Scores by the ranking's model of variants and seeds, or against 0 by Student's t; shares of runs that diverged.

    Where all seeds agree, an error of 0 would decide with two seeds as with twenty. The value is then taken as it is,
    without a p value: it does not depend on the seed, or is too coarse to.
    """
    by_seed, num = found.by_seed, len(found.by_seed)
    scale = max(abs(one.value) for side in found.kept for one in side)
    if hypothesis.metric == DIVERGED:
        effect, how = _of_shares(hypothesis, found.kept)
    elif num > 1 and max(by_seed) - min(by_seed) <= ROUNDING * scale:
        mean = by_seed[0] if abs(by_seed[0]) > ROUNDING * scale else 0.0
        how = f"alike with all {num} seeds, which leaves no spread to test: the value alone decides"
        effect = Estimate(mean, mean, mean, math.nan, num)
    elif hypothesis.over is None:
        effect, how = estimate(by_seed), f"t over {num} seeds"
    else:
        effect, how = _of_variants(tried, found)
    mean, low, high, *rest = effect
    return (effect if SIGNS[hypothesis.better] > 0 else Estimate(-mean, -high, -low, *rest)), how  # pyright: ignore[reportArgumentType]


def _of_shares(hypothesis: Hypothesis, kept: Sequence[Sequence[Point]]) -> tuple[Estimate, str]:
    counts = [(int(sum(one.value for one in side)), len(side)) for side in kept]
    shares, names = [share(*count) for count in counts], map(side_name, hypothesis.sides)
    said = [f"{name}: {count} of {num} diverged" for name, (count, num) in zip(names, counts, strict=True)]
    interval, effect = ("Wilson", shares[0]) if len(shares) == 1 else ("Newcombe", difference_of_shares(*shares))
    return effect, "; ".join([*said, f"{interval}'s interval, the runs taken as independent"])


def _of_variants(tried: Sequence[Point], found: Compared) -> tuple[Estimate, str]:
    """Of a side's mean all contexts weigh alike, and all variants in one. Variants that are not compared but have every
    seed say, too, how much seeds differ."""
    weights, scores = [], []
    for sign, side in zip((1, -1), found.kept, strict=True):
        contexts = [grouped(of, lambda one: one.variant).values() for of in by_place(side, found.keys).values()]
        weights += [sign / len(contexts) / len(of) for of in contexts for _ in of]
        scores += [{one.run.seed: one.value for one in variant} for of in contexts for variant in of]
    used = {one.variant for side in found.kept for one in side}
    rest = grouped((one for one in tried if one.value is not None and one.variant not in used), lambda one: one.variant)
    seeds = {seed for of in scores for seed in of}
    others = [{one.run.seed: one.value for one in variant if one.run.seed in seeds} for variant in rest.values()]
    return contrast(weights, scores, [one for one in others if one.keys() == seeds])


# --- in words -------------------------------------------------------------------------------------------------------


def _why_undecided(hypothesis: Hypothesis, found: Compared, effect: Estimate | None) -> str:
    for named, side in zip(hypothesis.sides, found.sides, strict=True):
        if all(point.value is None for point in side):
            return f"no run of {side_name(named)} has the metric" if side else f"no run has {side_name(named)}"
    if found.num_both:
        return f"{found.num_both} runs on both sides: favours and over must tell them apart"
    if effect is None:
        return f"no run has a counterpart of the same {', '.join(['seed', *found.keys])}"
    if len(found.by_seed) < MIN_SEEDS:
        return f"{len(found.by_seed)} seed: at least {MIN_SEEDS} are needed"
    if effect.low == effect.high:
        return "the effect is the margin" if math.isclose(effect.mean, hypothesis.margin, rel_tol=1e-9) else ""
    holds_margin = effect.low <= hypothesis.margin <= effect.high
    return f"the interval holds the margin {hypothesis.margin:g}" if holds_margin else ""


def _how(hypothesis: Hypothesis, found: Compared, how: str) -> list[str]:
    """How it was tested, and every run that is not in the effect and might be, and why."""
    is_matched = hypothesis.over is not None and found.by_seed
    said = [f"matched by {' and '.join(['seed', *found.keys])}" if is_matched else "", how]
    if found.also:
        more = f" and {len(found.also) - MAX_NAMED} more" if len(found.also) > MAX_NAMED else ""
        said.append(f"the sides differ also in {', '.join(found.also[:MAX_NAMED])}{more}")
    if found.num_both:
        return said
    for named, side, kept in zip(hypothesis.sides, found.sides, found.kept, strict=True):
        used = {point.run.name for point in kept}
        reasons = Counter(one.missing or "without a counterpart" for one in side if one.run.name not in used)
        counted = ", ".join(f"{count} {why}" for why, count in reasons.items())
        said += [f"left out of {side_name(named)}: {counted}"] if counted else []
    return said


def size(runs: Sequence[Run]) -> str:
    """The data of runs, and from the least to the most images, epochs, images in a batch and weights."""
    names = {run.train_images: run.choices.get("data", "") for run in runs}
    names |= {run.train_images: run.result["data"].get("name", "") for run in runs if run.result}
    data = " and ".join(f"{name} ({digest[:8]})" if digest else name for digest, name in names.items())
    weights = [run.cost.get("num_parameters") for run in runs]
    parts = [
        (_range([run.result["data"].get("num_train") for run in runs if run.result], "{:,}"), "{} images"),
        (_range([run.cost.get("epochs") for run in runs], "{:,}"), "{} epochs"),
        (_range([run.config.get("batch_size") for run in runs], "{:,}"), "batch {}"),
        (_range([number and number / 1e6 for number in weights], "{:.2g}"), "{} M weights"),
    ]
    return ", ".join([*([data] if data else []), *(form.format(part) for part, form in parts if part)])


def _range(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return " to ".join(dict.fromkeys(form.format(end) for end in (min(known), max(known)))) if known else ""


# --- what is a hypothesis -------------------------------------------------------------------------------------------


def parse(content: object) -> Hypothesis:
    """From plain mappings, lists and values; UserError, in a line, for what is no hypothesis."""
    if not isinstance(content, Mapping):
        raise UserError(f"a hypothesis must have {', '.join(Hypothesis._fields)}, got {content!r}")
    where = f"hypothesis {content.get('claim')!r}"
    try:
        hypothesis = Hypothesis(**content)
    except TypeError as error:  # a key that is missing or unknown
        raise UserError(f"{where}: {error}: expected {', '.join(FORMS)}") from None
    for key, value in hypothesis._asdict().items():
        form, has_form = FORMS[key]
        if not has_form(value):
            raise UserError(f"{where}: {key} must be {form}, got {value!r}")
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


def _are_settings(value: object) -> bool:
    """Names with a value each, or with a list of at least one."""
    if not isinstance(value, Mapping):
        return False
    wanted = [each if isinstance(each, list) else [each] for each in value.values()]
    is_plain = all(one is None or isinstance(one, str | int | float) for several in wanted for one in several)
    return all(map(_is_text, value)) and all(wanted) and is_plain


FORMS = {
    "claim": ("a sentence", _is_text),
    "source": ("a text", _is_text),
    "metric": ("split/quantity, diverged, baseline/NAME, cost/NAME or details/NAME",
               lambda value: value == DIVERGED or _is_metric(value)),
    "minus": ("null or another metric", lambda value: value is None or _is_metric(value)),
    "better": ("lower or higher", lambda value: isinstance(value, str) and value in SIGNS),
    "favours": ("settings or choices with a value or a list of values each", _are_settings),
    "over": ("null, or settings or choices as in favours", lambda value: value is None or _are_settings(value)),
    "margin": ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
}  # fmt: skip
