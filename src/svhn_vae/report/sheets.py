"""The runs' own pictures, small enough that a page can hold those of all variants."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from svhn_vae.report.collect import Variant

KINDS = {
    "samples": "Samples of the prior: with N(0, I) the same latents in each, where their number is the same",
    "reconstructions": "Validation images, below each row its reconstructions",
    "analogies": "Analogies: a validation image of each digit, and nine of its 1,000 noisy passes that differ much",
}
# As pictures/sheet.py makes them; it needs torch, and the sheets of older runs have it, too.
CELL, IMAGE, MAGNIFICATION = 98, 96, 3
ROWS, ROWS_OF_MANY = 10, 4  # of images in a picture
MANY = 12  # variants
QUALITY = 75


class Sheet(NamedTuple):
    label: str
    run: str
    kind: str
    uri: str  # data:, empty where the run has no such picture


def sheets(study: Path, found: Sequence[Variant]) -> list[tuple[str, list[Sheet]]]:
    """What is shown, and a picture of the first finished run of each variant; what no run has is left out."""
    num_rows = ROWS if len(found) <= MANY else ROWS_OF_MANY
    with ThreadPoolExecutor() as pool:  # Pillow reads and writes outside Python's lock
        shown = [
            (what, list(pool.map(lambda variant, kind=kind: _sheet(study, variant, kind, num_rows), found)))
            for kind, what in KINDS.items()
        ]
    return [(what, pictures) for what, pictures in shown if any(sheet.uri for sheet in pictures)]


def training_images(study: Path, found: Sequence[Variant]) -> str:
    """What samples should look like, from the first run that has drawn it."""
    paths = (study / run.name / "figures" / "data.png" for variant in found for run in variant.runs)
    return next((uri for path in paths if (uri := webp(path, ROWS_OF_MANY))), "")


def _sheet(study: Path, variant: Variant, kind: str, num_rows: int) -> Sheet:
    name = variant.runs[0].name
    return Sheet(variant.label, name, kind, webp(study / name / "figures" / f"{kind}.png", num_rows))


def webp(path: Path, num_rows: int) -> str:
    """The first rows of a sheet without magnification and caption; empty where there is no picture or a damaged one."""
    try:
        with Image.open(path) as image:
            small = _pixels(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), num_rows)
    except (OSError, SyntaxError, ValueError):
        return ""
    file = io.BytesIO()
    Image.fromarray(small).save(file, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _pixels(sheet: np.ndarray, num_rows: int) -> np.ndarray:
    """(height, width, 3): of a grid of magnified images, one pixel of each that there was, and one of each gap."""
    height, width = sheet.shape[:2]
    if width % CELL or height < CELL:
        return sheet[::MAGNIFICATION, ::MAGNIFICATION]
    kept = [*range(MAGNIFICATION // 2, IMAGE, MAGNIFICATION), IMAGE]
    rows, columns = (
        [CELL * cell + at for cell in range(num) for at in kept]
        for num in (min(height // CELL, num_rows), width // CELL)
    )
    return sheet[np.ix_(rows, columns)]
