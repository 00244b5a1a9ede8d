"""Draws the pictures of the README from a study of synthetic data: python docs/images/draw.py outputs/demo

samples.png: test images, reconstructions and samples of the study's best run, beside each other.
ranking.png: test bits/dim of all runs, beside models without a network.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

SHOWN = {"data": "test images", "reconstructions": "images and reconstructions", "samples": "samples of the prior"}
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
        axes.imshow(np.asarray(Image.open(figures / f"{name}.png")))
        axes.set_title(title, fontsize="medium")
        axes.set_axis_off()
    return figure


def draw_ranking(results: list[dict[str, Any]]) -> Figure:
    """Each run's bits/dim, the best above, and dashed lines for models without a network."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(results, key=lambda result: -result["metrics"][BITS])
    names = [f"{result['choices']['variance']}, {spread(result)}" for result in ranked]
    axes.barh(names, [result["metrics"][BITS] for result in ranked], height=0.5)
    for row, result in enumerate(ranked):
        axes.annotate(f" {result['metrics'][BITS]:.2f}", (result["metrics"][BITS], row), va="center")
    for name, value in ranked[0]["baselines"].items():
        if value < 1.5 * ranked[0]["metrics"][BITS]:
            axes.axvline(value, color="grey", linestyle="--", linewidth=1)
            axes.text(value, len(ranked) - 0.4, name, rotation=20, fontsize="x-small", color="grey")
    axes.set_xlabel("test bits/dim, lower is better")
    return figure


def spread(result: dict[str, Any]) -> str:
    return "whitened coordinates" if result["config"]["pca"]["whiten"] else "raw coordinates"


if __name__ == "__main__":
    main()
