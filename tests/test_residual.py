"""Laws of the residual's density; the Gaussian ones against scikit-learn stand in test_representation.py."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from svhn_vae.residual import RESIDUALS, Residual


@pytest.fixture(params=RESIDUALS)
def residual(request) -> Residual:
    return RESIDUALS[request.param](1, 24)


def test_density_integrates_to_one(residual):
    variance = residual.fit(torch.tensor([0.3]))
    grid = torch.linspace(-40, 40, 800_001)
    params = torch.full((len(grid), residual.params_per_image), 0.7)
    density = residual.log_prob((grid**2 / variance).unsqueeze(1), params).exp()
    assert torch.trapezoid(density, dx=1e-4).item() == pytest.approx(1, abs=1e-4)


def test_gradients_are_finite_at_extremes(residual):
    residual.fit(torch.tensor([1e-6]))
    params = torch.tensor([[-1e4], [0.0], [1e4]])[:, : residual.params_per_image].requires_grad_()
    log_prob = residual.log_prob(torch.full((3, 1), 1e8), params)
    assert log_prob.isfinite().all()
    if residual.params_per_image:
        log_prob.sum().backward()
        assert params.grad.isfinite().all()


def test_scaled_is_the_spectrum_times_a_factor():
    eigenvalues, r = torch.tensor([0.5, 0.2, 0.1]), torch.randn(6, 3)
    residual = RESIDUALS["scaled"](3, 24)
    energy = residual.energy(r / residual.fit(eigenvalues).sqrt())
    log_scale = torch.linspace(-2, 2, 6)
    # tanh is inverted, so that the factor is exactly this
    params = (residual.max_log_scale * torch.atanh(log_scale / residual.max_log_scale)).unsqueeze(1)
    expected = [MultivariateNormal(torch.zeros(3), (s.exp() * eigenvalues).diag()) for s in log_scale]
    expected = torch.stack([normal.log_prob(image) for normal, image in zip(expected, r, strict=True)])
    torch.testing.assert_close(residual.log_prob(energy, params), expected)
