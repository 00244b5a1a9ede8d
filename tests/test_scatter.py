"""Mean and scatter of the pixels: numpy, scipy and scikit-learn are the oracles."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn.decomposition import PCA

from conftest import in_batches
from svhn_vae.model import covariance
from svhn_vae.model.covariance import (
    DEQUANTISATION_VARIANCE,
    FITS,
    fit_degrees_of_freedom,
    floored,
    mahalanobis,
    robust_moments,
    sample_moments,
    shrunk,
    student_t_log_prob,
)

NUM_PIXELS = 48


def some_x(num_images: int) -> np.ndarray:
    """Correlated pixels of very different variance, far from 0."""
    rng = np.random.default_rng(num_images)
    return 0.5 + rng.standard_normal((num_images, NUM_PIXELS)) @ (
        rng.standard_normal((NUM_PIXELS, NUM_PIXELS)) * np.geomspace(0.1, 1e-3, NUM_PIXELS)
    )


@pytest.mark.parametrize("num_images", [5, 47, 48, 49, 5000])
def test_numpy_and_scikit_learn_are_the_oracles(num_images):
    """Signs included."""
    x = some_x(num_images)
    fitted, covariance = sample_moments(in_batches(x)), np.cov(x, rowvar=False)
    eigenvalues = linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(fitted.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.eigenvalues, eigenvalues.clip(min=0), rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(scatter_of(fitted), covariance, atol=1e-6 * eigenvalues[0])
    assert fitted.degrees_of_freedom == math.inf
    torch.testing.assert_close(fitted.variances, fitted.eigenvalues, rtol=1e-12, atol=0)
    if num_images > NUM_PIXELS:
        np.testing.assert_allclose(fitted.components, PCA(svd_solver="full").fit(x).components_, atol=1e-5)


@pytest.mark.parametrize("num_images", [2, 47, 48, 300])
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_basis_is_complete_and_orthonormal_and_the_same_in_every_run(fit, num_images):
    x = some_x(num_images)
    fitted = fit(in_batches(x))
    assert fitted.components.shape == (NUM_PIXELS, NUM_PIXELS)
    assert fitted.components.dtype == torch.float32
    assert fitted.mean.dtype == fitted.eigenvalues.dtype == torch.float64
    basis = fitted.components.double()
    np.testing.assert_allclose(basis @ basis.T, np.eye(NUM_PIXELS), atol=1e-6)
    assert (fitted.eigenvalues.diff() <= 0).all()
    assert all(array.isfinite().all() for array in fitted if array.ndim)
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(torch.equal(array, again) for array, again in zip(fitted, fit(in_batches(x)), strict=True))


@pytest.mark.parametrize("num_images", [2, 5, 47])
def test_no_variance_beyond_the_number_of_images(num_images):
    """N images less their mean span N - 1 dimensions; rounding may give the N-th a trace."""
    x = some_x(num_images)
    fitted = sample_moments(in_batches(x))
    assert fitted.eigenvalues[num_images:].tolist() == [0] * (NUM_PIXELS - num_images)
    assert fitted.eigenvalues[num_images - 2] > 1e-12 > fitted.eigenvalues[num_images - 1]
    beyond = (x - x.mean(axis=0)) @ fitted.components[num_images:].double().numpy().T
    np.testing.assert_allclose(beyond, 0, atol=1e-6)


def divergence(found: np.ndarray, true: np.ndarray) -> float:
    """Of Gaussians with these variances, the mean over directions: what a code for images pays for wrong variances."""
    return (true / found - np.log(true / found) - 1).mean() / 2


@pytest.mark.parametrize("num_images", [50, 100, 150, 250, 400, 1000])
def test_shrunk_variances_are_nearer_to_those_of_other_images(num_images):
    """The oracle is the true covariance, along the axes that were found: of 200 pixels, more than images and fewer."""
    rng, true = np.random.default_rng(0), np.geomspace(1, 1e-3, 200)
    sample = sample_moments(in_batches(rng.standard_normal((num_images, 200)) * np.sqrt(true)))
    found, expected = shrunk(sample, num_images), sample.components.double().numpy() ** 2 @ true
    rank, eigenvalues = min(200, num_images - 1), found.eigenvalues.numpy()
    assert (found.eigenvalues.diff() <= 0).all()
    torch.testing.assert_close(found.variances, found.eigenvalues)
    before = divergence(sample.eigenvalues.numpy()[:rank], expected[:rank])
    assert divergence(eigenvalues[:rank], expected[:rank]) < 0.2 * before
    np.testing.assert_allclose(eigenvalues[rank:].sum(), expected[rank:].sum(), rtol=0.1)


def test_equal_variances_are_found_equal_and_two_images_say_nothing():
    x = np.random.default_rng(0).standard_normal((300, 100))
    sample = sample_moments(in_batches(x))
    assert sample.eigenvalues.max() / sample.eigenvalues.min() > 10
    found = shrunk(sample, 300).eigenvalues
    np.testing.assert_allclose(found, 1, atol=0.3)
    assert found.std() < 0.1
    few = sample_moments(in_batches(x[:2]))
    assert shrunk(few, 2) is few


def scatter_of(fitted) -> np.ndarray:
    basis = fitted.components.double().numpy()
    return basis.T * fitted.eigenvalues.numpy() @ basis


# --- Student-t ------------------------------------------------------------------------------------------------------

NUM_DIMS, DEGREES = 6, 4.0
MEAN = np.linspace(0.3, 0.7, NUM_DIMS)
SCATTER = linalg.toeplitz(0.01 * 0.7 ** np.arange(NUM_DIMS)) * np.geomspace(1, 0.5, NUM_DIMS)
SCATTER = (SCATTER + SCATTER.T) / 2
LAW = stats.multivariate_t(MEAN, SCATTER, DEGREES)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return LAW.rvs(20_000, random_state=0)


def test_log_density_is_scipys(drawn):
    """Of the scatter plus the noise's variance, which the fit adds."""
    distances, log_det = mahalanobis(np.array_split(drawn, 3), MEAN, SCATTER)
    oracle = stats.multivariate_t(MEAN, SCATTER + DEQUANTISATION_VARIANCE * np.eye(NUM_DIMS), DEGREES)
    found = student_t_log_prob(distances, DEGREES, NUM_DIMS) - 0.5 * log_det
    np.testing.assert_allclose(found, oracle.logpdf(drawn), rtol=1e-10)
    for degrees in (1.0, 4.0, 30.0):  # are found, with no less likelihood
        x = stats.multivariate_t(MEAN, SCATTER, degrees).rvs(20_000, random_state=1)
        distances, _ = mahalanobis([x], MEAN, SCATTER)
        found, log_likelihood = fit_degrees_of_freedom(distances, NUM_DIMS)
        assert found == pytest.approx(degrees, rel=0.1)
        assert log_likelihood == pytest.approx(student_t_log_prob(distances, found, NUM_DIMS).mean(), abs=1e-9)
        assert log_likelihood >= student_t_log_prob(distances, degrees, NUM_DIMS).mean()


