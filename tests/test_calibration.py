"""Calibration of sigma, on errors that are known."""

import pytest
import torch

from svhn_vae.evaluation.calibration import Residuals, calibration, draw, residuals
from svhn_vae.model.variance import DiagonalNormal

NUM_IMAGES = 2000


def found(sigma: torch.Tensor, true_sigma: torch.Tensor):
    error = true_sigma * torch.randn(NUM_IMAGES, *sigma.shape[1:])
    return calibration([Residuals(error, sigma)])  # of a decoder whose mean is 0


def test_a_right_sigma_is_found_right():
    sigma = torch.rand(NUM_IMAGES, 20) + 0.1
    right = found(sigma, sigma)
    assert right.residual_variance == pytest.approx(1, abs=0.03)
    for percent, inside in right.coverage.items():
        assert inside == pytest.approx(percent / 100, abs=0.01)
    torch.testing.assert_close(right.actual, right.predicted, rtol=0.06, atol=0)
    torch.testing.assert_close(right.predicted, right.predicted.sort().values)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_sigma_of_the_wrong_size_is_found_so(factor):
    sigma = torch.rand(NUM_IMAGES, 20) + 0.1
    wrong = found(sigma * factor, sigma)
    assert wrong.residual_variance == pytest.approx(factor**-2, rel=0.03)
    assert (wrong.coverage[50] > 0.5) == (factor > 1)
    torch.testing.assert_close(wrong.actual, wrong.predicted / factor, rtol=0.06, atol=0)


def test_batches_add_up():
    sigma = torch.rand(10, 3) + 0.1
    whole = Residuals(torch.randn(10, 3), sigma)
    parts = [Residuals(*(array[cut] for array in whole)) for cut in (slice(0, 4), slice(4, 10))]
    one, two = calibration([whole]), calibration(parts)
    assert one.metrics == two.metrics
    assert torch.equal(one.actual, two.actual)


def test_residuals_are_of_the_mean_and_sigma():
    mean, log_variance, y = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3)
    standardised = residuals(DiagonalNormal(mean, log_variance), y).standardised
    torch.testing.assert_close(standardised, (y - mean) / (0.5 * log_variance).exp())


@pytest.mark.parametrize("event_shape", [(1,), (20,), (3, 4, 4)])
def test_the_plot_is_a_picture(event_shape):
    sigma = torch.full((NUM_IMAGES, *event_shape), 0.3)  # the same in every bin
    picture = draw(found(sigma, sigma), "caption")
    assert picture.shape[2] == 3
    assert len(picture.reshape(-1, 3)) > 1e5
    assert picture.std() > 10
