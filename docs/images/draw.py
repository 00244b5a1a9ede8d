"""Draws the pictures of the README and of docs/results.md: python docs/images/draw.py [outputs/front]

ranking.png: the README's own table, test bits/dim against the Frechet distance of samples. Where a study is named, of

    python src/train.py experiment=pictures data=synthetic study=front
    python src/train.py experiment=digits data=synthetic trainer.max_epochs=20 study=front

also samples.png: data, samples, and styles carried through all digits; and post.png: the post's figures 3 and 4.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from svhn_vae.pictures.gallery import BLOCK_GAP, COLUMNS

SHOWN = {  # experiment and picture -> title, images in a row, rows
    "samples.png": {
        ("pictures", "data"): ("training images", 8, 8),
        ("pictures", "samples"): ("samples", 8, 8),
        ("digits", "digits"): ("an image, and its style in all digits", 11, 10),
    },
    "post.png": {
        ("pictures", "samples"): ("100 samples of the prior (the post's figure 3)", 10, 10),
        ("pictures", "analogies"): ("an image of each digit, and 9 noisy passes (figure 4)", 10, 10),
    },
}
REAL_IMAGES = 4.2  # Frechet distance of real validation images, as the README says
FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
BLUE, GREY = "#0072b2", "#767676"


def main() -> None:
    draw_ranking(rows(README.read_text(encoding="utf-8"))).savefig(FOLDER / "ranking.png", dpi=120)
    for name, shown in SHOWN.items() if len(sys.argv) > 1 else ():
        draw_sheets(Path(sys.argv[1]), shown).savefig(FOLDER / name, dpi=100)


class Row(NamedTuple):
    """Of the table of results."""

    name: str
    bits: float
    frechet: float | None  # of what has no samples, or grey ones, none


def rows(readme: str) -> list[Row]:
    lines = readme.partition("| variant | test bits/dim | Frechet |")[2].splitlines()[2:]
    table = [[cell.strip(" *`") for cell in line.split("|")[1:4]] for line in lines if line.startswith("|")]
    found = [(name, re.match(r"[\d.]+", bits), re.match(r"[\d.]+", frechet)) for name, bits, frechet in table]
    return [Row(shortened(name), float(bits[0]), float(of[0]) if of else None) for name, bits, of in found if bits]


def shortened(name: str) -> str:
    """Without what a picture has no room for: the budget, the seeds, the version, what is in brackets."""
    left_out = r"\(.*|least-squares prediction |, one scale.*|, full cov.*|, \d+ seeds.*| at a quarter.*|`|experiment="
    return " ".join(re.sub(r"\S*(trainer|grid|model|prior)\S*", "", re.sub(left_out, "", name)).split())


def draw_ranking(found: list[Row]) -> Figure:
    """A dot for what has pictures; a line at the bits/dim of what has none."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    seen = [row for row in found if row.frechet is not None]
    axes.plot([row.bits for row in seen], [row.frechet for row in seen], "o", color=BLUE, markersize=7)
    low, high = min(row.frechet for row in seen), max(row.frechet for row in seen)
    axes.set(xlabel="test bits/dim, lower is better", ylabel="Frechet distance of samples, lower is better",
             xlim=(min(row.bits for row in found) - 0.1, max(row.bits for row in found) + 0.3),
             ylim=(0, high + 0.35 * (high - REAL_IMAGES)))  # fmt: skip
    axes.axhline(REAL_IMAGES, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("real images", (1, REAL_IMAGES), (-4, 4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", color=GREY, fontsize="small")  # fmt: skip
    label_dots(axes, seen, low)
    for row in found:
        if row.frechet is None:
            axes.axvline(row.bits, color=GREY, linewidth=1, alpha=0.6)
            axes.annotate(row.name, (row.bits, 0.09), (3, 0), xycoords=("data", "axes fraction"), rotation=90,
                          textcoords="offset points", color=GREY, fontsize="x-small", va="bottom")  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def label_dots(axes: Axes, seen: list[Row], low: float) -> None:
    """Beside the dots, from the top down, with a line's height between two of them."""
    height, free = 2.1, float("inf")
    for row in sorted(seen, key=lambda row: -(row.frechet or low)):
        free = min(free - height, (row.frechet or low) + height)
        arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6}
        right = [other for other in seen if 0.3 < other.bits - row.bits < 1]
        hides = any(abs((other.frechet or low) - (row.frechet or low)) < height for other in right)
        side, align = (-0.15, "right") if hides or row.bits > sum(axes.get_xlim()) / 2 else (0.15, "left")
        axes.annotate(row.name, (row.bits, row.frechet or low), (row.bits + side, free), va="center", ha=align,
                      fontsize="small", arrowprops=arrow, bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip


def run_of(study: Path, experiment: str) -> Path:
    for path in study.glob("*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["choices"].get("experiment") == experiment:
            if result["data"]["name"] != "synthetic":
                sys.exit(f"{study} must hold runs of data=synthetic: no photograph is part of this repository")
            return path.parent
    return sys.exit(f"{study} must hold a finished run of experiment={experiment}")


def draw_sheets(study: Path, shown: dict[tuple[str, str], tuple[str, int, int]]) -> Figure:
    """The first rows and columns of each picture; of digits.png, of its second block."""
    figure = Figure(figsize=(12, 11.5 / len(shown) + 0.6), layout="constrained")
    for axes, ((experiment, name), (title, columns, rows)) in zip(
        figure.subplots(1, len(shown)), shown.items(), strict=True
    ):
        picture = np.asarray(Image.open(run_of(study, experiment) / "figures" / f"{name}.png"))
        in_row = COLUMNS + 1 if name == "digits" else COLUMNS
        size = picture.shape[1] // in_row
        top = COLUMNS * size + BLOCK_GAP if name == "digits" else 0
        axes.imshow(picture[top : top + rows * size, : columns * size])
        axes.set_title(title, fontsize="medium")
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
