"""Grids and captions: each image where it belongs, at its values, clipped."""

import numpy as np
import torch

from svhn_vae.pictures import CAPTION_HEIGHT, GAP, MAGNIFICATION, captioned, grid

SIZE = 32 * MAGNIFICATION + GAP


def test_grid_puts_images_row_by_row():
    x = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 32, 32) / 255
    sheet = grid(x, 3)
    assert sheet.shape == (2 * SIZE, 3 * SIZE, 3)
    assert [[int(sheet[row * SIZE, column * SIZE, 0]) for column in range(3)] for row in range(2)] == [
        [0, 1, 2],
        [3, 4, 5],
    ]


def test_grid_magnifies_pixels_and_keeps_channels():
    x = torch.zeros(1, 3, 32, 32)
    x[0, 1, 4, 7] = 1.0
    sheet = grid(x, 1)
    top, left = 4 * MAGNIFICATION, 7 * MAGNIFICATION
    assert (sheet[top : top + MAGNIFICATION, left : left + MAGNIFICATION] == [0, 255, 0]).all()
    assert (sheet[:-GAP, :-GAP, 1] > 0).sum() == MAGNIFICATION**2


def test_grid_clips_what_leaves_the_range():
    sheet = grid(torch.tensor([-3.0, 0.5, 7.0]).view(3, 1, 1, 1).expand(3, 3, 32, 32), 3)
    assert [int(sheet[0, column * SIZE, 0]) for column in range(3)] == [0, 128, 255]


def test_caption_is_below_and_leaves_the_picture_alone():
    picture = np.random.default_rng(0).integers(0, 256, (60, 300, 3), dtype=np.uint8)
    sheet = captioned(picture, "samples, synthetic data")
    assert sheet.shape == (60 + CAPTION_HEIGHT, 300, 3)
    assert (sheet[:60] == picture).all()
    assert (sheet[60:] < 128).any()
