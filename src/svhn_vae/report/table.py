"""The table of a study: the baselines without a network and the variants together, the best first."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from svhn_vae.report.collect import Run, Variant, read_runs, variants
from svhn_vae.report.statistics import (
    Comparison,
    against,
    blocks,
    compare_all,
    mean_interval,
    paired_by_image,
    paired_by_seed,
)

METRIC = "test/bits_per_dim"
PARTS = ("modelled", "kl", "residual")
OWN_BASELINE = ("PPCA", "independent Gaussian")  # the first that a run has: without a network, in its coordinates
MIN_SEEDS = 3  # to compare by seed
NATS_PER_BIT = 3072 * math.log(2)
LEGEND = """\
bits/dim of the test images, lower is better = modelled + KL + residual; +-: 95 % over seeds
(-): a model without a network; !: no better than its own baseline, PPCA at its K or independent Gaussians
active: latents in use; seconds: of training, > where a continued run has only its last part
pictures:    {study}/*/figures/*.png
TensorBoard: tensorboard --logdir {study}"""


def wide_console() -> Console:
    """As wide as the terminal, and wide enough for the table where there is none (a file, CI)."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_study(study: Path, console: Console) -> None:
    """Prints the study's table, what its runs can tell apart, what did not finish, and where its files are."""
    runs = read_runs(study)
    finished = [run for run in runs if run.status == "done"]
    for title, group in by_data(finished).items():
        found = variants(group)
        console.print(study_table(f"{study.name}: {title}", found))
        console.print(differences(study, found), markup=False, highlight=False, soft_wrap=True, end="")
    for run in runs:
        if run.status != "done":
            console.print(f"{run.status}: {run.name}: {run.reason}", markup=False, highlight=False, soft_wrap=True)
    if finished:
        console.print(LEGEND.format(study=study), markup=False, highlight=False, soft_wrap=True)


def by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their data: figures on different images do not compare, so each data set has a table of its own."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        data = run.result["data"]
        title = (
            f"{data['name']} data {data['digest']}, {data['num_train']:,} images to train, {data['num_test']:,} to test"
        )
        groups.setdefault(title, []).append(run)
    return groups


def study_table(title: str, found: Sequence[Variant]) -> Table:
    """One row per baseline and variant, in the order of their bits per dimension."""
    table = Table(title=title, title_justify="left")
    table.add_column("model", min_width=24, overflow="fold")
    for name in ("seeds", "bits/dim", *PARTS, "active", "images/s", "seconds"):
        table.add_column("KL" if name == "kl" else name, justify="right", no_wrap=True)
    runs = [run for variant in found for run in variant.runs]
    baselines = {name: bits for run in runs for name, bits in run.result["baselines"].items()}
    rows = [(bits, [f"(-) {name}", "", f"{bits:.3f}"]) for name, bits in baselines.items()]
    rows += [(score(variant), variant_row(variant)) for variant in found]
    for _, row in sorted(rows, key=lambda row: (math.isnan(row[0]), row[0])):
        table.add_row(*row)
    return table


def score(variant: Variant) -> float:
    """The mean over seeds; NaN where there is no density."""
    scores = variant.scores(METRIC).values()
    return statistics.fmean(scores) if scores else math.nan


def variant_row(variant: Variant) -> list[str]:
    """Means over seeds."""
    results = [run.result for run in variant.runs]
    costs = [result["cost"] for result in results]
    parts = [mean_text([result["parts"][part] for result in results if result["parts"]]) for part in PARTS]
    active = statistics.fmean(result["metrics"]["test/active_units"] for result in results)
    continued = any(cost["continued"] for cost in costs)
    return [
        f"{variant.label}{' !' * is_no_better(variant)}",
        str(len(results)),
        bits_text(list(variant.scores(METRIC).values())),
        *parts,
        f"{active:.0f}",
        f"{statistics.fmean(cost['images_per_second'] for cost in costs):,.0f}",
        f"{'>' * continued}{statistics.fmean(cost['seconds'] for cost in costs):.0f}",
    ]


def mean_text(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else "-"


def bits_text(scores: Sequence[float]) -> str:
    """The mean over seeds, and half of its interval where there are several."""
    if not scores:
        return "no density"
    interval = mean_interval(scores) if all(map(math.isfinite, scores)) else None
    return mean_text(scores) + (f" +-{interval.high - interval.mean:.3f}" if interval else "")


def is_no_better(variant: Variant) -> bool:
    """Than the model without a network that has its coordinates."""
    baselines = variant.runs[0].result["baselines"]
    own = [bits for start in OWN_BASELINE for name, bits in baselines.items() if name.startswith(start)]
    return bool(own) and score(variant) >= own[0]


def differences(study: Path, found: Sequence[Variant]) -> str:
    """Which variants the runs can tell from the best one; nothing where they allow no test."""
    scored = {variant.label: variant for variant in found if math.isfinite(score(variant))}
    if len(scored) < 2:
        return ""
    best = min(scored.values(), key=score).label
    if min(len(variant.runs) for variant in scored.values()) >= MIN_SEEDS:
        how = "by seed"
        pairs = compare_all({name: variant.scores(METRIC) for name, variant in scored.items()}, paired_by_seed)
    else:
        how = "by image, in blocks of neighbours"
        values = {name: bits_of_images(study, variant) for name, variant in scored.items()}
        if any(len(bits) == 0 for bits in values.values()):
            return ""
        pairs = compare_all(values, lambda a, b: paired_by_image(a, b, blocks(len(a))))
    return in_words(best, against(best, pairs), how)


def bits_of_images(study: Path, variant: Variant) -> np.ndarray:
    """Bits per dimension of each test image, the mean over seeds (N,); empty where a run has not kept them."""
    files = [study / run.name / "per_image.safetensors" for run in variant.runs]
    if not all(file.is_file() for file in files):
        return np.empty(0)
    return 8 - np.mean([load_file(file)["elbo"].astype(float) for file in files], axis=0) / NATS_PER_BIT


def in_words(best: str, comparisons: Sequence[Comparison], how: str) -> str:
    alike = [comparison.a for comparison in comparisons if comparison.verdict == "cannot be told apart"]
    worse = len(comparisons) - len(alike)
    text = f"best: {best}; worse than it: {worse} of {len(comparisons)} (95 %, Holm, paired {how})\n"
    return text + (f"cannot be told apart from it: {'; '.join(alike)}\n" if alike else "")
