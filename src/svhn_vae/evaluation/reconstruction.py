"""How close and how sharp images come back, through the whole model and through its coordinates alone.

Shapes: N images (N, 3, H, W) with x in [0, 1), and their features.
"""

from torch import Tensor

from svhn_vae.model.coordinates import Features, Representation
from svhn_vae.model.vae import VAE


def reconstruction_metrics(vae: VAE, x: Tensor, features: Features) -> dict[str, float]:
    """Of reconstructions by the posterior's and the decoder's mean, clipped: psnr in dB, and sharpness."""
    back = vae.reconstruct(features).clamp(0, 1)
    return {"reconstruction/psnr": psnr(back, x), "reconstruction/sharpness": sharpness(back, x)}


def round_trip_metrics(representation: Representation, x: Tensor, features: Features) -> dict[str, float]:
    """Of images that keep their K coordinates alone, as an 8-bit picture: levels beyond 0..255 clipped, or wrapped as
    an integer wraps them (the post's corruption)."""
    back = representation.inverse(features.y)
    return {"round_trip/psnr_clipped": psnr(back.clamp(0, 1), x), "round_trip/psnr_wrapped": psnr(back.remainder(1), x)}


def psnr(images: Tensor, originals: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over images; at most that of one level of 256."""
    error = (images - originals).square().flatten(1).mean(1).clamp(min=256.0**-2)
    return (-10 * error.log10()).mean().item()


def sharpness(images: Tensor, originals: Tensor) -> float:
    """The energy of the images' differences between neighbouring pixels, relative to that of the originals (M, 3, H,
    W), which may be others: 1 is as sharp, 0 has no detail, noise is sharper than images."""
    return (detail(images) / detail(originals)).item()


def detail(images: Tensor) -> Tensor:
    """Mean square of the differences between neighbouring pixels, down and across."""
    return images.diff(dim=-1).square().mean() + images.diff(dim=-2).square().mean()
