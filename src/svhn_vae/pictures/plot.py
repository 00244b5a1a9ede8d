"""Plots as pictures: uint8 (height, width, 3), to be written like all others."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator


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
