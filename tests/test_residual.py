"""Laws of the residual's density; the Gaussian ones against scikit-learn stand in test_representation.py."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from svhn_vae.model.residual import RESIDUALS, Residual


@pytest.fixture(params=RESIDUALS)
def residual(request) -> Residual:
    return RESIDUALS[request.param](1, 24)


def test_density_integrates_to_one(residual):
    variance = residual.fit(torch.tensor([0.3]))
    grid = torch.linspace(-40, 40, 800_001)
    params = torch.full((len(grid), residual.params_per_image), 0.7)
    density = residual.log_prob((grid**2 / variance).unsqueeze(1), params).exp()
    assert torch.trapezoid(density, dx=1e-4).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", RESIDUALS)
def test_density_of_two_dimensions_integrates_to_one(name):
    """Of two bands where the law has them."""
    residual = RESIDUALS[name](2, 2)
    variance = residual.fit(torch.tensor([0.3, 0.1]))
    axis = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    r = torch.cartesian_prod(axis, axis)
    params = torch.tensor([[0.7, -0.4]]).expand(len(r), 2)[:, : residual.params_per_image]
    density = residual.log_prob(residual.energy(r / variance.sqrt()), params).exp()
    assert density.sum().item() * 0.01**2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize(("num_dims", "num_bands"), [(1, 1), (5, 1), (5, 2), (5, 5), (7, 3), (3, 24), (2572, 24)])
def test_bands_share_the_components_evenly_and_in_order(name, num_dims, num_bands):
    residual = RESIDUALS[name](num_dims, num_bands)
    r = torch.randn(4, num_dims)
    bands = np.array_split(r.double().numpy() ** 2, residual.num_bands, axis=1)
    np.testing.assert_allclose(residual.energy(r), np.stack([band.sum(1) for band in bands], axis=1), rtol=1e-5)
    assert residual.num_bands == (min(num_bands, num_dims) if name == "banded" else 1)
    assert residual.params_per_image == {"scaled": 1, "banded": residual.num_bands}.get(name, 0)


@pytest.mark.parametrize("name", RESIDUALS)
def test_nothing_cut_off_has_a_residual_of_0(name):
    residual = RESIDUALS[name](0, 24)
    residual.fit(torch.empty(0))
    energy = residual.energy(torch.empty(3, 0))
    assert energy.shape == (3, 1)
    assert residual.log_prob(energy, torch.ones(3, residual.params_per_image)).tolist() == [0.0] * 3


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


@pytest.mark.parametrize(("num_dims", "num_bands"), [(7, 3), (6, 6), (3, 24), (5, 1)])
def test_banded_is_the_spectrum_times_a_factor_per_band(num_dims, num_bands):
    eigenvalues, r = torch.linspace(0.5, 0.1, num_dims), torch.randn(6, num_dims)
    residual = RESIDUALS["banded"](num_dims, num_bands)
    energy = residual.energy(r / residual.fit(eigenvalues).sqrt())
    log_scale = torch.linspace(-2, 2, 6 * residual.num_bands).view(6, -1)
    params = residual.max_log_scale * torch.atanh(log_scale / residual.max_log_scale)
    sizes = [len(band) for band in np.array_split(np.arange(num_dims), residual.num_bands)]
    factors = log_scale.exp().repeat_interleave(torch.tensor(sizes), dim=1)
    expected = Normal(0, (factors * eigenvalues).sqrt()).log_prob(r).sum(1)
    torch.testing.assert_close(residual.log_prob(energy, params), expected)


def test_a_banded_residual_of_one_band_is_the_scaled_one():
    banded, scaled = RESIDUALS["banded"](9, 1), RESIDUALS["scaled"](9, 24)
    energy, params = torch.rand(5, 1) * 9, torch.randn(5, 1)
    for residual in (banded, scaled):
        residual.fit(torch.linspace(1, 0.1, 9))
    assert torch.equal(banded.log_prob(energy, params), scaled.log_prob(energy, params))


def test_a_factor_of_one_in_every_band_is_the_spectrum():
    energies = torch.rand(5, 24)
    banded, spectrum = RESIDUALS["banded"](100, 24), RESIDUALS["spectrum"](100, 24)
    for residual in (banded, spectrum):
        residual.fit(torch.linspace(1, 0.1, 100))
    found = banded.log_prob(energies, torch.zeros(5, 24))
    torch.testing.assert_close(found, spectrum.log_prob(energies.sum(1, keepdim=True), torch.empty(5, 0)))


def test_a_band_does_not_reach_into_another():
    residual = RESIDUALS["banded"](4, 2)
    residual.fit(torch.ones(4))
    energy = torch.tensor([[1.0, 5.0]])
    density = {
        params: residual.log_prob(energy, torch.tensor([params])).item()
        for params in itertools.product((0.0, 1.0), repeat=2)
    }
    assert density[1.0, 0.0] - density[0.0, 0.0] == pytest.approx(density[1.0, 1.0] - density[0.0, 1.0], abs=1e-5)
