"""Samples and reconstructions: closed forms, double loops, scipy and point sets made by hand are the oracles."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from sklearn.metrics import mean_squared_error

from svhn_vae.evaluation import samples as module
from svhn_vae.evaluation.judge import Judge, Opinion
from svhn_vae.evaluation.samples import (
    References,
    agreement,
    digit_entropy,
    frechet_distance,
    judge_scores,
    memorised,
    nearest,
    posterior_predictive,
    psnr,
    reconstruction_metrics,
    round_trip_metrics,
    share_among,
    sharpness,
    to_levels,
)
from test_lit import fitted


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that every matrix of pairs here is made of several."""
    monkeypatch.setattr(module, "MAX_PAIRS", 100)


def normal(num: int, num_dims: int = 6, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(num, num_dims) @ torch.diag(torch.linspace(0.5, 2, num_dims)) + shift


# --- distances between two laws ---------------------------------------------------------------------------------------


def test_frechet_distance_of_any_gaussians():
    """Also with fewer samples than features, and with features that are 0 in all images, as ReLU makes them."""
    a, b = normal(40), normal(60, shift=1) @ torch.randn(6, 6)
    assert frechet_distance(a, b) == pytest.approx(by_formula(a, b), rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(by_formula(a, b), rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    a, b = normal(10, 30).relu(), normal(20, 30).relu()
    a[:, :5] = b[:, :5] = 0
    assert frechet_distance(a, b) == pytest.approx(by_formula(a, b), rel=1e-5)


def by_formula(a: torch.Tensor, b: torch.Tensor) -> float:
    A, B = (points.double().T.cov().numpy() for points in (a, b))
    values, vectors = np.linalg.eigh(A)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ B @ half).clip(0)).sum()
    return (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(A) + np.trace(B) - 2 * cross


# --- precision and recall ---------------------------------------------------------------------------------------------

LINE = torch.arange(10.0)[:, None]  # each radius is 2, but 3 at both ends: the third neighbour


def test_precision_and_recall_of_points_by_a_line():
    """The balls reach from -3 to 12; samples of one mode of two are precise and recall half."""
    for at, due in ((4.5, 1), (-2.9, 1), (-3.1, 0), (11.9, 1), (12.1, 0), (99, 0)):
        assert share_among(torch.tensor([[at]]), LINE) == due
    real, generated = torch.cat([LINE, LINE + 1000]), LINE[2:8] + 0.25
    assert share_among(generated, real) == 1
    assert share_among(real, generated) == 0.5
    with pytest.raises(ValueError, match="more than k = 3 images of a kind, got 3"):
        share_among(LINE, LINE[:3])


# --- digits, neighbours, memory ---------------------------------------------------------------------------------------


def test_memorised_and_digit_entropy():
    known, real = normal(200), normal(100)
    assert memorised(known[:50] + 1e-3, real, known) == 1
    assert memorised(normal(50) + 100, real, known) == 0
    assert memorised(real, real, known) == 0.5
    assert memorised(normal(200), real, known) == pytest.approx(0.5, abs=0.1)
    every = (real[:, None].double() - known.double()).square().sum(2).sqrt()
    torch.testing.assert_close(nearest(real, known), every.min(1).values.float())
    assert digit_entropy(torch.tensor([0, 0, 9, 9])) == pytest.approx(math.log(2))
    assert digit_entropy(torch.zeros(5, dtype=torch.long)) == 0
    x = torch.tensor([-0.5, 0.0, 0.5 / 256, 255 / 256, 0.9999, 1.0, 7.0])
    assert to_levels(x).tolist() == [0, 0, 0, 255, 255, 255, 255]


# --- what the judge says ----------------------------------------------------------------------------------------------


class Brightness(Judge):
    """Sees nothing but the mean level, in steps of 25.6 for the digit; it is sure of what is dark."""

    def opinion(self, images):
        level = images.float().mean((1, 2, 3))
        return Opinion(level[:, None], (level / 25.6).long(), 1 - level / 256)


def flat(*levels: float) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def test_agreement_of_analogies():
    variants = flat(0, 10, 200, 51, 61, 71).view(2, 3, 3, 4, 4)
    found = agreement(Brightness(1, 0, 3), flat(0, 51), variants)
    assert found["digit_agreement"] == pytest.approx((2 + 1) / 6)  # of 0: 0 and 0, not 7; of 1: 1, not 2 and 2
    assert found["colour_distance"] == pytest.approx((10 + 200 + 10 + 20) / 6 * 3**0.5 / 256)
    assert found["colour_distance_of_others"] == pytest.approx((51 + 41 + 149 + 51 + 61 + 71) / 6 * 3**0.5 / 256)


def test_judge_scores_are_of_the_samples():
    judge = Brightness(1, 0, 3)
    samples, test_images, train_images = flat(10, 20, 30, 40, 50), flat(*range(0, 200, 10)), flat(*range(5, 255, 5))
    level, of_test, of_train = (judge.opinion(images) for images in (samples, test_images, train_images))
    scores = judge_scores(judge, samples, References(test_images, of_test, of_train.features))
    assert math.isnan(scores.pop("sharpness"))  # these test images have no detail at all
    assert scores == {
        "frechet": frechet_distance(level.features, of_test.features),
        "precision": 1,
        "recall": share_among(of_test.features, level.features),
        "legibility": pytest.approx((2 / 5) / (3 / 20)),  # levels up to 25
        "digit_entropy": pytest.approx(-0.4 * math.log(0.4) - 0.6 * math.log(0.6)),  # 0 0 1 1 1
        "memorised": memorised(level.features, of_test.features, of_train.features),
    }
    assert all(isinstance(score, float) for score in scores.values())


# --- posterior predictive checks ------------------------------------------------------------------------------------


def test_moments_and_histograms_are_those_of_the_pixels():
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8) // torch.tensor([1, 2, 4])[:, None, None]
    found, channels = posterior_predictive(images), images.transpose(0, 1).flatten(1).numpy() / 256
    due = [channels.mean(1), channels.std(1), stats.skew(channels, axis=1), stats.kurtosis(channels, axis=1)]
    np.testing.assert_allclose(found["moments"], due, rtol=1e-4, atol=1e-5)
    counts = [[(of // (1 / 32) == at).mean() for at in range(32)] for of in channels]
    np.testing.assert_allclose(found["histograms"], counts, rtol=1e-4)


@pytest.mark.parametrize("cycles", [1, 5, 16])
def test_a_wave_has_all_its_power_at_its_frequency(cycles):
    wave = 128 + 100 * torch.cos(2 * torch.pi * cycles * torch.arange(32) / 32)
    [*spectrum] = posterior_predictive(wave.round().byte().expand(4, 3, 32, 32))["spectrum"]
    assert np.argmax(spectrum) == cycles - 1
    assert max(spectrum[: cycles - 1] + spectrum[cycles:], default=0) < 0.01 * spectrum[cycles - 1]


def test_the_spectrum_of_noise_is_flat_and_its_level_the_variance_and_checks_of_one_colour_are_finite():
    noise = torch.randint(0, 256, (500, 1, 32, 32), dtype=torch.uint8)
    np.testing.assert_allclose(posterior_predictive(noise)["spectrum"], 1 / 12, rtol=0.15)
    found = posterior_predictive(torch.full((5, 3, 32, 32), 77, dtype=torch.uint8))
    assert np.isfinite([*found["spectrum"], *np.ravel(found["moments"]), *np.ravel(found["histograms"])]).all()


# --- reconstructions ------------------------------------------------------------------------------------------------


def some_x(num: int = 20) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_psnr_is_the_mean_over_images_and_at_most_that_of_a_level():
    a, b = some_x(), some_x().flip(0)
    by_hand = [10 * math.log10(1 / mean_squared_error(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True)]
    assert psnr(a, b) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    assert psnr(a, a) == pytest.approx(20 * math.log10(256))
    vae = SimpleNamespace(reconstruct=lambda features: a)  # gives its input back
    due = {"reconstruction/psnr": psnr(a, a), "reconstruction/sharpness": 1}
    assert reconstruction_metrics(vae, a, None) == due


def test_sharpness_falls_with_blur_and_rises_with_noise():
    sharp = some_x()
    blurred = [torch.from_numpy(gaussian_filter(sharp.numpy(), (0, 0, sigma, sigma))) for sigma in (0.5, 1, 2)]
    assert sharpness(sharp, sharp) == 1
    found = [sharpness(image, sharp) for image in blurred]
    assert 1 > found[0] > found[1] > found[2] > 0
    assert sharpness(sharp.mean((2, 3), keepdim=True).expand_as(sharp), sharp) == 0
    assert sharpness(sharp + 0.3 * torch.randn(sharp.shape), sharp) > 1
    assert sharpness(0.5 * sharp + 0.2, sharp) == pytest.approx(0.25)  # an energy: half the contrast, a quarter


def test_clipping_saves_what_wrapping_ruins():
    """An image of extreme levels leaves [0, 1) by a little when components are cut off: wrapped, by a whole range."""
    representation = fitted("pca=dct", "pca.n_components=300", "network_scale=0.03125").vae.representation
    x = (some_x() > 0.5).float() * 255 / 256
    found = round_trip_metrics(representation, x, representation(x))
    back = representation.inverse(representation(x).y)
    assert back.min() < 0 < 1 < back.max()
    assert found["round_trip/psnr_clipped"] == pytest.approx(psnr(back.clamp(0, 1), x))
    assert found["round_trip/psnr_clipped"] > found["round_trip/psnr_wrapped"]
