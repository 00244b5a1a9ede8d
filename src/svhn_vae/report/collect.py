"""The runs of a study, from their folders, and which settings tell them apart. Needs neither torch nor lightning.

Settings are flat: a config group or a dotted key -> a value. A variant is all runs that differ in their seed alone.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import COUNT_OR_FRACTION, identity, is_decisive

METRIC, FRECHET = "test/bits_per_dim", "samples/frechet"
PARTS = {"seed": int, "data": dict, "metrics": dict, "config": dict, "choices": dict, "cost": dict}  # of result.json
PRESETS = ("trainer", "experiment")  # their choices set values of other groups
TRAIN_IMAGES = "data.train_digest"  # a setting like others, where no configuration tells the training images apart


class Run(NamedTuple):
    """What its result tells, or status.json before there is one: older runs note less of themselves there."""

    name: str
    status: str
    reason: str  # why it diverged or failed, or which of its files is damaged
    result: Mapping[str, Any]  # {} unless done
    facts: Mapping[str, Any]  # status.json
    config: Mapping[str, Any]  # resolved; {} where it is not known
    choices: Mapping[str, str]
    cost: Mapping[str, Any]  # {} of a run whose training has not ended
    commit: str  # empty where it was not noted
    seed: Any  # int; None of a run that has not noted it
    test_images: str | None  # their digest; of older runs that of all images; None where none had been read
    train_images: str | None
    settings: dict[str, Any]  # choices, and by dotted key every value that decides the result, but for the seed

    @property
    def texts(self) -> dict[str, str]:
        """The settings in one spelling, so that equal ones are equal texts; {} where the configuration is not known."""
        return {key: text_of(key, value) for key, value in self.settings.items()} if self.config else {}

    def number(self, part: str, name: str) -> float:
        """Of a part of result.json; NaN where there is none."""
        value = (self.result.get(part) or {}).get(name)
        return float(value) if isinstance(value, int | float) else math.nan


def run_of(name: str, status: str, reason: str, result: Mapping[str, Any], facts: Mapping[str, Any]) -> Run:
    """From the contents of its two files."""
    noted = result or facts
    images, all_images = (result["data"], result["data"].get("digest")) if result else (facts, facts.get("data"))
    config, choices = noted.get("config", {}), noted.get("choices", {})
    chosen = {group: choice for group, choice in choices.items() if is_decisive(group)}
    return Run(
        *(name, status, reason, result, facts, config, choices),
        cost=noted.get("cost", {}),
        commit=noted.get("commit") or "",
        seed=config.get("seed"),
        test_images=images.get("test_digest") or all_images,
        train_images=images.get("train_digest") or all_images,
        settings=chosen | {key: value for key, value in identity(config).items() if key != "seed"},
    )


def read_runs(study: Path) -> list[Run]:
    """Every run of a study, whatever its status, by name; runs set aside by a rerun are left out."""
    folders = sorted(path.parent for path in study.glob("*/status.json") if ".previous" not in path.parent.name)
    return [_read(RunFolder(folder)) for folder in folders]


def _read(folder: RunFolder) -> Run:
    facts, reason = folder.facts, folder.damage
    status = facts.get("status", "new")
    result = folder.result if status == "done" else {}
    if result and not all(isinstance(result.get(part), kind) for part, kind in PARTS.items()):
        result, reason = {}, f"result.json is damaged: expected {', '.join(PARTS)}"
    if not (result and "started" not in facts):  # a status that was read from the result has no reason
        reason = facts.get("reason") or ("" if result else reason)
    return run_of(folder.path.name, "failed" if status == "done" and not result else status, reason, result, facts)


def by_test_images(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their test images: figures on other images do not compare, so each set of them has a table of its own.

    A run that has not finished goes to its images where they are known, and to the only ones where it had read none.
    """
    titles: dict[str | None, str] = {}
    for run in (run for run in runs if run.result):
        data = run.result["data"]
        num, kind = data.get("num_test"), "synthetic" if data.get("synthetic") else data.get("name", "unknown")
        counted = f"{num:,}" if isinstance(num, int) else "unknown"
        title = f"{kind} data, {counted} test images ({run.test_images})"
        titles |= dict.fromkeys((run.test_images, data.get("digest")), title)
    groups: dict[str, list[Run]] = {title: [] for title in titles.values()}
    only = next(iter(groups)) if len(groups) == 1 else "unknown images: these runs ended before they had read any"
    for run in runs:
        title = titles.get(run.test_images, f"test images {run.test_images}" if run.test_images else only)
        groups.setdefault(title, []).append(run)
    return groups


