"""Sheets of images with labels and a caption, plots as pictures, and their PNG files. Nothing here knows a model.

Shapes: N images (N, 3, H, W) in [0, 1); a picture is uint8 (height, width, 3).
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image, ImageDraw
from torch import Tensor

from svhn_vae.runs.files import replacing

MAGNIFICATION = 3
GAP = 2  # pixels between images
CAPTION_HEIGHT = 20  # of a line
CHARACTER_WIDTH = 7  # of the caption's font, on average
LABEL_WIDTH = 70


def grid(x: Tensor, columns: int) -> np.ndarray:
    """Images, grey or colour, clipped where they leave [0, 1) -> one picture, row by row, each pixel magnified."""
    x = (x.float().clamp(0, 1) * 255).round().byte().cpu().expand(-1, 3, -1, -1)
    x = x.repeat_interleave(MAGNIFICATION, 2).repeat_interleave(MAGNIFICATION, 3)
    num, channels, height, width = x.shape
    rows = -(-num // columns)
    sheet = torch.full((channels, rows * (height + GAP), columns * (width + GAP)), 255, dtype=torch.uint8)
    for index, image in enumerate(x):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet.permute(1, 2, 0).numpy()


def stacked(pictures: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """One below another with a white gap between them, and white to the right of the narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    white = [((0, gap), (0, width - picture.shape[1]), (0, 0)) for picture in pictures]
    sheet = np.concatenate([np.pad(*pair, constant_values=255) for pair in zip(pictures, white, strict=True)])  # pyright: ignore[reportArgumentType, reportCallIssue]
    return sheet[: len(sheet) - gap]


def labelled(picture: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The picture with a margin on its left that names its rows, all of one height."""
    height, width, _ = picture.shape
    sheet = Image.new("RGB", (LABEL_WIDTH + width, height), "white")
    sheet.paste(Image.fromarray(picture), (LABEL_WIDTH, 0))
    for index, label in enumerate(labels):
        middle = (index + 0.5) * height / len(labels)
        write(sheet, (LABEL_WIDTH - 6, middle), label, anchor="rm")
    return np.asarray(sheet)


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture with a text below, so that it says what it shows wherever it is copied."""
    height, width, _ = picture.shape
    lines = textwrap.wrap(caption, width // CHARACTER_WIDTH, break_on_hyphens=False)
    sheet = Image.new("RGB", (width, height + CAPTION_HEIGHT * len(lines)), "white")
    sheet.paste(Image.fromarray(picture))
    for index, line in enumerate(lines):
        write(sheet, (4, height + CAPTION_HEIGHT * index), line, anchor="la")
    return np.asarray(sheet)


def write(sheet: Image.Image, where: tuple[float, float], text: str, anchor: str) -> None:
    ImageDraw.Draw(sheet).text(where, text, "black", anchor=anchor, font_size=CAPTION_HEIGHT * 0.7)


def rendered(figure: Figure) -> np.ndarray:
    """Without pyplot, which keeps every figure and may look for a display."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def use_log_scales(axes: Axes) -> None:
    """Both logarithmic, plain numbers at 1, 2 and 5: where decades are few, matplotlib's own labels overlap."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def write_png(picture: np.ndarray, path: Path) -> None:
    with replacing(path) as beside:
        Image.fromarray(picture).save(beside, "PNG")
