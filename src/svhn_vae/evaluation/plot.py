"""Plots as pictures: uint8 (height, width, 3), to be written like all others."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def rendered(figure: Figure) -> np.ndarray:
    """Without pyplot, which keeps every figure and may look for a display."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
