"""Closeness and sharpness of images: formulas by hand, and blur made by scipy."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import mean_squared_error

from svhn_vae.evaluation.samples import psnr, reconstruction_metrics, round_trip_metrics, sharpness
from test_lit import fitted, fitted_module


def images(num: int = 20) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_psnr_is_the_mean_over_images():
    a, b = images(), images().flip(0)
    by_hand = [10 * math.log10(1 / mean_squared_error(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True)]
    assert psnr(a, b) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_psnr_of_the_same_images_is_that_of_a_level():
    assert psnr(images(), images()) == pytest.approx(20 * math.log10(256))


def test_sharpness_falls_with_blur_and_rises_with_noise():
    sharp = images()
    blurred = [torch.from_numpy(gaussian_filter(sharp.numpy(), (0, 0, sigma, sigma))) for sigma in (0.5, 1, 2)]
    assert sharpness(sharp, sharp) == 1
    found = [sharpness(image, sharp) for image in blurred]
    assert 1 > found[0] > found[1] > found[2] > 0
    assert sharpness(sharp.mean((2, 3), keepdim=True).expand_as(sharp), sharp) == 0
    assert sharpness(sharp + 0.3 * torch.randn(sharp.shape), sharp) > 1
    assert sharpness(0.5 * sharp + 0.2, sharp) == pytest.approx(0.25)  # an energy: half the contrast, a quarter


def test_a_model_that_gives_its_input_back_is_as_sharp(monkeypatch):
    vae = fitted_module().vae.eval()
    x = images()
    monkeypatch.setattr(vae, "reconstruct", lambda features: x + 0.0)
    assert reconstruction_metrics(vae, x, vae.representation(x)) == {
        "reconstruction/psnr": pytest.approx(20 * math.log10(256)),
        "reconstruction/sharpness": 1,
    }


def test_clipping_saves_what_wrapping_ruins():
    """An image of extreme levels leaves [0, 1) by a little when components are cut off: wrapped, by a whole range."""
    representation = fitted("pca=dct", "pca.n_components=300", "network_scale=0.03125").vae.representation
    x = (images() > 0.5).float() * 255 / 256
    found = round_trip_metrics(representation, x, representation(x))
    back = representation.inverse(representation(x).y)
    assert (back < 0).any()
    assert (back > 1).any()
    assert found["round_trip/psnr_clipped"] == pytest.approx(psnr(back.clamp(0, 1), x))
    assert found["round_trip/psnr_clipped"] > found["round_trip/psnr_wrapped"]
