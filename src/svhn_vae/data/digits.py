"""Synthetic house numbers: a stand-in for SVHN, so that every command runs with no download.

A picture is made as a street camera makes one: glyphs on a wall (`_glyph_masks`, `_scene`), through a lens and a
tone curve (`_photograph`), stored as JPEG, cropped around one digit. The constants were tuned on real crops, by eye
and on means, standard deviations, PCA eigenvalues and the spread of smoothness; tests/test_digits.py holds them to
those figures. About 0.4 ms an image on one core. The same seed gives the same images with the same NumPy, Pillow and
matplotlib (it brings the fonts); other versions may round otherwise.

Shapes: B = BLOCK images drawn together, F = FIELD pixels a side before the crop to SIDE.
Units: lengths in pixels of the 32 x 32 image, angles in radians, brightness in logits up to the tone curve.
"""

import functools
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from svhn_vae.data.cache import cached
from svhn_vae.data.download import user_cache
from svhn_vae.data.sources import LabelledImages, Source, of_split

SIDE = 32
JPEG_CELL = 8  # JPEG works in cells of 8 pixels; crops of a larger photo do not start on a cell
FIELD = SIDE + JPEG_CELL
BLOCK = 100  # images per random generator: whole blocks are drawn, so image i does not depend on num_images

# Leading digits of street numbers are small (Benford): frequencies of 0..9 in SVHN.
LABEL_FREQUENCIES = np.array([0.07, 0.19, 0.15, 0.12, 0.10, 0.09, 0.08, 0.07, 0.065, 0.065])

# matplotlib's fonts with figures of one height. Mostly upright, as on houses; three of them slant. Left out:
# DejaVuSansMono (a dotted zero), cmmi10 (old-style figures), cmti10 (a curled 2, 4 and 7), and the symbol fonts, which
# draw something else or nothing.
FONT_PATTERNS = ("DejaVuSans.ttf", "DejaVuSans-Bold*.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf")
FONT_PATTERNS += ("STIXGeneral*.ttf", "cm[br]10.ttf", "cmss10.ttf", "cmtt10.ttf")
STROKES = (0, 2, 3)  # pixels of outline at a font size of 96: painted and cast figures are bolder than printed ones
GLYPH_HEIGHT = 48
CANVAS = (288, 96)  # width, height of the strip on which three glyphs are set before they are seen at an angle

FORMAT = 1  # of files of digits in the cache: to be raised with any change of what is drawn


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """Digits drawn on the spot: a stand-in that needs no download, marked `synthetic` wherever it is used."""

    num_train: int
    num_test: int
    drawing_seed: int

    is_synthetic = True
    licence = "drawn by svhn-vae, MIT"
    name = "synthetic"  # pyright: ignore[reportAssignmentType]
    num_labels = 10  # pyright: ignore[reportAssignmentType]
    image_shape = (3, SIDE, SIDE)  # pyright: ignore[reportAssignmentType]

    def read(self, split: str) -> LabelledImages:
        """From the user's cache folder, or drawn and put there: 6,000 digits take two seconds."""
        num, offset = of_split(split, {"train": (self.num_train, 0), "test": (self.num_test, 1)})
        seed = 2 * self.drawing_seed + offset  # two drawings that share no image
        path = user_cache() / f"digits-{FORMAT}-{seed}-{num}.safetensors"
        return cached(path, LabelledImages, lambda: LabelledImages(*map(torch.from_numpy, draw_digits(num, seed))))


