"""The table of a study: the baselines without a network and the variants together, the best first."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from svhn_vae.report.collect import METRIC, Variant, by_data, read_runs, variants
from svhn_vae.report.ranking import ALIKE, baselines, is_no_better, rank
from svhn_vae.report.statistics import estimate

PARTS = ("modelled", "kl", "residual")
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
    for title, group in by_data(runs).items():
        found = [variant for variant in variants(group) if variant.runs]
        if not found:
            continue
        console.print(study_table(f"{study.name}: {title}", found))
        console.print(differences(study, found), markup=False, highlight=False, soft_wrap=True, end="")
    for run in runs:
        if not run.result or run.reason:
            console.print(f"{run.status}: {run.name}: {run.reason}", markup=False, highlight=False, soft_wrap=True)
    if any(run.result for run in runs):
        console.print(LEGEND.format(study=study), markup=False, highlight=False, soft_wrap=True)


def study_table(title: str, found: Sequence[Variant]) -> Table:
    """One row per baseline and variant, in the order of their bits per dimension."""
    table = Table(title=title, title_justify="left")
    table.add_column("model", min_width=24, overflow="fold")
    for name in ("seeds", "bits/dim", *PARTS, "active", "images/s", "seconds"):
        table.add_column("KL" if name == "kl" else name, justify="right", no_wrap=True)
    runs = [run for variant in found for run in variant.runs]
    rows = [(bits, [f"(-) {name}", "", f"{bits:.3f}"]) for name, bits in baselines(runs)]
    rows += [(variant.score, variant_row(variant)) for variant in found]
    for _, row in sorted(rows, key=lambda row: (math.isnan(row[0]), row[0])):
        table.add_row(*row)
    return table


def variant_row(variant: Variant) -> list[str]:
    """Means over seeds."""
    results = [run.result for run in variant.runs]
    costs = [result["cost"] for result in results]
    parts = [mean_text([result["parts"][part] for result in results if result["parts"]]) for part in PARTS]
    active = statistics.fmean(result["metrics"]["test/active_units"] for result in results)
    continued = any(cost.get("continued") for cost in costs)
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
    found = estimate(scores)
    return mean_text(scores) + ("" if math.isnan(found.high) else f" +-{found.high - found.mean:.3f}")


def differences(study: Path, found: Sequence[Variant]) -> str:
    """Which variants the runs can tell from the best one; nothing where they allow no test."""
    ranking = rank(study, found)
    if ranking is None or not ranking.others:
        return ""
    alike = [comparison.a for comparison in ranking.others if comparison.verdict == ALIKE]
    worse, all_others = len(ranking.others) - len(alike), len(ranking.others)
    text = f"best: {ranking.best.label}; worse than it: {worse} of {all_others} (95 %, Holm, paired {ranking.how})\n"
    return text + (f"cannot be told apart from it: {'; '.join(alike)}\n" if alike else "")
