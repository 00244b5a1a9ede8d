"""Calibration of sigma, on errors that are known."""

import math

import pytest
import torch

from svhn_vae.evaluation.calibration import Residuals, calibration, draw, half_width, residuals
from svhn_vae.model.variance import DiagonalNormal

NUM_IMAGES = 2000


def found(sigma: torch.Tensor, true_sigma: torch.Tensor):
    error = true_sigma * torch.randn(NUM_IMAGES, *sigma.shape[1:])
    return calibration([Residuals(error, sigma)])  # of a decoder whose mean is 0


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_a_sigma_of_the_right_or_wrong_size_is_found_so(factor):
    sigma = torch.rand(NUM_IMAGES, 20) + 0.1
    looked_at = found(sigma * factor, sigma)
    assert looked_at.residual_variance == pytest.approx(factor**-2, rel=0.03)
    torch.testing.assert_close(looked_at.actual, looked_at.predicted / factor, rtol=0.06, atol=0)
    torch.testing.assert_close(looked_at.predicted, looked_at.predicted.sort().values)
    for percent, inside in looked_at.coverage.items():
        assert inside == pytest.approx(math.erf(factor * half_width(percent) / math.sqrt(2)), abs=0.01)


def test_residuals_are_of_the_mean_and_sigma_and_batches_add_up():
    mean, log_variance, y = torch.randn(10, 3), torch.randn(10, 3), torch.randn(10, 3)
    whole = residuals(DiagonalNormal(mean, log_variance), y)
    torch.testing.assert_close(whole.standardised, (y - mean) / (0.5 * log_variance).exp())
    parts = [Residuals(*(array[cut] for array in whole)) for cut in (slice(0, 4), slice(4, 10))]
    one, two = calibration([whole]), calibration(parts)
    assert one.metrics == two.metrics
    assert torch.equal(one.actual, two.actual)


@pytest.mark.parametrize("event_shape", [(1,), (20,), (3, 4, 4)])
def test_the_plot_is_a_picture(event_shape):
    sigma = torch.full((NUM_IMAGES, *event_shape), 0.3)  # the same in every bin
    picture = draw(found(sigma, sigma), "caption")
    assert picture.shape[2] == 3
    assert len(picture.reshape(-1, 3)) > 1e5
    assert picture.std() > 10
