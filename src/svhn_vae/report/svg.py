"""Matplotlib figures as SVG: a file to take elsewhere, and a part of the page that takes on the page's colours."""

import io
import re
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's for readers who are colour-blind, dark enough on white; the second six are told apart by their dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5428f", "#8a6d00", "#4a4ac4")
DASHES = ("-", (0, (4, 1.5)))
MAX_SHOWN = len(COLOURS) * len(DASHES)  # variants that a figure can tell apart
NUMBER = re.compile(r"-?\d+\.\d{2,}")
PAPER = "#fffffe"  # white, and found again
STYLE = {
    "svg.fonttype": "none",  # text, in the page's font
    "svg.hashsalt": "svhn_vae",  # the same figure gives the same file
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "path.simplify": True,
}


class Drawing(NamedTuple):
    """A figure of the page."""

    name: str  # of its file
    caption: str
    alt: str
    svg: str  # as a file

    @property
    def inline(self) -> Markup:
        return inlined(self)


def colour(place: int) -> str:
    """Of the variant at this place of the ranking."""
    return COLOURS[place % len(COLOURS)]


def dashes(place: int) -> str | tuple:
    return DASHES[place // len(COLOURS) % len(DASHES)]


def styled() -> matplotlib.rc_context:
    """In which figures are made and written."""
    return matplotlib.rc_context(STYLE)


def drawn(figure: Figure, name: str, caption: str, alt: str) -> Drawing:
    """Call it within `styled`."""
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Drawing(name, caption, alt, _short(file.getvalue()))


def _short(svg: str) -> str:
    """Coordinates to a tenth of a point: half the size."""
    return re.sub(r' (?:d|points)="[^"]*"', lambda found: NUMBER.sub(_rounded, found[0]), svg)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}"


def inlined(drawing: Drawing) -> Markup:
    """Black becomes the page's own colour, the variants' colours its variables, and names unique in the page."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(?<= )id="([^"]*)"', rf'id="{drawing.name}-\1"', svg)
    svg = re.sub(r'(?<= )href="#([^"]*)"', rf'href="#{drawing.name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{drawing.name}-\1)", svg)
    svg = svg.replace(PAPER, "none").replace("#000000", "currentColor")
    for place, value in enumerate(COLOURS):
        svg = svg.replace(value, f"var(--variant{place})")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    title = f'<svg role="img" aria-label="{Markup.escape(drawing.alt)}"'
    return Markup(svg.replace("<svg", title, 1))
