"""Pictures of a VAE, as uint8 arrays (height, width, 3) and as PNG files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from svhn_vae.data.batches import dequantise
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.vae import VAE

MAGNIFICATION = 3
GAP = 2  # pixels between images
CAPTION_HEIGHT = 20


def samples(vae: VAE, rows: int, columns: int) -> np.ndarray:
    """Mean images of latents from the prior; the same latents for every variant with as many dimensions."""
    generator = torch.Generator().manual_seed(derive_seed(Stream.PICTURES))
    z = torch.randn(rows * columns, vae.networks.latent_dim, generator=generator)
    return grid(vae.decode_mean(z.to(vae.device)), columns)


def reconstructions(vae: VAE, images: Tensor, columns: int) -> np.ndarray:
    """images (N, 3, 32, 32) uint8: a row of originals, a row of their reconstructions below, and so on."""
    x = dequantise(images, derive_seed(Stream.PICTURES, 1)).to(vae.device)
    rebuilt = vae.reconstruct(vae.representation(x))
    rows = [part for pair in zip(x.split(columns), rebuilt.split(columns), strict=True) for part in pair]
    return grid(torch.cat(rows), columns)


def grid(x: Tensor, columns: int) -> np.ndarray:
    """Images (N, 3, H, W) in [0, 1), clipped if they are not -> one picture, row by row, each pixel magnified."""
    x = (x.float().clamp(0, 1) * 255).round().byte().cpu()
    x = x.repeat_interleave(MAGNIFICATION, 2).repeat_interleave(MAGNIFICATION, 3)
    num, channels, height, width = x.shape
    rows = -(-num // columns)
    sheet = torch.full((channels, rows * (height + GAP), columns * (width + GAP)), 255, dtype=torch.uint8)
    for index, image in enumerate(x):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet.permute(1, 2, 0).numpy()


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture with a line of text below, so that it says what it shows wherever it is copied."""
    height, width, _ = picture.shape
    sheet = Image.new("RGB", (width, height + CAPTION_HEIGHT), "white")
    sheet.paste(Image.fromarray(picture))
    ImageDraw.Draw(sheet).text((4, height), caption, "black", font_size=CAPTION_HEIGHT * 0.7)
    return np.asarray(sheet)


def write_png(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