def draw_digits(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """images (N, 3, 32, 32) uint8 and labels (N,) uint8 in 0..9; image i depends on `seed` and i alone."""
    num_blocks = -(-num_images // BLOCK)
    images = np.empty((num_blocks, BLOCK, 3, SIDE, SIDE), np.uint8)
    labels = np.empty((num_blocks, BLOCK), np.uint8)
    for index, stream in enumerate(np.random.SeedSequence(seed).spawn(num_blocks)):
        images[index], labels[index] = _draw_block(np.random.default_rng(stream))
    return images.reshape(-1, 3, SIDE, SIDE)[:num_images], labels.reshape(-1)[:num_images]


def _draw_block(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """images (B, 3, 32, 32) uint8, labels (B,) uint8"""
    labels = rng.choice(10, size=BLOCK, p=LABEL_FREQUENCIES)
    corners = rng.integers(0, JPEG_CELL + 1, size=(BLOCK, 2))  # x, y of the crop in the field
    masks = _glyph_masks(rng, labels, corners)
    images = _photograph(rng, _scene(rng, masks))
    crops = [image[:, y : y + SIDE, x : x + SIDE] for image, (x, y) in zip(images, corners, strict=True)]
    return np.stack(crops), labels


# --- glyphs ---------------------------------------------------------------------------------------------------------


@functools.cache
def _typefaces() -> list[list[Image.Image]]:
    """For each font and stroke the glyphs 0..9, cropped to their ink, GLYPH_HEIGHT high."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = sorted(path for pattern in FONT_PATTERNS for path in folder.glob(pattern))
    fonts = [ImageFont.truetype(path, 2 * GLYPH_HEIGHT) for path in paths]
    return [[_glyph(digit, font, stroke) for digit in "0123456789"] for font in fonts for stroke in STROKES]


def _glyph(digit: str, font: ImageFont.FreeTypeFont, stroke: int) -> Image.Image:
    canvas = Image.new("L", (4 * GLYPH_HEIGHT, 4 * GLYPH_HEIGHT))
    position = (GLYPH_HEIGHT, 3 * GLYPH_HEIGHT)
    ImageDraw.Draw(canvas).text(position, digit, fill=255, font=font, anchor="ls", stroke_width=stroke)
    ink = canvas.crop(canvas.getbbox())
    return ink.resize((max(1, round(ink.width * GLYPH_HEIGHT / ink.height)), GLYPH_HEIGHT), Image.Resampling.BOX)


def _glyph_masks(rng: np.random.Generator, labels: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Coverage by ink in [0, 1], (B, F, F) float32: each label's glyph in the middle of its crop, others beside it."""
    typefaces = _typefaces()
    faces = rng.integers(len(typefaces), size=BLOCK)
    neighbours = rng.choice(10, size=(BLOCK, 2), p=LABEL_FREQUENCIES)
    present = rng.random((BLOCK, 2)) < 0.6  # numbers have two or three digits mostly
    gaps = np.clip(rng.normal(6, 4, size=BLOCK), 0, 20).astype(int)  # screwed on by hand: from touching to half a glyph
    views = _views(rng, corners)
    masks = np.empty((BLOCK, FIELD, FIELD), np.float32)
    for i, glyphs in enumerate([typefaces[face] for face in faces]):
        left, right = (glyphs[n] if shown else None for n, shown in zip(neighbours[i], present[i], strict=True))
        strip = _strip(left, glyphs[labels[i]], right, gaps[i])
        seen = strip.transform((2 * FIELD, 2 * FIELD), Image.Transform.PERSPECTIVE, views[i], Image.Resampling.BILINEAR)
        masks[i] = np.asarray(seen.reduce(2)) / np.float32(255)
    return masks


def _strip(left: Image.Image | None, middle: Image.Image, right: Image.Image | None, gap: int) -> Image.Image:
    """The glyphs side by side, `middle` centred; None leaves a side empty."""
    strip = Image.new("L", CANVAS)
    top, start = (CANVAS[1] - GLYPH_HEIGHT) // 2, (CANVAS[0] - middle.width) // 2
    if left is not None:
        strip.paste(left, (start - gap - left.width, top))
    if right is not None:
        strip.paste(right, (start + middle.width + gap, top))
    strip.paste(middle, (start, top), middle)
    return strip


def _views(rng: np.random.Generator, corners: np.ndarray) -> np.ndarray:
    """Coefficients (B, 8) of Pillow's PERSPECTIVE, from the field at twice its size to the strip."""
    height = np.clip(rng.normal(22, 3, BLOCK), 14, 29)  # SVHN's crops leave some margin above and below
    width_factor = np.exp(rng.normal(-0.2, 0.2, BLOCK))  # condensed more often than extended
    angle, shear = rng.normal(0, 0.08, BLOCK), rng.normal(0, 0.08, BLOCK)  # radians
    tilt = rng.normal(0, 0.001, (2, BLOCK))  # seen from the side: change of scale per half pixel
    zoom_y = GLYPH_HEIGHT / (2 * height)
    zoom_x = zoom_y / width_factor
    a, b = zoom_x * np.cos(angle), zoom_x * (np.sin(angle) + shear)
    d, e = -zoom_y * np.sin(angle), zoom_y * np.cos(angle)
    x, y = 2 * (corners.T + SIDE / 2 + rng.normal(0, 1.0, (2, BLOCK)))  # annotators' boxes are off by a pixel or so
    u, v = np.array(CANVAS)[:, None] / 2
    w = 1 - tilt[0] * x - tilt[1] * y  # so that the middle stays in the middle, at the same scale
    a, b, d, e = a + u * tilt[0], b + u * tilt[1], d + v * tilt[0], e + v * tilt[1]  # the quotient's derivative
    return np.stack([a, b, u - a * x - b * y, d, e, v - d * x - e * y, *tilt]).T / w[:, None]


# --- the scene ------------------------------------------------------------------------------------------------------
# In logits of brightness: light, shadow and paint multiply in the world, so they add here, and the tone curve (the
# logistic function, in _expose) bends dark and bright ends as a camera does instead of cutting them off.
# The three planes are luma, blue minus luma and red minus luma: colours differ less between pixels than brightness.


def _scene(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """What stands before the lens, (B, 3, F, F) float32; `ink` (B, F, F) is the glyphs' coverage."""
    contrast = np.clip(np.exp(rng.normal(np.log(1.5), 0.55, BLOCK)), 0.6, 4.5)  # a number is meant to be read
    exposure = rng.normal(-0.35, 0.72, BLOCK)
    contrast *= 1 + 0.25 * exposure**2  # and stays so in the dark and in the glare, where the tone curve is flat
    dark_ink = rng.random(BLOCK) < 1 / (1 + np.exp(-1.3 * (exposure + 0.3)))  # dark on bright walls, bright on dark
    contrast = _column(np.where(dark_ink, -contrast, contrast))
    blue_wall, red_wall = _colours(rng, 0.20, 0.075)
    blue_ink, red_ink = _colours(rng, 0.15, 0.06)
    ink_less_mean = ink - 0.35  # a third of a crop is ink: so contrast leaves the mean brightness alone
    luma = _column(exposure) + contrast * ink_less_mean + _relief(rng, ink) + _daylight(rng) + _texture(rng)
    blue = 0.10 + blue_wall + ink * (blue_ink - 0.1 * contrast)  # what is darker is bluer: it is lit by the sky alone
    red = -0.02 + red_wall + ink * red_ink
    for _ in range(2):  # a plate has an edge on either side
        side = _side(rng)
        luma += side * _column(rng.laplace(0, 0.25, BLOCK))
        blue_side, red_side = _colours(rng, 0.1, 0.04)
        blue, red = blue + side * blue_side, red + side * red_side
    return np.stack([luma, blue, red], axis=1)


def _colours(rng: np.random.Generator, blue: float, red: float) -> tuple[np.ndarray, np.ndarray]:
    """Blue and red of B paints, (B, 1, 1) each: mostly grey, seldom strong (Laplace), from sky blue to brick orange."""
    sky, brick = rng.laplace(0, blue, BLOCK), rng.laplace(0, red, BLOCK)
    return _column(sky), _column(brick - 0.5 * sky)


def _relief(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """The shadow, or the lit edge, which raised numbers have at one side."""
    depth = _column(rng.laplace(0, 0.25, BLOCK))
    down, right = rng.normal(0, 1.2, (2, BLOCK))
    softness = np.ones(BLOCK)  # the sky's light casts no sharp shadows
    return depth * (ink - _smoothing(softness, down) @ ink @ _smoothing(softness, right).transpose(0, 2, 1))


def _daylight(rng: np.random.Generator) -> np.ndarray:
    """Light which falls off evenly over the picture; more sideways than downwards, as beside a door."""
    position = np.arange(FIELD, dtype=np.float32) - FIELD / 2
    across, down = rng.laplace(0, 0.012, BLOCK), rng.laplace(0, 0.008, BLOCK)
    return _column(across) * position + _column(down) * position[:, None]


def _side(rng: np.random.Generator) -> np.ndarray:
    """Coverage in [0, 1], (B, F, F), of what begins beside the number: a plate's edge, a door frame, a shadow."""
    position = np.arange(FIELD, dtype=np.float32) - FIELD / 2
    direction = rng.integers(4, size=BLOCK) * np.pi / 2 + rng.normal(0, 0.08, BLOCK)
    distance = position * _column(np.cos(direction)) + position[:, None] * _column(np.sin(direction))
    return np.clip(distance - _column(rng.uniform(9, 20, BLOCK)), 0, 1)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Stucco, brick and wood, (B, F, F): noise whose amplitude falls with frequency, from smooth to coarse walls."""
    rows, columns = np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD)
    falloff = (np.hypot(rows, columns) + 1 / FIELD) ** -1.6  # between 1 / f and 1 / f^2, as in most photos
    noise = rng.standard_normal((BLOCK, FIELD, FIELD), dtype=np.float32)
    texture = np.fft.irfft2(np.fft.rfft2(noise) * falloff.astype(np.float32), s=(FIELD, FIELD))
    amplitude = np.minimum(np.exp(rng.normal(np.log(0.04), 1.0, BLOCK)), 0.3)  # from paint to rough brick
    return texture / texture.std() * _column(amplitude)


# --- the camera -----------------------------------------------------------------------------------------------------


def _photograph(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Images (B, 3, F, F) uint8 of a scene (B, 3, F, F)."""
    light = _expose(_defocus(rng, scene))
    light += 0.0035 * rng.standard_normal(light.shape, dtype=np.float32)  # about one of the 255 levels
    pixels = np.clip(np.rint(light * 255), 0, 255).astype(np.uint8)
    quality = rng.integers(75, 97, size=BLOCK)  # street photos are stored well, ringing shows in the worst
    stored = [_through_jpeg(image, int(level)) for image, level in zip(pixels, quality, strict=True)]
    return np.stack(stored).transpose(0, 3, 1, 2)


def _defocus(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Blurred as the lens, the motion and enlarging did: pictures differ in this more than in anything else."""
    sigma = np.clip(np.exp(rng.normal(np.log(1.1), 0.5, BLOCK)), 0.6, 2.5)  # beyond it no digit is readable
    stretch = np.exp(rng.normal(0, 0.2, BLOCK))  # blurred along one axis by motion
    fringe = rng.normal(0, 0.4, (2, BLOCK))  # colour planes do not lie quite on the luma's
    grain = _column(np.exp(rng.normal(np.log(0.05), 0.5, BLOCK)))  # sensor noise, which enlarging blurs with the rest
    still = np.zeros(BLOCK)
    scene = scene + grain[:, None] * rng.standard_normal(scene.shape, dtype=np.float32)
    soft = np.hypot(1.2, 1.4 * sigma)  # colour is stored at half the resolution
    down = np.stack([_smoothing(sigma * stretch, still), *[_smoothing(soft, fringe[0])] * 2], axis=1)
    across = np.stack([_smoothing(sigma / stretch, still), *[_smoothing(soft, fringe[1])] * 2], axis=1)
    return down @ scene @ across.transpose(0, 1, 3, 2)


def _smoothing(sigma: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Matrices (B, F, F) which blur by sigma (B,) and shift by `shift` (B,) along one axis: every row is a Gaussian."""
    position = np.arange(FIELD, dtype=np.float32)
    distance = position - position[:, None] + _column(shift)
    weights = np.exp(-0.5 * (distance / _column(sigma)) ** 2)
    return weights / weights.sum(axis=2, keepdims=True)


def _expose(scene: np.ndarray) -> np.ndarray:
    """The tone curve: logits (B, 3, F, F) of luma and differences -> RGB (B, F, F, 3) in (0.02, 1.02)."""
    luma, blue, red = scene.transpose(1, 0, 2, 3)
    green = -(0.299 * red + 0.114 * blue) / 0.587  # luma is 0.299 R + 0.587 G + 0.114 B
    logits = luma[..., None] + np.stack([red, green, blue], axis=-1)
    return 0.02 + 1 / (1 + np.exp(-logits))  # haze lifts the blacks, and bright walls reach full scale


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """(F, F, 3) uint8 -> the same after JPEG's rounding in cells of 8 x 8 and halving of the colours' resolution"""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def _column(values: np.ndarray) -> np.ndarray:
    """(B,) -> (B, 1, 1) float32, to multiply (B, F, F)"""
    return np.asarray(values, np.float32)[:, None, None]
