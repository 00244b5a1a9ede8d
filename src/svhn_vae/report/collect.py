"""The runs of a study, from their folders. Needs neither torch nor lightning."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from svhn_vae.report.settings import in_words, telling
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import identity

METRIC = "test/bits_per_dim"
UNKNOWN_DATA = "unknown data: these runs ended before they had read any"


class Run(NamedTuple):
    """One run folder."""

    name: str
    status: str
    reason: str  # why it diverged or failed, or which of its files is damaged
    result: Mapping[str, Any]  # {} unless done
    facts: Mapping[str, Any] = MappingProxyType({})  # status.json: times, step, cost, configuration

    @property
    def config(self) -> Mapping[str, Any]:
        """Resolved; {} of a run that has neither finished nor noted it, as older ones did not."""
        return (self.result or self.facts).get("config", {})

    @property
    def choices(self) -> Mapping[str, str]:
        return (self.result or self.facts).get("choices", {})

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @property
    def digest(self) -> str | None:
        """Names the run's images."""
        return self.result["data"]["digest"] if self.result else self.facts.get("data")

    @property
    def commit(self) -> str:
        """Empty where it was not noted."""
        return (self.result or self.facts).get("commit") or ""

    @property
    def cost(self) -> Mapping[str, Any]:
        """{} of a run whose training has not ended."""
        return (self.result or self.facts).get("cost", {})

    @property
    def settings(self) -> dict[str, Any]:
        """Choices, and by dotted key every value that decides the result, but for the seed."""
        return {**self.choices, **_values(self)}

    def metric(self, name: str) -> float:
        """NaN where it has none."""
        return self.result.get("metrics", {}).get(name, math.nan)


def read_runs(study: Path) -> list[Run]:
    """Every run of a study, whatever its status, by name; runs set aside by a rerun are left out."""
    folders = sorted(path.parent for path in study.glob("*/status.json") if ".previous" not in path.parent.name)
    return [_read(RunFolder(folder)) for folder in folders]


def _read(folder: RunFolder) -> Run:
    facts = folder.facts
    status = facts.get("status", "new")
    result = folder.result if status == "done" else {}
    reason = facts.get("reason", "") if result and "started" in facts else facts.get("reason") or folder.damage
    return Run(folder.path.name, "failed" if status == "done" and not result else status, reason, result, facts)


def by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their data: figures on different images do not compare, so each data set has a table of its own.

    A run that has not finished goes to its images where they are known, and to the only ones where it had read none.
    """
    titles = {run.digest: data_title(run) for run in runs if run.result}
    groups: dict[str, list[Run]] = {title: [] for title in titles.values()}
    only = next(iter(groups)) if len(groups) == 1 else UNKNOWN_DATA
    for run in runs:
        title = titles.get(run.digest, f"data {run.digest}" if run.digest else only)
        groups.setdefault(title, []).append(run)
    return groups


def data_title(run: Run) -> str:
    data = run.result["data"]
    return f"{data['name']} data {data['digest']}, {data['num_train']:,} images to train, {data['num_test']:,} to test"


class Variant(NamedTuple):
    """Runs that differ in their seed alone."""

    label: str
    runs: list[Run]  # the finished ones, in the order of their seeds
    unfinished: list[Run]  # all others: diverged, failed, interrupted, running
    settings: dict[str, Any]  # {} where they were not noted

    def scores(self, metric: str) -> dict[int, float]:
        """Seed -> the metric, of the runs that have it."""
        return {run.seed: run.metric(metric) for run in self.runs if metric in run.result["metrics"]}

    @property
    def score(self) -> float:
        """The mean bits/dim over seeds; NaN where there is no density, or nothing has finished."""
        scores = self.scores(METRIC).values()
        return statistics.fmean(scores) if scores else math.nan

    @property
    def choices(self) -> Mapping[str, str]:
        return (self.runs or self.unfinished)[0].choices


def variants(runs: Sequence[Run]) -> list[Variant]:
    """Runs by configuration, whatever their seed, each under a label that tells it from the others.

    A run whose configuration is not known stands alone, under its name.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {**identity(run.config), **run.choices, "seed": None}
        key = json.dumps(settings, sort_keys=True, default=str) if run.config else run.name
        groups.setdefault(key, []).append(run)
    first = [group[0] for group in groups.values()]
    known = [run for run in first if run.config]
    named = labels(known) if len(known) > 1 else [run.name.rpartition("-seed")[0] or run.name for run in known]
    label_of = dict(zip((run.name for run in known), named, strict=True))
    return [
        _variant(label_of.get(run.name, run.name), group) for run, group in zip(first, groups.values(), strict=True)
    ]


def _variant(label: str, group: list[Run]) -> Variant:
    finished = [run for run in group if run.result]
    finished.sort(key=lambda run: run.seed)
    return Variant(label, finished, [run for run in group if not run.result], group[0].settings)


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each run from the others but its seed, for instance `variance=logvar pca.whiten=true`."""
    groups = list(dict.fromkeys(group for run in runs for group in run.choices))
    told = telling([run.settings for run in runs], groups)
    found = [" ".join(f"{key}={in_words(value)}" for key, value in shown.items()) for shown in told]
    twice = {label for label, times in Counter(found).items() if times > 1}  # they differ in what is no setting
    return [f"{label} {run.name}".strip() if label in twice else label for label, run in zip(found, runs, strict=True)]


def _values(run: Run) -> dict[str, Any]:
    return {key: value for key, value in identity(run.config).items() if key != "seed"}
