"""The bound and its parts against closed forms: probabilistic PCA written as a VAE, in every representation."""

import math

import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from conftest import in_batches
from svhn_vae.evaluation.bound import importance_weighted, latent_noise, log_weight
from svhn_vae.model.coordinates import DCT, PCA, Features, Frequencies, Pixels, Representation
from svhn_vae.model.covariance import sample_moments
from svhn_vae.model.elbo import ElboTerms, bits_of_parts, bits_per_dim, kl_to_standard_normal
from svhn_vae.model.networks import OneLevel
from svhn_vae.model.prior import StandardNormal
from svhn_vae.model.vae import VAE
from svhn_vae.model.variance import GaussianHead

SHAPE, D, K, NUM_IMAGES = (3, 4, 4), 48, 5, 300
PROJECTION = {"pixel_levels": 256, "scatter": "sample", "residual": "isotropic", "num_bands": 1}
WHOLE = {**PROJECTION, "n_components": D, "residual": "spectrum"}
NONE = dict.fromkeys(("n_components", "residual", "num_bands", "pixel_levels", "scatter"))
REPRESENTATIONS = {
    "pixels": lambda: Pixels(SHAPE, scale=True, whiten=False, **NONE),
    "PCA as it is": lambda: PCA(SHAPE, n_components=K, whiten=False, scale=False, **PROJECTION),
    "PCA scaled": lambda: PCA(SHAPE, n_components=K, whiten=False, scale=True, **PROJECTION),
    "PCA whitened": lambda: PCA(SHAPE, n_components=K, whiten=True, scale=True, **PROJECTION),
    "DCT": lambda: DCT(SHAPE, whiten=False, scale=True, **WHOLE),
    "frequencies": lambda: Frequencies(SHAPE, whiten=True, scale=True, **WHOLE),
}


class LinearGaussian(OneLevel):
    """y = W z + b + N(0, variance), with the exact posterior, which is diagonal for the columns of a PCA."""

    latent_dim = K

    def __init__(self, W: Tensor, b: Tensor, variance: Tensor, event_shape: torch.Size) -> None:  # noqa: N803
        super().__init__()
        self.W, self.b, self.variance, self.event_shape = W, b, variance, event_shape
        self.excess = 0.0  # of the posterior's log-variance

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        posterior_variance = 1 / (1 + (self.W.square() / self.variance[:, None]).sum(0))
        mean = ((y.flatten(1) - self.b) / self.variance) @ self.W * posterior_variance
        return mean, (posterior_variance.log() + self.excess).expand_as(mean)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z @ self.W.T + self.b).view(-1, 1, *self.event_shape), z.new_empty(len(z), 0)

    def shrink(self, factor: float) -> None:
        raise NotImplementedError


class Given(GaussianHead):
    params_per_element = 1

    def __init__(self, variance: Tensor) -> None:
        super().__init__(variance.shape)
        self.variance = variance

    def log_variance(self, raw: Tensor) -> Tensor:
        return self.variance.log()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    factors = 0.1 * torch.randn(D, K, generator=generator)
    z, noise = (torch.randn(NUM_IMAGES, size, generator=generator) for size in (K, D))
    return 0.5 + 0.1 * z @ factors.T + 0.02 * noise