class Variant(NamedTuple):
    """Runs that differ in their seed alone."""

    label: str
    runs: list[Run]  # the finished ones, in the order of their seeds
    unfinished: list[Run]  # all others: diverged, failed, interrupted, running
    settings: Mapping[str, str]  # as texts; {} where they were not noted

    def scores(self, metric: str = METRIC, part: str = "metrics") -> dict[int, float]:
        """Seed -> a number of result.json, of the runs that have a finite one."""
        found = {run.seed: run.number(part, metric) for run in self.runs}
        return {seed: score for seed, score in found.items() if math.isfinite(score)}

    def mean(self, metric: str = METRIC, part: str = "metrics") -> float:
        """Over seeds; NaN where there is none."""
        scores = self.scores(metric, part).values()
        return statistics.fmean(scores) if scores else math.nan

    @property
    def num_diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.unfinished)

    @property
    def choices(self) -> Mapping[str, str]:
        return (self.runs or self.unfinished)[0].choices


def variants(runs: Sequence[Run]) -> list[Variant]:
    """Runs by configuration and training images, each group under a label that tells it from the others, for instance
    `variance=logvar pca.whiten=true`. A run whose configuration is not known stands alone, under its name."""
    settings, groups = _settings(runs), {}
    for run in runs:
        groups.setdefault(frozenset(settings[run.name].items()) or run.name, []).append(run)
    firsts = [group[0] for group in groups.values() if settings[group[0].name]]
    chosen = list(dict.fromkeys(group for run in firsts for group in run.choices))
    labels = {}
    for run, told in zip(firsts, telling([settings[run.name] for run in firsts], chosen), strict=True):
        short = {key: text for key, text in told.items() if key not in PRESETS or text != "none"} or told
        text = " ".join(f"{key}={text}" for key, text in short.items())
        labels[run.name] = text or run.name.rpartition("-seed")[0] or run.name
    return [
        Variant(
            labels.get(first.name, first.name),
            sorted((run for run in (first, *others) if run.result), key=lambda run: run.seed),
            [run for run in (first, *others) if not run.result],
            settings[first.name],
        )
        for first, *others in groups.values()
    ]


def _settings(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Of each run by its name, with the training images where no setting tells them apart."""
    images: dict[object, list[str]] = {}  # settings -> digests, those of the first run first
    for run in runs:
        images.setdefault(frozenset(run.texts.items()), []).extend([run.train_images] if run.train_images else [])
    found = {}
    for run in runs:
        seen = images[frozenset(run.texts.items())]
        is_told = len(set(seen)) < 2 or not run.texts
        found[run.name] = run.texts | ({} if is_told else {TRAIN_IMAGES: (run.train_images or seen[0])[:8]})
    return found


# --- settings -------------------------------------------------------------------------------------------------------


def text_of(key: str, value: object) -> str:
    """As in YAML; 1.0 is 1, because a setting may be written both ways, unless they are one image and all of them."""
    if isinstance(value, str):
        return value
    whole = isinstance(value, float) and value.is_integer() and key not in COUNT_OR_FRACTION
    return json.dumps(int(value) if whole else value, default=str)  # pyright: ignore[reportArgumentType]


def differing(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which the settings of runs are not all alike, lacking a key being a difference, too."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def telling(runs: Sequence[Mapping[str, str]], groups: Sequence[str]) -> list[dict[str, str]]:
    """Of each run's settings, the least that tells it from the others; `groups` are the keys that are choices of files.

    A choice is named where the runs differ in it; a value only where runs of the same choices differ in it, because
    otherwise it follows from the choice.
    """
    values = [{**dict.fromkeys(groups, "none"), **run} for run in runs]  # of a group not chosen from
    found: list[dict[str, str]] = [{} for _ in runs]
    for key in dict.fromkeys(key for run in values for key in run):
        alike: dict[tuple, set[str | None]] = {}
        for run in values:
            alike.setdefault(_governing(key, run), set()).add(run.get(key))
        for run, told in zip(values, found, strict=True):
            if key in run and len(alike[_governing(key, run)]) > 1:
                told[key] = run[key]
    return found


def _governing(key: str, run: Mapping[str, str]) -> tuple[str | None, ...]:
    """The run's choices that the value of `key` may follow from."""
    group, _, setting = key.partition(".")
    names = () if key in PRESETS else [name for name in (group if setting else key, *PRESETS) if name != key]
    return tuple(run.get(name) for name in names)
