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

Runs compare that have the same seed and are alike in all but what makes the sides: the design of a study is found in
the settings of its runs.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.errors import UserError, counted
from svhn_vae.report.collect import TRAIN_IMAGES, Run, text_of
from svhn_vae.report.statistics import Estimate, contrast, difference_of_shares, estimate, share

DIVERGED = "diverged"  # as a metric: 1 or 0 of every run that ended diverged or done
PARTS = {"baseline": "baselines", "cost": "cost", "details": "details"}  # prefix of a metric -> part of result.json
TEST_IMAGES = "data.test_digest"  # a setting like others, that no configuration holds
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

    @property
    def side_names(self) -> list[str]:
        return [" ".join(f"{name}={'|'.join(texts_of(name, wanted))}" for name, wanted in side.items()) or "all runs"
                for side in self.sides]  # fmt: skip

    @property
    def quantity(self) -> str:
        return self.metric + (f" - {self.minus}" if self.minus else "")


class Point(NamedTuple):
    run: Run
    settings: dict[str, str]  # its choices and, dotted, all else that decides its result but the seed, as texts
    variant: frozenset[tuple[str, str]]  # the same
    value: Any  # float, of the metric, or None
    missing: str  # why there is no value


class Verdict(NamedTuple):
    asked: Hypothesis  # of what is none, only the claim
    verdict: str  # supported, refuted, undecided, not run
    reason: str  # why it is undecided, how it was tested, what was left out
    effect: Estimate | None = None  # how much better the favoured runs do, in the metric's units
    num_seeds: int = 0
    kept: Sequence[Sequence[Point]] = ()  # by side, the runs compared

    @property
    def size(self) -> str:
        """The data of the runs compared, and from the least to the most images, epochs, images in a batch, weights."""
        runs = [one.run for side in self.kept for one in side]
        names = {run.train_images: run.choices.get("data", "") for run in runs}
        names |= {run.train_images: run.result["data"].get("name", "") for run in runs if run.result}
        data = " and ".join(f"{name} ({digest[:8]})" if digest else name for digest, name in names.items())
        ranges = {
            "{} image{s}": _range([run.result["data"].get("num_train") for run in runs if run.result], 1, ","),
            "{} epoch{s}": _range([run.cost.get("epochs") for run in runs], 1, ","),
            "batch {}": _range([run.config.get("batch_size") for run in runs], 1, ","),
            "{} M weights": _range([run.cost.get("num_parameters") for run in runs], 1e6, ".2g"),
        }
        said = (form.format(given, s="" if given == "1" else "s") for form, given in ranges.items() if given)
        return ", ".join(filter(None, [data, *said]))

    @property
    def effect_text(self) -> str:
        """With its interval, to two figures of that; empty where there is none."""
        if self.effect is None:
            return ""
        mean, low, high, _ = self.effect
        reach = (high - low) / 2
        if not reach > 0:  # of one seed there is none, or all seeds agree
            return f"{mean:+.4g}" + (" (1 seed)" if math.isnan(reach) else " (with every seed)")
        decimals = max(0, 1 - math.floor(math.log10(reach)))
        return "{:+z,.{d}f} [{:+z,.{d}f}, {:+z,.{d}f}]".format(mean, low, high, d=decimals)


def _range(values: Sequence[float | None], unit: float, form: str) -> str:
    known = [value for value in values if value is not None]
    ends = (min(known), max(known)) if known else ()
    return " to ".join(dict.fromkeys(format(end if unit == 1 else end / unit, form) for end in ends))


def verdict_of(study: Path, runs: Sequence[Run], content: object) -> Verdict:
    """What is no hypothesis is undecided, and its reason says what is wrong with it."""
    try:
        hypothesis = parse(content)
    except UserError as error:
        claim = str(content.get("claim") if isinstance(content, Mapping) else content)
        return Verdict(Hypothesis(claim, "", "", "", {}, None), "undecided", str(error))
    if not runs:
        return Verdict(hypothesis, "undecided", f"{study} holds no runs")
    tried = points(runs, hypothesis.metric, hypothesis.minus)
    found = compared(hypothesis, tried)
    effect, how = _effect(hypothesis, tried, found) if found.by_seed else (None, "")
    why = _why_undecided(hypothesis, found, effect)
    is_supported = effect is not None and effect.low > hypothesis.margin
    unknown = len(runs) - len(tried)
    said = [why, *_how(hypothesis, found, how), f"{unknown} unfinished of unknown settings" if unknown else ""]
    answer = "undecided" if why else "supported" if is_supported else "refuted"
    return Verdict(hypothesis, answer, "; ".join(filter(None, said)), effect, len(found.by_seed), found.kept)


# --- what compares with what ----------------------------------------------------------------------------------------