def probabilistic_pca(representation: Representation, x: Tensor) -> tuple[VAE, Features]:
    """scikit-learn's PPCA of x (N, D) as a VAE of y, and the features of x."""
    representation.fit(sample_moments(in_batches(x)))
    features = representation(x.view(-1, *SHAPE))
    oracle = SklearnPCA(K).fit(x.double().numpy())
    noise = oracle.noise_variance_
    W = torch.from_numpy(oracle.components_.T * (oracle.explained_variance_ - noise) ** 0.5).float()  # (D, K)
    origin = representation(torch.zeros(1, *SHAPE)).y.flatten(1)
    linear = representation(torch.eye(D).view(-1, *SHAPE)).y.flatten(1) - origin  # (D, number of y)
    b = (torch.from_numpy(oracle.mean_).float() @ linear + origin).squeeze(0)
    variance = noise * linear.square().sum(0)  # the rows of `linear` are orthogonal
    networks = LinearGaussian(linear.T @ W, b, variance, representation.event_shape)
    head = Given(variance.view(representation.event_shape))
    return VAE(representation, networks, head, StandardNormal(networks)).eval(), features


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_one_sample_of_the_exact_posterior_gives_scikit_learns_ppca_in_every_representation(name):
    x = images()
    vae, features = probabilistic_pca(REPRESENTATIONS[name](), x)
    expected = torch.from_numpy(SklearnPCA(K).fit(x.double().numpy()).score_samples(x.double().numpy()))
    elbo = vae(Features(*(array.repeat_interleave(64, 0) for array in features))).terms.elbo.double().view(-1, 64)
    assert ((elbo.mean(1) - expected).abs() < 6 * elbo.std(1) / 8 + 2e-3).all()
    curve = importance_weighted(vae, features, 4, 0)
    assert list(curve) == [1, 2, 4]
    for k, estimate in curve.items():
        torch.testing.assert_close(estimate.log_px, expected, rtol=0, atol=2e-3)
        torch.testing.assert_close(estimate.effective_sample_size, torch.full_like(expected, k), rtol=1e-3, atol=0)


def inexact() -> tuple[VAE, Features]:
    vae, features = probabilistic_pca(REPRESENTATIONS["PCA scaled"](), images())
    vae.networks.excess = 1.0
    return vae, features


def test_with_an_inexact_posterior_the_curve_rises_from_the_elbo_to_the_likelihood():
    vae, features = inexact()
    exact = importance_weighted(probabilistic_pca(REPRESENTATIONS["PCA scaled"](), images())[0], features, 1, 0)[1]
    curve = importance_weighted(vae, features, 128, 0)
    gaps = [(exact.log_px - estimate.log_px).mean().item() for estimate in curve.values()]
    assert gaps == sorted(gaps, reverse=True)
    # At k = 1 the divergence of two Gaussians whose K log-variances differ by 1; the samples are few.
    assert gaps[0] == pytest.approx(K * 0.5 * (math.e - 2), rel=0.2)
    assert abs(gaps[-1]) < 0.03
    sizes = [estimate.effective_sample_size.mean().item() / k for k, estimate in curve.items()]
    assert sizes == sorted(sizes, reverse=True)
    assert all(0 < size <= 1 for size in sizes)
    assert sizes[-1] < 0.5


def test_the_streamed_mean_is_that_of_all_weights_at_once():
    vae, features = inexact()
    noise = [latent_noise(vae, NUM_IMAGES, 3, number) for number in range(1, 7)]
    weights = torch.stack([log_weight(vae, features, each) for each in noise])
    curve = importance_weighted(vae, features, 6, batch_index=3)
    assert list(curve) == [1, 2, 4, 6]
    for k, estimate in curve.items():
        torch.testing.assert_close(estimate.log_px, weights[:k].logsumexp(0) - math.log(k))
        shares = weights[:k].softmax(0)
        torch.testing.assert_close(estimate.effective_sample_size, 1 / shares.square().sum(0))
    few = importance_weighted(vae, features, 2, 3)  # more samples leave the curve's beginning alone; batches differ
    assert all(torch.equal(few[k].log_px, curve[k].log_px) for k in few)
    assert not torch.equal(few[2].log_px, importance_weighted(vae, features, 2, 1)[2].log_px)
    assert importance_weighted(vae, features, 0, 0) == {}


def test_kl_is_torchs():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(7), torch.ones(7)), 1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance).sum(1), kl_divergence(posterior, prior))


def test_uniform_density_is_eight_bits_a_factor_of_two_per_pixel_one_and_parts_add_up():
    for log_px, bits in ((0.0, 8.0), (3072 * math.log(2), 7.0), (-3072 * math.log(256), 16.0), (2129.35, 7.0)):
        assert bits_per_dim(log_px, 3072) == pytest.approx(bits, abs=1e-5)
    terms = ElboTerms(log_likelihood=300.0, residual=7000.0, log_det=150.0, kl=40.0)
    parts = bits_of_parts(terms, 3072, 500)
    assert sum(parts.values()) == pytest.approx(bits_per_dim(terms.elbo, 3072))
    assert all(value < 8 for value in parts.values())
