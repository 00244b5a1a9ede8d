"""A verdict's reasons in words: why there is none, how it was found, what it leaves out, and the size of its runs."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from svhn_vae.report.advantage import Advantage, Trial
from svhn_vae.report.collect import Run
from svhn_vae.report.matching import DIVERGED, Point, cell, differing, factors, label
from svhn_vae.report.statistics import Estimate

MIN_SEEDS = 2
MAX_NAMED = 6  # settings in a line


def why_undecided(trial: Trial, found: Advantage) -> list[str]:
    """In a line; [] where the runs decide."""
    for name, side in trial.sides:
        if not side:
            return [f"no run has {name}"]
        if all(point.value is None for point in side):
            return [f"no run of {name} has the metric"]
    if both := trial.on_both_sides:
        return [f"{_number(len(both), 'run')} on both sides: favours and over must tell them apart"]
    if found.effect is None:
        keys = "".join(f", {key}" for key in found.keys)
        return [f"no run has a counterpart of the same seed{keys}"]
    if found.num_seeds < MIN_SEEDS:
        return [f"{_number(found.num_seeds, 'seed')}: at least {MIN_SEEDS} are needed"]
    return _why_unclear(found.effect, trial.margin)


def _why_unclear(effect: Estimate, margin: float) -> list[str]:
    if effect.low == effect.high:
        return ["the effect is the margin"] if math.isclose(effect.mean, margin, rel_tol=1e-9) else []
    return [f"the interval holds the margin {margin:g}"] if effect.low <= margin <= effect.high else []


def method(trial: Trial, found: Advantage) -> list[str]:
    """How it was tested, and what weakens it."""
    if found.effect is None:
        return []
    if trial.metric == DIVERGED:
        shares = [_share(name, side) for (name, _), side in zip(trial.sides, found.sides, strict=True)]
        kind = "Newcombe's interval of the difference" if len(shares) > 1 else "Wilson's interval"
        return [*shares, f"{kind}, the runs taken as independent", *_uneven_shares(found), *_confounded(trial, found)]
    how = [f"paired by {' and '.join(['seed', *found.keys])}"] if len(found.sides) > 1 else []
    if found.effect.low == found.effect.high:
        how.append(f"alike with all {found.num_seeds} seeds, which leaves no spread to test: the value alone decides")
    elif found.num_seeds > 1:
        how.append(f"t over {found.num_seeds} seeds")
    return [", ".join(how), *_uneven(found), *_confounded(trial, found)] if how else _uneven(found)


def _uneven_shares(found: Advantage) -> list[str]:
    """What one side has more of weighs more in its share."""
    times = [Counter(cell(point, found.keys) for point in side) for side in found.sides]
    ratios = {Fraction(times[0][place], times[-1][place]) for place in times[0]}
    return ["not as many runs of both sides at every setting"] if len(ratios) > 1 else []


def _uneven(found: Advantage) -> list[str]:
    cells: dict[int, set] = {}
    for point in found.sides[0]:
        cells.setdefault(point.run.seed, set()).add(cell(point, found.keys))
    return ["not every seed has every setting"] if len(set(map(frozenset, cells.values()))) > 1 else []


def _confounded(trial: Trial, found: Advantage) -> list[str]:
    if len(found.sides) == 1:
        return []
    also = differing(*found.sides, found.keys, trial.names)
    return [f"the sides differ also in {_few(also)}"] if also else []


def left_out(trial: Trial, found: Advantage, num_unknown: int) -> list[str]:
    """Every run that is not in the effect and might be, and why; `num_unknown` have settings that are not known."""
    lines = []
    if trial.on_both_sides:
        return lines
    for (name, side), compared in zip(trial.sides, found.sides, strict=True):
        used = {point.run.name for point in compared}
        if rest := [point for point in side if point.run.name not in used]:
            lines.append(f"left out of {name}: {_counted(rest, side)}")
    return lines + ([f"{_number(num_unknown, 'unfinished run')} of unknown settings"] if num_unknown else [])


def _counted(left: Sequence[Point], side: Sequence[Point]) -> str:
    """How many runs lack what, and at which of the side's settings, or with which seeds."""
    keys = factors(side, side, ())
    groups: dict[str, list[Point]] = {}
    for point in left:
        groups.setdefault(point.missing or "without a counterpart", []).append(point)
    return ", ".join(f"{len(group)} {why} ({_where(group, keys)})" for why, group in groups.items())


def _where(group: Sequence[Point], keys: Sequence[str]) -> str:
    if not keys:
        return f"seed {_few([str(seed) for seed in sorted({point.run.seed for point in group})])}"
    times = Counter(label(point, keys) for point in group)
    return _few([f"{name}: {count}" for name, count in times.items()])


def _share(name: str, side: Sequence[Point]) -> str:
    """With the settings at which runs diverged."""
    keys = factors(side, side, ())
    runs = Counter(label(point, keys) for point in side)
    diverged = Counter(label(point, keys) for point in side if point.value)
    where = [f"{setting}: {count} of {runs[setting]}" for setting, count in diverged.items()] if keys else []
    return f"{name}: {diverged.total()} of {len(side)} diverged" + (f" ({_few(where)})" if where else "")


def _few(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _number(count: int, of: str) -> str:
    return f"{count} {of}{'s' * (count != 1)}"


# --- size -----------------------------------------------------------------------------------------------------------


def size(runs: Sequence[Run]) -> str:
    """The data of runs, and from the least to the most images, epochs, images in a batch and weights."""
    names = {run.digest: run.choices.get("data", "") for run in runs}
    names |= {run.digest: run.result["data"]["name"] for run in runs if run.result}
    data = [f"{name} ({digest[:8]})" if digest else name for digest, name in names.items()]
    images = [run.result["data"]["num_train"] for run in runs if run.result]
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