def test_robust_moments_are_those_of_the_law_with_no_less_likelihood(drawn):
    """Of Gaussian images they are those of the covariance, with many degrees of freedom."""
    fitted = robust_moments(in_batches(drawn))
    np.testing.assert_allclose(fitted.mean, MEAN, atol=3e-3)
    np.testing.assert_allclose(scatter_of(fitted), SCATTER, atol=5e-4)
    assert fitted.degrees_of_freedom.item() == pytest.approx(DEGREES, rel=0.05)
    found = stats.multivariate_t(fitted.mean.numpy(), scatter_of(fitted), fitted.degrees_of_freedom.item())
    assert found.logpdf(drawn).mean() > LAW.logpdf(drawn).mean() - 1e-3 * NUM_DIMS  # what a step may still gain
    x = np.random.default_rng(0).multivariate_normal(MEAN, SCATTER, 20_000)
    fitted = robust_moments(in_batches(x))
    assert fitted.degrees_of_freedom > 100
    np.testing.assert_allclose(scatter_of(fitted), np.cov(x.T), atol=2e-4)


def test_variances_are_the_eigenvalues_in_the_size_of_the_images_variance(drawn):
    """So that y has unit average variance, whatever the tails."""
    fitted = robust_moments(in_batches(drawn))
    ratio = fitted.variances / fitted.eigenvalues
    assert ratio.max().item() == pytest.approx(ratio.min().item(), rel=1e-9)
    assert fitted.variances.sum().item() == pytest.approx(drawn.var(0).sum(), rel=1e-9)
    scores = (drawn - MEAN) @ fitted.components.double().numpy().T
    np.testing.assert_allclose(fitted.variances, scores.var(0), rtol=0.15)  # of heavy tails


def test_an_images_own_scale_leaves_the_axes_alone():
    """Each image times a factor of its own: the covariance is spoilt, the robust scatter keeps its shape."""
    rng = np.random.default_rng(2)
    gaussian = rng.multivariate_normal(np.zeros(NUM_DIMS), SCATTER, 5000)
    scaled = gaussian * np.exp(1.5 * rng.standard_normal((5000, 1)))
    wanted, plain = SCATTER / np.trace(SCATTER), np.cov(scaled.T) / np.trace(np.cov(scaled.T))
    robust = scatter_of(robust_moments(in_batches(scaled)))
    robust /= np.trace(robust)
    assert np.abs(robust - wanted).max() < 0.02
    assert np.abs(robust - wanted).max() < 0.5 * np.abs(plain - wanted).max()


def test_no_robust_variance_is_below_the_noise():
    """Also of few images, and of the same image again and again."""
    for x in (*map(some_x, (2, 5, 47, 49)), np.full((5, NUM_PIXELS), 0.5)):
        fitted = robust_moments(in_batches(x))
        assert all(array.isfinite().all() for array in fitted)
        assert fitted.eigenvalues.min().item() >= DEQUANTISATION_VARIANCE * (1 - 1e-6)
    assert floored(torch.tensor([1.0, 0.0])).min().item() == pytest.approx(1 / (12 * 256**2))


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("num_images", [2, 10, 40])
def test_few_images_take_a_short_way_to_the_same_moments(fit, num_images, monkeypatch):
    """Where the images span less than half of the directions; the directions without images are any."""
    x = torch.rand(num_images, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few = fit([x])
    monkeypatch.setattr(covariance, "are_few", lambda _: False)
    full = fit([x])
    for name in ("mean", "eigenvalues", "degrees_of_freedom", "total_variance"):
        torch.testing.assert_close(getattr(few, name), getattr(full, name), rtol=1e-5, atol=1e-9)
    rank = num_images - 1
    cosines = (few.components[:rank] * full.components[:rank]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(rank), rtol=0, atol=1e-4)
    torch.testing.assert_close(few.components @ few.components.T, torch.eye(80), rtol=0, atol=1e-5)