def points(runs: Sequence[Run], metric: str, minus: str | None) -> list[Point]:
    """Every run whose configuration is known, which older runs that did not finish have not kept.

    A variant of which a seed diverged has no score: the seeds that survived are a choice by their result.
    """
    found = []
    for run in (run for run in runs if run.config):
        images = {TEST_IMAGES: run.test_images, TRAIN_IMAGES: run.train_images}
        settings = run.texts | {name: digest for name, digest in images.items() if digest}
        found.append(Point(run, settings, frozenset(settings.items()), *_value(run, metric, minus)))
    cut = {one.variant for one in found if one.run.status == DIVERGED} if metric != DIVERGED else set()
    survived = {"value": None, "missing": "of a variant of which a seed diverged"}
    return [one._replace(**survived) if one.value is not None and one.variant in cut else one for one in found]


def _value(run: Run, metric: str, minus: str | None) -> tuple[float | None, str]:
    """The number, and why there is none."""
    if metric == DIVERGED:
        value = {DIVERGED: 1.0, "done": 0.0}.get(run.status)
        return value, run.status if value is None else ""
    values = {}
    for name in filter(None, (metric, minus)):
        prefix, _, key = name.partition("/")
        values[name] = run.number(PARTS[prefix], key) if prefix in PARTS else run.number("metrics", name)
    absent = [name for name, value in values.items() if not math.isfinite(value)]
    if absent:
        return None, f"without {' and '.join(absent)}" if run.result else run.status
    return values[metric] - (values[minus] if minus else 0.0), ""


def _fits(point: Point, conditions: Mapping[str, Any]) -> bool:
    """Whether a run has the settings, of which each is a value or a list of values."""
    return all(
        point.settings.get(name) in (text_of(name, wanted), *texts_of(name, wanted))
        for name, wanted in conditions.items()
    )


def texts_of(name: str, wanted: Any) -> list[str]:
    return [text_of(name, value) for value in (wanted if isinstance(wanted, list) else [wanted])]


class Compared(NamedTuple):
    """The runs on the sides of a hypothesis, one side or two, and what of them compares."""

    sides: list[list[Point]]
    keys: list[str]  # what else was varied on both sides: a run compares with those of the same keys and seed
    kept: list[list[Point]]  # of each side, the runs that have a counterpart
    by_seed: list[float]  # the mean difference of each seed; of one side, its mean
    also: list[str]  # in what else the sides differ
    num_both: int  # runs on both sides, with which nothing compares


def compared(hypothesis: Hypothesis, tried: Sequence[Point]) -> Compared:
    sides, claimed, num_both = [[one for one in tried if _fits(one, side)] for side in hypothesis.sides], set(), 0
    a, b = sides[0], sides[-1]
    if hypothesis.over is not None:  # the settings in which the sides differ because the hypothesis says so
        favours, over = (
            {(name, *texts_of(name, wanted)) for name, wanted in side.items()} for side in hypothesis.sides
        )
        claimed = {name for name, *_ in favours ^ over}
        claimed |= {TEST_IMAGES, TRAIN_IMAGES} if any(name.startswith("data.") for name in claimed) else set()
        num_both = len({one.run.name for one in a} & {one.run.name for one in b})
    every = dict.fromkeys(name for one in (*a, *b) for name in one.settings)
    others = [name for name in every if name not in claimed and name.partition(".")[0] not in claimed]
    keys = factors(a, b, others)
    kept, by_seed = matched([[] for _ in sides] if num_both else sides, keys)
    also = differing(kept[0], kept[-1], keys, [name for name in others if name not in keys])
    return Compared(sides, keys, kept, by_seed, also, num_both)


def factors(a: Sequence[Point], b: Sequence[Point], names: Sequence[str]) -> list[str]:
    """The fewest of the settings, which do not make the sides, that tell apart what else was varied on both sides.

    One of which the sides share no value is left out: it follows from the sides, as pca=none from model=conv. So is one
    that the others decide on either side: it follows from them, as a width from a scale. And one of a group whose
    choice makes the sides: it is not the same thing on the other side.
    """
    values = {name: (_values(a, name), _values(b, name)) for name in names}
    shared = [name for name, (of_a, of_b) in values.items() if of_a & of_b and len(of_a | of_b) > 1]
    found: list[str] = []
    # Fully crossed ones first. Else in the order of the settings: choices before what they bring.
    for name in sorted(shared, key=lambda name: values[name][0] != values[name][1]):
        if any(len(by_place(side, [*found, name])) > len(by_place(side, found)) for side in (a, b)):
            found.append(name)
    return found


def differing(a: Sequence[Point], b: Sequence[Point], keys: Sequence[str], names: Sequence[str]) -> list[str]:
    """In which of the settings runs differ that were matched on `keys`: it follows from the sides, or confounds them.

    A setting of a group is not named where the group's choice is.
    """
    mine, theirs = by_place(a, keys), by_place(b, keys)
    pairs = [(mine[place], theirs[place]) for place in mine.keys() & theirs.keys()]
    found = [name for name in names if any(_values(one, name) != _values(two, name) for one, two in pairs)]
    return sorted(name for name in found if name.partition(".")[0] not in {*found} - {name})


