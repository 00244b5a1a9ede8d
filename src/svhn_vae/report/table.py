"""The table of a study: the baselines without a network and the runs together, the best first."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from svhn_vae.report.collect import Run, labels, read_runs

METRIC = "test/bits_per_dim"
PARTS = ("modelled", "kl", "residual")
LEGEND = """\
bits/dim of the test images, lower is better = modelled + KL + residual; (-): a model without a network
active: latents in use; seconds: of training, > where a continued run has only its last part
pictures:    {study}/*/figures/*.png
TensorBoard: tensorboard --logdir {study}"""


def wide_console() -> Console:
    """As wide as the terminal, and wide enough for the table where there is none (a file, CI)."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_study(study: Path, console: Console) -> None:
    """Prints the study's table, what did not finish, and where its files are."""
    runs = read_runs(study)
    finished = [run for run in runs if run.status == "done"]
    for title, group in by_data(finished).items():
        console.print(study_table(f"{study.name}: {title}", group))
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


def study_table(title: str, runs: Sequence[Run]) -> Table:
    """One row per baseline and run, in the order of their bits per dimension."""
    table = Table(title=title, title_justify="left")
    table.add_column("model", min_width=24, overflow="fold")
    for name in ("bits/dim", *PARTS, "active", "images/s", "seconds"):
        table.add_column("KL" if name == "kl" else name, justify="right", no_wrap=True)
    baselines = {name: bits for run in runs for name, bits in run.result["baselines"].items()}
    rows = [(bits, [f"(-) {name}", f"{bits:.3f}"]) for name, bits in baselines.items()]
    rows += [
        (run.result["metrics"].get(METRIC, math.nan), run_row(run, label))
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    for _, row in sorted(rows, key=lambda row: (math.isnan(row[0]), row[0])):
        table.add_row(*row)
    return table


def run_row(run: Run, label: str) -> list[str]:
    metrics, cost = run.result["metrics"], run.result["cost"]
    ranked = [metrics[METRIC], *(run.result["parts"][part] for part in PARTS)] if METRIC in metrics else []
    bits = [f"{number:.3f}" for number in ranked] or ["no density", "-", "-", "-"]
    active = f"{metrics['test/active_units']:.0f}"
    return [
        label,
        *bits,
        active,
        f"{cost['images_per_second']:,.0f}",
        f"{'>' * cost['continued']}{cost['seconds']:.0f}",
    ]
