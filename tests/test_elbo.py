"""The bound against models whose likelihood is known exactly."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from svhn_vae.model.coordinates import Features, unknown
from svhn_vae.model.elbo import ElboTerms, bits_of_parts, bits_per_dim, kl_to_standard_normal
from svhn_vae.model.networks import OneLevel
from svhn_vae.model.prior import StandardNormal
from svhn_vae.model.residual import Spectrum
from svhn_vae.model.vae import VAE
from svhn_vae.model.variance import Fixed

SIGMA = 0.5


class LinearGaussian(OneLevel):
    """y = W z + sigma noise with orthogonal columns, and the exact posterior, which is diagonal then."""

    latent_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.column_norms = torch.tensor([2.0, 1.0, 0.5])
        self.W = torch.linalg.qr(torch.randn(6, 3))[0] * self.column_norms

    def encode(self, y):
        variance = 1 / (1 + self.column_norms**2 / SIGMA**2)
        return y @ self.W / SIGMA**2 * variance, variance.log().expand(len(y), -1)

    def decode(self, z):
        return (z @ self.W.T).unsqueeze(1), z.new_empty(len(z), 0)

    def shrink(self, factor):
        raise NotImplementedError

    def marginal(self) -> MultivariateNormal:
        return MultivariateNormal(torch.zeros(6), self.W @ self.W.T + SIGMA**2 * torch.eye(6))


def linear_gaussian_vae() -> VAE:
    representation = nn.Module()
    representation.mean = torch.zeros(())  # where the model is
    representation.residual = Spectrum(0, 1)
    representation.residual.fit(torch.empty(0))
    networks = LinearGaussian()
    return VAE(representation, networks, Fixed((6,), sigma=SIGMA), StandardNormal(networks))


def test_bound_of_a_linear_gaussian_vae_is_its_closed_form_likelihood():
    vae = linear_gaussian_vae()
    y = vae.networks.marginal().sample((8,))
    features = Features(y, torch.zeros(8, 1), torch.zeros(8), unknown(y))
    elbos = torch.stack([vae(features).terms.elbo for _ in range(4000)])
    standard_error = elbos.std(0) / math.sqrt(len(elbos))
    exact = vae.networks.marginal().log_prob(y)
    assert ((elbos.mean(0) - exact).abs() < 4.5 * standard_error).all()
    assert standard_error.max() < 0.05


def test_bound_with_a_wrong_posterior_is_lower():
    vae = linear_gaussian_vae()
    y = vae.networks.marginal().sample((8,))
    features = Features(y, torch.zeros(8, 1), torch.zeros(8), unknown(y))
    exact = vae.networks.encode
    vae.networks.encode = lambda y: (exact(y)[0], exact(y)[1] + 1.0)
    elbos = torch.stack([vae(features).terms.elbo for _ in range(4000)]).mean(0)
    # KL between the wrong and the exact diagonal posterior, three dimensions of log-variance 1 apart
    gap = 3 * 0.5 * (math.e - 1 - 1)
    torch.testing.assert_close(vae.networks.marginal().log_prob(y) - elbos, torch.full((8,), gap), rtol=0, atol=0.15)


def test_kl_is_torchs():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(7), torch.ones(7)), 1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance).sum(1), kl_divergence(posterior, prior))


@pytest.mark.parametrize(("log_px", "bits"), [(0.0, 8.0), (3072 * math.log(2), 7.0), (-3072 * math.log(256), 16.0)])
def test_uniform_density_is_eight_bits_and_a_factor_of_two_per_pixel_is_one(log_px, bits):
    assert bits_per_dim(log_px, 3072) == pytest.approx(bits, abs=1e-12)


def test_one_bit_per_dim_is_2129_nats():
    assert bits_per_dim(0.0, 3072) - bits_per_dim(2129.35, 3072) == pytest.approx(1, abs=1e-5)


def test_parts_add_up_to_the_bits():
    terms = ElboTerms(log_likelihood=300.0, residual=7000.0, log_det=150.0, kl=40.0)
    parts = bits_of_parts(terms, 3072, 500)
    assert sum(parts.values()) == pytest.approx(bits_per_dim(terms.elbo, 3072))
    assert all(value < 8 for value in parts.values())