def _values(side: Sequence[Point], name: str) -> set[str]:
    return {point.settings[name] for point in side if name in point.settings}


def by_place(side: Iterable[Point], names: Sequence[str]) -> dict[tuple, list[Point]]:
    return grouped(side, lambda point: tuple(map(point.settings.get, names)))


def grouped(side: Iterable[Point], place: Callable[[Point], Hashable]) -> dict[Any, list[Point]]:
    groups: dict[Any, list[Point]] = {}
    for point in side:
        groups.setdefault(place(point), []).append(point)
    return groups


def matched(sides: Sequence[Sequence[Point]], keys: Sequence[str]) -> tuple[list[list[Point]], list[float]]:
    """The runs that have a counterpart of the same seed and `keys`, and of each seed the mean difference."""
    having = [[one for one in side if one.value is not None] for side in sides]
    groups = [grouped(side, lambda one: (one.run.seed, *map(one.settings.get, keys))) for side in having]
    places = [place for place in groups[0] if place in groups[-1]]
    by_seed: dict[int, list[float]] = {}
    for place in places:
        first, *second = (statistics.fmean(one.value for one in group[place]) for group in groups)
        by_seed.setdefault(place[0], []).append(first - sum(second))
    kept = [[one for place in places for one in group[place]] for group in groups]
    return kept, [statistics.fmean(of) for of in by_seed.values()]


# --- the effect -----------------------------------------------------------------------------------------------------


def _effect(hypothesis: Hypothesis, tried: Sequence[Point], found: Compared) -> tuple[Estimate, str]:
    """Scores by the ranking's model of variants and seeds, or against 0 by Student's t; shares of runs that diverged.

    Where all seeds agree, an error of 0 would decide with two seeds as with twenty. The value is then taken as it is:
    it does not depend on the seed, or is too coarse to.
    """
    by_seed, num = found.by_seed, len(found.by_seed)
    scale = max(abs(one.value) for side in found.kept for one in side)
    if hypothesis.metric == DIVERGED:
        effect, how = _of_shares(hypothesis, found.kept)
    elif num > 1 and max(by_seed) - min(by_seed) <= ROUNDING * scale:
        mean = by_seed[0] if abs(by_seed[0]) > ROUNDING * scale else 0.0
        how = f"alike with all {num} seeds, which leaves no spread to test: the value alone decides"
        effect = Estimate(mean, mean, mean, num)
    elif hypothesis.over is None:
        effect, how = estimate(by_seed), f"t over {num} seeds"
    else:
        effect, how = _of_variants(tried, found)
    mean, low, high, *rest = effect
    return (effect if SIGNS[hypothesis.better] > 0 else Estimate(-mean, -high, -low, *rest)), how


def _of_shares(hypothesis: Hypothesis, kept: Sequence[Sequence[Point]]) -> tuple[Estimate, str]:
    counts = [(int(sum(one.value for one in side)), len(side)) for side in kept]
    shares = [share(*count) for count in counts]
    said = [
        f"{name}: {count} of {num} diverged" for name, (count, num) in zip(hypothesis.side_names, counts, strict=True)
    ]
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
    used, seeds = {one.variant for side in found.kept for one in side}, {seed for of in scores for seed in of}
    rest = grouped((one for one in tried if one.value is not None and one.variant not in used), lambda one: one.variant)
    others = [{one.run.seed: one.value for one in variant if one.run.seed in seeds} for variant in rest.values()]
    return contrast(weights, scores, [one for one in others if one.keys() == seeds])


# --- in words -------------------------------------------------------------------------------------------------------


def _why_undecided(hypothesis: Hypothesis, found: Compared, effect: Estimate | None) -> str:
    for name, side in zip(hypothesis.side_names, found.sides, strict=True):
        if all(point.value is None for point in side):
            return f"no run of {name} has the metric" if side else f"no run has {name}"
    if found.num_both:
        return f"{counted(found.num_both, 'run')} on both sides: favours and over must tell them apart"
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
    said = [how]
    if hypothesis.over is not None and found.by_seed:
        said = [f"matched by {' and '.join(['seed', *found.keys])}", how]
    if found.also:
        more = f" and {len(found.also) - MAX_NAMED} more" if len(found.also) > MAX_NAMED else ""
        said.append(f"the sides differ also in {', '.join(found.also[:MAX_NAMED])}{more}")
    if found.num_both:
        return said
    for name, side, kept in zip(hypothesis.side_names, found.sides, found.kept, strict=True):
        used = {point.run.name for point in kept}
        reasons = Counter(one.missing or "without a counterpart" for one in side if one.run.name not in used)
        told = ", ".join(f"{count} {why}" for why, count in reasons.items())
        said += [f"left out of {name}: {told}"] if told else []
    return said


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
    for key, (form, has_form) in FORMS.items():
        if not has_form(value := getattr(hypothesis, key)):
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
