"""Which runs compare with which, how much better the favoured ones do, and how surely: by seed in a score, by run in
the share that diverged.

The design of a study is found in the settings of its runs. An advantage is positive where the favoured runs are better.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from svhn_vae.report.collect import TRAIN_IMAGES, Run, text_of
from svhn_vae.report.statistics import Estimate, difference_of_shares, estimate, share
from svhn_vae.runs.identity import identity

DIVERGED = "diverged"  # as a metric: 1 or 0 of every run that ended diverged or done
PARTS = {"baseline": "baselines", "cost": "cost", "details": "details"}  # prefix of a metric -> part of result.json
TEST_IMAGES = "data.test_digest"  # a setting like others, that no configuration holds
ROUNDING = 1e-12  # of the largest score: what is less is no difference
MIN_SEEDS = 2
MAX_NAMED = 6  # settings in a line


class Point(NamedTuple):
    """A run and what it measured."""

    run: Run
    settings: dict[str, str]  # its choices and, dotted, all else that decides its result but the seed, as texts
    value: Any  # float, of the metric, or None
    missing: str  # why there is no value


def points(runs: Sequence[Run], metric: str, minus: str | None) -> list[Point]:
    """Every run whose configuration is known, which older runs that did not finish have not kept."""
    return [Point(run, settings(run), *_value(run, metric, minus)) for run in runs if run.config]


def _value(run: Run, metric: str, minus: str | None) -> tuple[float | None, str]:
    """The number, and why there is none."""
    if metric == DIVERGED:
        value = {"diverged": 1.0, "done": 0.0}.get(run.status)
        return value, run.status if value is None else ""
    if not run.result:
        return None, run.status
    values: dict[str, Any] = {name: measured(run, name) for name in (metric, minus) if name}
    absent = [name for name, value in values.items() if value is None]
    if absent:
        return None, f"without {' and '.join(absent)}"
    if not all(map(math.isfinite, values.values())):
        return None, "not finite"
    return values[metric] - (values[minus] if minus else 0.0), ""


def measured(run: Run, metric: str) -> float | None:
    """A number of a finished run by the metric's name; None where it has none."""
    prefix, _, name = metric.partition("/")
    part, name = (PARTS[prefix], name) if prefix in PARTS else ("metrics", metric)
    value = (run.result.get(part) or {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def settings(run: Run) -> dict[str, str]:
    """What decides a run's result but its seed, by dotted name or group, as texts that are equal where values are."""
    images = {TEST_IMAGES: run.test_images, TRAIN_IMAGES: run.train_images}
    decisive = identity(run.settings) | {name: digest for name, digest in images.items() if digest}
    return {name: text_of(name, value) for name, value in decisive.items()}


def fits(point: Point, conditions: Mapping[str, Any]) -> bool:
    """Whether a run has the settings, of which each is a value or a list of values."""
    return all(point.settings.get(name) in _texts(name, wanted) for name, wanted in conditions.items())


def _texts(name: str, wanted: Any) -> list[str]:
    several = wanted if isinstance(wanted, list) else []
    return [text_of(name, wanted), *(text_of(name, value) for value in several)]


def side_name(conditions: Mapping[str, Any]) -> str:
    texts = {name: _texts(name, wanted)[1:] or _texts(name, wanted) for name, wanted in conditions.items()}
    return " ".join(f"{name}={'|'.join(values)}" for name, values in texts.items()) or "all runs"


# --- the design -----------------------------------------------------------------------------------------------------


def claimed(favours: Mapping[str, Any], over: Mapping[str, Any]) -> set[str]:
    """The settings in which the sides differ because the hypothesis says so."""
    every = favours.keys() | over.keys()
    found = {name for name in every if name not in favours or name not in over or favours[name] != over[name]}
    return found | ({TEST_IMAGES, TRAIN_IMAGES} if any(name.startswith("data.") for name in found) else set())


def factors(a: Sequence[Point], b: Sequence[Point], names: Collection[str]) -> list[str]:
    """The fewest settings that tell apart what else was varied on both sides, besides `names`, which make the sides.

    One of which the sides share no value is left out: it follows from the sides, as pca=none from model=conv. So is one
    that the others decide on either side: it follows from them, as a width from a scale. And one of a group whose
    choice makes the sides: it is not the same thing on the other side.
    """
    values = {name: (_values(a, name), _values(b, name)) for name in _others(a, b, names)}
    shared = [name for name, (of_a, of_b) in values.items() if of_a & of_b and len(of_a | of_b) > 1]
    found: list[str] = []
    # Fully crossed ones first. Else in the order of the settings: choices before what they bring.
    for name in sorted(shared, key=lambda name: values[name][0] != values[name][1]):
        if any(_tells(side, found, name) for side in (a, b)):
            found.append(name)
    return found


def _others(a: Sequence[Point], b: Sequence[Point], names: Collection[str]) -> list[str]:
    every = dict.fromkeys(name for point in (*a, *b) for name in point.settings)
    return [name for name in every if name not in names and name.partition(".")[0] not in names]


def _values(side: Sequence[Point], name: str) -> set[str]:
    """Without that of runs which have no such setting."""
    return {point.settings[name] for point in side if name in point.settings}


def _tells(side: Sequence[Point], names: Sequence[str], name: str) -> bool:
    """Whether runs that `names` do not tell apart differ in `name`."""
    return len({cell(point, [*names, name]) for point in side}) > len({cell(point, names) for point in side})


def cell(point: Point, names: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(point.settings.get(name) for name in names)


def label(point: Point, names: Sequence[str]) -> str:
    return " ".join(f"{name}={point.settings.get(name, 'none')}" for name in names)


def by_place(side: Iterable[Point], place: Callable[[Point], Hashable]) -> dict[Any, list[Point]]:
    groups: dict[Any, list[Point]] = {}
    for point in side:
        groups.setdefault(place(point), []).append(point)
    return groups


def differing(a: Sequence[Point], b: Sequence[Point], keys: Sequence[str], names: Collection[str]) -> list[str]:
    """In what runs that were matched on `keys` differ besides `names`: it follows from the sides, or confounds them.

    A setting of a group is not named where the group's choice is.
    """
    mine, theirs = (by_place(side, lambda point: cell(point, keys)) for side in (a, b))
    pairs = [(mine[place], theirs[place]) for place in mine.keys() & theirs.keys()]
    every = [name for name in _others(a, b, names) if name not in keys]
    found = [name for name in every if any(_values(one, name) != _values(two, name) for one, two in pairs)]
    return sorted(name for name in found if name.partition(".")[0] not in {*found} - {name})


# --- the advantage --------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """What is to be compared: runs whether they have ended or not."""

    metric: str
    sign: int  # 1 where higher is better, -1 where lower is
    margin: float
    sides: list[tuple[str, list[Point]]]  # name and runs: the favoured ones, and the others if there are to be any
    names: set[str]  # the settings that make the sides

    @property
    def on_both_sides(self) -> set[str]:
        """Runs that would be compared with themselves."""
        names = [{point.run.name for point in side} for _, side in self.sides]
        return names[0] & names[1] if len(names) > 1 else set()


class Advantage(NamedTuple):
    """What is known, and the runs that it is known from."""

    effect: Estimate | None  # None: no run compares; its interval is NaN of one seed
    num_seeds: int
    sides: list[list[Point]]  # the runs compared
    keys: list[str]  # the settings on which the sides were matched, or in which the only side varies


def advantage(trial: Trial) -> Advantage:
    """Of scores, runs of the same seed and the same other settings are compared, and the mean difference of each seed
    is one value: a seed's runs share noise and images, so they are no independent values, however many settings there
    are. Of runs that diverged, the shares are compared, pooled over the settings that both sides were run at."""
    sides, is_share = [side for _, side in trial.sides], trial.metric == DIVERGED
    if trial.on_both_sides:
        return Advantage(None, 0, [[] for _ in sides], [])
    keys = factors(sides[0], sides[-1], trial.names if len(sides) > 1 else ())
    groups = [
        by_place((one for one in side if one.value is not None),
                 lambda one: cell(one, keys) if is_share else (one.run.seed, *cell(one, keys)))
        for side in sides
    ]  # fmt: skip
    places = [place for place in groups[0] if place in groups[-1]]
    kept = [[one for place in places for one in group[place]] for group in groups]
    if not places:
        return Advantage(None, 0, kept, keys)
    if is_share:
        effect, num_seeds = _in_shares(kept), min(len({one.run.seed for one in side}) for side in kept)
    else:
        effect = _in_scores([[(place[0], _mean(group[place])) for place in places] for group in groups])
        num_seeds = effect.num
    mean, low, high, *rest = effect
    return Advantage(effect if trial.sign > 0 else Estimate(-mean, -high, -low, *rest), num_seeds, kept, keys)  # pyright: ignore[reportArgumentType]


def _mean(group: Sequence[Point]) -> float:
    return statistics.fmean(one.value for one in group)


def _in_shares(kept: Sequence[Sequence[Point]]) -> Estimate:
    shares = [share(int(sum(one.value for one in side)), len(side)) for side in kept]
    return difference_of_shares(*shares) if len(shares) > 1 else shares[0]


def _in_scores(sides: Sequence[Sequence[tuple[int, float]]]) -> Estimate:
    """Student's t over the means of the seeds, from (seed, value) of every place of both sides, or of the only one.

    Where all seeds agree, t would be infinite and its p value 0, of two seeds as of twenty. The value is then taken as
    it is, without a p value: it does not depend on the seed, or is too coarse to.
    """
    scale = max(abs(value) for side in sides for _, value in side)
    by_seed: dict[int, list[float]] = {}
    for place, (seed, value) in enumerate(sides[0]):
        by_seed.setdefault(seed, []).append(value - sides[1][place][1] if len(sides) > 1 else value)
    means = [statistics.fmean(group) for group in by_seed.values()]
    if len(means) > 1 and max(means) - min(means) <= ROUNDING * scale:
        mean = means[0] if abs(means[0]) > ROUNDING * scale else 0.0
        return Estimate(mean, mean, mean, math.nan, len(means))
    return estimate(means)


# --- in words -------------------------------------------------------------------------------------------------------


def why_undecided(trial: Trial, found: Advantage) -> str:
    """Empty where the runs decide."""
    for name, side in trial.sides:
        if all(point.value is None for point in side):
            return f"no run of {name} has the metric" if side else f"no run has {name}"
    if both := trial.on_both_sides:
        return f"{_number(len(both), 'run')} on both sides: favours and over must tell them apart"
    effect, margin = found.effect, trial.margin
    if effect is None:
        return f"no run has a counterpart of the same {', '.join(['seed', *found.keys])}"
    if found.num_seeds < MIN_SEEDS:
        return f"{_number(found.num_seeds, 'seed')}: at least {MIN_SEEDS} are needed"
    if effect.low == effect.high:
        return "the effect is the margin" if math.isclose(effect.mean, margin, rel_tol=1e-9) else ""
    return f"the interval holds the margin {margin:g}" if effect.low <= margin <= effect.high else ""


def method(trial: Trial, found: Advantage) -> list[str]:
    """How it was tested, and what weakens it."""
    if found.effect is None:
        return []
    has_pairs = len(found.sides) > 1
    also = differing(*found.sides, found.keys, trial.names) if has_pairs else []  # pyright: ignore[reportCallIssue]
    confounded = [f"the sides differ also in {_few(also)}"] if also else []
    if trial.metric == DIVERGED:
        shares = [_share(name, side) for (name, _), side in zip(trial.sides, found.sides, strict=True)]
        kind = "Newcombe's interval of the difference" if has_pairs else "Wilson's interval"
        return [*shares, f"{kind}, the runs taken as independent", *_uneven_shares(found), *confounded]
    how = [f"paired by {' and '.join(['seed', *found.keys])}"] if has_pairs else []
    if found.effect.low == found.effect.high:
        how.append(f"alike with all {found.num_seeds} seeds, which leaves no spread to test: the value alone decides")
    elif found.num_seeds > 1:
        how.append(f"t over {found.num_seeds} seeds")
    return [", ".join(how), *confounded] if how else []


def _uneven_shares(found: Advantage) -> list[str]:
    """What one side has more of weighs more in its share."""
    times = [Counter(cell(point, found.keys) for point in side) for side in found.sides]
    ratios = {Fraction(times[0][place], times[-1][place]) for place in times[0]}
    return ["not as many runs of both sides at every setting"] if len(ratios) > 1 else []


def left_out(trial: Trial, found: Advantage, num_unknown: int) -> list[str]:
    """Every run that is not in the effect and might be, and why; `num_unknown` have settings that are not known."""
    if trial.on_both_sides:
        return []
    lines = []
    for (name, side), compared in zip(trial.sides, found.sides, strict=True):
        used, keys = {point.run.name for point in compared}, factors(side, side, ())
        rest = [point for point in side if point.run.name not in used]
        reasons = by_place(rest, lambda point: point.missing or "without a counterpart")
        counted = [f"{len(group)} {why} ({_where(group, keys)})" for why, group in reasons.items()]
        lines += [f"left out of {name}: {', '.join(counted)}"] if counted else []
    return lines + ([f"{_number(num_unknown, 'unfinished run')} of unknown settings"] if num_unknown else [])


def _where(group: Sequence[Point], keys: Sequence[str]) -> str:
    """At which settings, or with which seeds."""
    if not keys:
        return f"seed {_few([str(seed) for seed in sorted({point.run.seed for point in group})])}"
    return _few([f"{name}: {count}" for name, count in Counter(label(point, keys) for point in group).items()])


def _share(name: str, side: Sequence[Point]) -> str:
    """With the settings at which runs diverged."""
    keys = factors(side, side, ())
    runs, diverged = (Counter(label(one, keys) for one in side if one.value >= least) for least in (0, 1))
    where = [f"{setting}: {count} of {runs[setting]}" for setting, count in diverged.items()] if keys else []
    return f"{name}: {diverged.total()} of {len(side)} diverged" + (f" ({_few(where)})" if where else "")


def _few(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _number(count: int, of: str) -> str:
    return f"{count} {of}{'s' * (count != 1)}"


def size(runs: Sequence[Run]) -> str:
    """The data of runs, and from the least to the most images, epochs, images in a batch and weights."""
    names = {run.train_images: run.choices.get("data", "") for run in runs}
    names |= {run.train_images: run.result["data"].get("name", "") for run in runs if run.result}
    data = [f"{name} ({digest[:8]})" if digest else name for digest, name in names.items()]
    images = [run.result["data"].get("num_train") for run in runs if run.result]
    epochs = [run.cost.get("epochs", run.config.get("trainer", {}).get("max_epochs")) for run in runs]
    weights = [run.cost.get("num_parameters") for run in runs]
    parts = [
        (" and ".join(data), "{}"),
        (_range(images, "{:,}"), "{} images"),
        (_range(epochs, "{:,}"), "{} epochs"),
        (_range([run.config.get("batch_size") for run in runs], "{:,}"), "batch {}"),
        (_range([number and number / 1e6 for number in weights], "{:.2g}"), "{} M weights"),
    ]
    return ", ".join(form.format(part) for part, form in parts if part)


def _range(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    ends = [form.format(end) for end in (min(known), max(known))] if known else []
    return " to ".join(dict.fromkeys(ends))
