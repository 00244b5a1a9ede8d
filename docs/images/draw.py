"""Draws the pictures of the README from a study of synthetic data: python docs/images/draw.py outputs/demo

samples.png: data, reconstructions and samples of the study's best run, beside each other.
ranking.png: test bits/dim of all runs and of models without a network.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

SHOWN = {"data": "data", "reconstructions": "images, and below each its reconstruction", "samples": "samples"}
BITS = "test/bits_per_dim"
FOLDER = Path(__file__).parent


def main() -> None:
    study = Path(sys.argv[1])
    results = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in study.glob("*/result.json")}
    if not results or any(result["data"]["name"] != "synthetic" for result in results.values()):
        sys.exit(f"{study} must hold finished runs of data=synthetic: no photograph is part of this repository")
    best = min(results, key=lambda folder: results[folder]["metrics"][BITS])
    draw_samples(best / "figures").savefig(FOLDER / "samples.png", dpi=100)
    draw_ranking(list(results.values())).savefig(FOLDER / "ranking.png", dpi=100)


def draw_samples(figures: Path) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
        picture = np.asarray(Image.open(figures / f"{name}.png"))
        axes.imshow(picture[: picture.shape[1]])  # square: without the caption below
        axes.set_title(title, fontsize="medium")
        axes.set_axis_off()
    return figure


def draw_ranking(results: list[dict[str, Any]]) -> Figure:
    """Bits/dim of runs and of models without a network, the best above."""
    rows = [
        (f"variance={result['choices']['variance']}, {spread(result)}", result["metrics"][BITS]) for result in results
    ]
    without = {f"(no network) {name}": value for name, value in results[0]["baselines"].items()}
    ranked = sorted([*rows, *without.items()], key=lambda row: -row[1])
    figure = Figure(figsize=(9, 0.5 + 0.26 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    colours = ["lightgrey" if name in without else "tab:blue" for name, _ in ranked]
    axes.barh([name for name, _ in ranked], [value for _, value in ranked], color=colours)
    for row, (_, value) in enumerate(ranked):
        axes.annotate(f" {value:.2f}", (value, row), va="center", fontsize="small")
    axes.set_xlabel("test bits/dim, lower is better")
    return figure


def spread(result: dict[str, Any]) -> str:
    return "whitened coordinates" if result["config"]["pca"]["whiten"] else "raw coordinates"


if __name__ == "__main__":
    main()
