"""The formula of each head in conf/variance/, against an oracle: scipy, torch, numpy, or the paper's own words."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch
from torch.distributions import Independent, LowRankMultivariateNormal, Normal

from conftest import composed, options
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.coordinates import Features, unknown
from svhn_vae.model.variance import DiagonalNormal, soft_clip
from test_variance import make

PIXELS = (3, 2, 2)


def test_diagonal_normal_is_torchs_and_its_gradient_the_formula_where_torchs_overflows():
    mean, log_variance, y = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    oracle = Independent(Normal(mean, (0.5 * log_variance).exp()), 2)
    torch.testing.assert_close(DiagonalNormal(mean, log_variance).log_prob(y), oracle.log_prob(y))
    log_variance = torch.tensor([[-70.0]], requires_grad=True)
    DiagonalNormal(torch.zeros(1, 1), log_variance).log_prob(torch.ones(1, 1)).sum().backward()
    torch.testing.assert_close(log_variance.grad, -0.5 * (1 - torch.exp(torch.tensor([[70.0]]))))


def test_soft_clip_stays_inside_and_is_the_identity_well_inside():
    value = torch.linspace(-1e3, 1e3, 10_001)
    clipped = soft_clip(value, -12, 6)
    assert clipped.min() >= -12 - 1e-4
    assert clipped.max() <= 6 + 1e-4
    assert (clipped.diff() >= 0).all()
    torch.testing.assert_close(soft_clip(torch.tensor(-3.0), -12, 6), torch.tensor(-3.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu_eps", lambda v: np.maximum(v, 0) + 0.01),
        ("softplus_eps", lambda v: np.log1p(np.exp(v)) + 0.01),
        ("softplus_ln2", lambda v: np.log2(1 + 2.0**v) + 1e-4),
        ("logvar", np.exp),
        ("logvar_l2", np.exp),
        ("bounded_logvar", np.exp),  # well inside its bounds
        ("beta_nll", np.exp),
    ],
)
def test_variance_is_the_formula_of_the_decoders_number(name, expected):
    v = torch.tensor([-2.0, 0.0, 0.5, 2.0])
    variance = make(name, (4,))(torch.stack([torch.zeros(4), v]).unsqueeze(0)).variance
    np.testing.assert_allclose(variance[0], expected(v.double().numpy()), rtol=0.03)


def test_where_sigma_stands():
    """relu_eps is dead and on its floor below zero; a bounded head stands at its bounds."""
    standing = make("relu_eps", (3,)).standing(torch.tensor([[[0.0, 0.0, 0.0], [-2.0, 0.5, 3.0]]]))
    assert standing["dead_fraction"] == standing["floor_fraction"] == pytest.approx(1 / 3)
    raw = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [-50.0, -40.0, 0.0, 50.0]]])
    standing = make("bounded_logvar", (4,)).standing(raw)
    assert (standing["floor_fraction"], standing["ceiling_fraction"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("name", "num_sigmas", "num_learned"),
    [("shared", 1, 1), ("per_dimension", 1, 48), ("fixed", 1, 0), ("optimal", 1, 0), ("per_channel", 1, 3),
     ("per_image", 4, 0)],
)  # fmt: skip
def test_which_images_and_elements_share_a_sigma(name, num_sigmas, num_learned):
    head = make(name, (3, 4, 4))
    variance = head(torch.randn(4, head.params_per_element, 3, 4, 4)).variance.flatten(1)
    assert (variance == variance[:, :1]).all()
    assert len(variance[:, 0].unique()) == num_sigmas
    assert sum(parameter.numel() for parameter in head.parameters()) == num_learned


@pytest.mark.parametrize(("name", "bands"), [("scaled", [50]), ("banded", [3, 3, *[2] * 22])])
def test_a_band_has_the_mean_of_what_the_decoder_emits_for_it(name, bands):
    head, raw = make(name, (50,)), 0.3 * torch.randn(4, 2, 50)
    with torch.no_grad():
        head.learned.value.copy_(0.3 * torch.randn(50) / head.learned.gain)
        log_variance = head(raw).log_variance - head.learned()
    expected = torch.cat([band.mean(1, keepdim=True).expand_as(band) for band in raw[:, 1].split(bands, 1)], 1)
    torch.testing.assert_close(log_variance, expected, rtol=0, atol=0.03)  # the soft bounds


def test_optimal_sigma_is_the_mean_square_of_training_batches_and_frozen_in_evaluation():
    head = make("optimal", (5,), momentum=0.5)
    first, second = ((torch.randn(4, 1, 5), torch.randn(4, 5)) for _ in range(2))
    squares = [np.square(y.numpy() - raw[:, 0].numpy()).mean() for raw, y in (first, second)]
    head.observe(*first)
    np.testing.assert_allclose(head(first[0]).variance, squares[0], rtol=1e-5)
    head.observe(*second)
    np.testing.assert_allclose(head(first[0]).variance, np.mean(squares), rtol=1e-5)
    assert {"mean_square", "has_observed"} <= set(head.state_dict())
    vae = build_vae(composed("variance=optimal", "network_scale=0.01", "pca.n_components=5"))
    batch = Features(y := 3 * torch.randn(8, 5), torch.zeros(8, 1), torch.zeros(8), unknown(y))
    vae.eval()(batch)
    assert not vae.variance.has_observed
    result = vae.train()(batch)
    expected = (batch.y - result.likelihood.mean).square().mean()
    torch.testing.assert_close(result.likelihood.variance, expected.expand(8, 5))


def test_beta_nll_changes_the_gradient_alone_and_logvar_l2_adds_its_penalty_alone():
    """Equation by equation: d(-log p)/d(mean) = sigma^(2 beta) (mean - y) / sigma^2, of log sigma^2 as well."""
    head, l2, plain = make("beta_nll", (5,)), make("logvar_l2", (5,), l2=0.5), make("bounded_logvar", (5,))
    raw, y = torch.randn(4, 2, 5, requires_grad=True), torch.randn(4, 5)
    p = head(raw)
    torch.testing.assert_close(p.log_prob(y), plain(raw).log_prob(y), rtol=0, atol=0)
    [gradient] = torch.autograd.grad(p.log_prob(y).sum(), raw)
    [unweighted] = torch.autograd.grad(plain(raw).log_prob(y).sum(), raw)
    torch.testing.assert_close(gradient, p.stddev.detach().unsqueeze(1) * unweighted)  # sigma^(2 * 0.5)
    expected = (y - raw[:, 0]) / p.stddev
    torch.testing.assert_close(gradient[:, 0], expected.detach())
    torch.testing.assert_close(l2.penalty(raw), 0.5 * raw[:, 1].square().sum(1))
    assert l2.initial_factor == 0.01


def test_student_t_is_scipys():
    """Exactly in float32 at both ends of its degrees of freedom, too: lgamma of large numbers cancels, and 3,072
    elements must still agree to a hundredth of a nat."""
    p = make("student_t", (3, 4))(torch.randn(5, 3, 3, 4) * 3)
    y = 10 * torch.randn(5, 3, 4)
    scale = (0.5 * p.log_square_scale.double()).exp()
    oracle = scipy.stats.t(df=p.dof.double(), loc=p.loc.double(), scale=scale)
    np.testing.assert_allclose(p.log_prob(y), oracle.logpdf(y.double()).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(p.variance, oracle.var(), rtol=1e-4)
    y = torch.randn(1, 3072)
    for raw_dof in (-20.0, 20.0):
        p = make("student_t", (3072,))(torch.stack([0 * y, 0 * y, torch.full_like(y, raw_dof)], 1))
        scale = (0.5 * p.log_square_scale.double()).exp()
        oracle = scipy.stats.t(df=p.dof.double(), scale=scale).logpdf(y.double()).sum()
        assert p.log_prob(y).item() == pytest.approx(oracle, abs=0.01)


def test_scale_mixture_is_the_sum_of_its_gaussians():
    head, raw, y = make("scale_mixture", (5,)), torch.randn(4, 6, 5), torch.randn(4, 5)
    weights, density = raw[:, 2:].softmax(1), 0.0
    for m, factor in enumerate([0.5, 1.0, 2.0, 4.0]):
        sigma = (0.5 * soft_clip(raw[:, 1], -12, 6)).exp() * factor
        density += weights[:, m] * Normal(raw[:, 0], sigma).log_prob(y).exp()
    torch.testing.assert_close(head(raw).log_prob(y), density.log().sum(1))


def test_low_rank_is_scipys_and_torchs_multivariate_normal():
    head, y = make("low_rank", (3, 2, 2), rank=2), torch.randn(4, 3, 2, 2)
    p = head(2 * torch.randn(4, 4, 3, 2, 2))
    sigma = (0.5 * p.log_variance).flatten(1).exp().unsqueeze(2)
    factor = sigma * p.factor.flatten(2).mT  # (B, D, R), in units of y
    oracle = LowRankMultivariateNormal(p.loc.flatten(1), factor, sigma.squeeze(2) ** 2)
    torch.testing.assert_close(p.log_prob(y), oracle.log_prob(y.flatten(1)))
    torch.testing.assert_close(p.variance.flatten(1), oracle.variance)
    covariance = oracle.covariance_matrix.double().numpy()
    for i in range(4):
        scipys = scipy.stats.multivariate_normal(p.loc[i].flatten().double().numpy(), covariance[i])
        assert p.log_prob(y)[i].item() == pytest.approx(scipys.logpdf(y[i].flatten().double().numpy()), rel=1e-4)
    samples = p.sample((20_000,)).flatten(2)
    correlation = np.stack([np.corrcoef(samples[:, i].T) for i in range(4)])
    expected = covariance / np.sqrt(np.einsum("bi,bj->bij", *[np.einsum("bii->bi", covariance)] * 2))
    np.testing.assert_allclose(correlation, expected, atol=0.03)


def test_low_rank_keeps_its_precision_in_float32_at_full_size():
    """Against float64, with factors that say nearly all, where e'e - |L^-1 F'e|^2 would cancel."""
    p = make("low_rank", (3072,))(torch.cat([torch.randn(2, 2, 3072), 20 * torch.randn(2, 8, 3072)], 1))
    y, sigma = p.sample(), (0.5 * p.log_variance.double()).exp()
    factor = (sigma.unsqueeze(1) * p.factor.double()).mT
    oracle = LowRankMultivariateNormal(p.loc.double(), factor, sigma.square()).log_prob(y.double())
    torch.testing.assert_close(p.log_prob(y).double(), oracle, rtol=0, atol=0.02)


def test_bernoulli_is_the_cross_entropy():
    head, raw, y = make("bernoulli", PIXELS), torch.randn(4, 1, *PIXELS), torch.rand(4, *PIXELS)
    p = raw[:, 0].sigmoid()
    expected = (y * p.log() + (1 - y) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(head(raw).log_prob(y), expected)
    torch.testing.assert_close(head(raw).mean, p)
    assert {name for name in options("variance") if not make(name, PIXELS).is_density} == {"bernoulli"}


def pixelcnn_plus_plus(raw: np.ndarray, level: np.ndarray, num_mixtures: int, num_levels: int) -> float:
    """log P of one image's levels (3, H, W) from raw (4 M, 3, H, W), pixel by pixel as the paper writes it."""
    logistic, (_, height, width), total = scipy.stats.logistic, level.shape, 0.0
    means, log_scales, logits, coefficients = raw.reshape(4, num_mixtures, *level.shape)
    u, half = 2 * level / (num_levels - 1) - 1, 1 / (num_levels - 1)
    for i, j in itertools.product(range(height), range(width)):
        weights = np.exp(logits[:, :, i, j].mean(1))
        mixture = 0.0
        for m in range(num_mixtures):
            mean, (alpha, beta, gamma) = means[m, :, i, j].copy(), np.tanh(coefficients[m, :, i, j])
            mean[1] += alpha * u[0, i, j]
            mean[2] += beta * u[0, i, j] + gamma * u[1, i, j]
            mass = weights[m] / weights.sum()
            for c in range(3):
                law = logistic(mean[c], np.exp(log_scales[m, c, i, j]))
                upper = 1.0 if level[c, i, j] == num_levels - 1 else law.cdf(u[c, i, j] + half)
                lower = 0.0 if level[c, i, j] == 0 else law.cdf(u[c, i, j] - half)
                mass *= upper - lower
            mixture += mass
        total += np.log(mixture)
    return total


def test_logistic_mixture_is_pixelcnns():
    head = make("logistic_mixture", PIXELS, log_scale_range=[-30, 30])  # out of the way
    raw = torch.randn(4, 20, *PIXELS)
    raw[:, 5:10] -= 1
    level = torch.randint(0, 256, (4, *PIXELS))
    level[0, :, 0, 0], level[1, :, 0, 0] = 0, 255
    y = (level + torch.rand(4, *PIXELS)) / 256
    expected = [pixelcnn_plus_plus(raw[i].double().numpy(), level[i].numpy(), 5, 256) for i in range(4)]
    np.testing.assert_allclose(head(raw).log_prob(y) - y[0].numel() * math.log(256), expected, rtol=1e-5)


def test_logistic_mixture_integrates_to_one_over_the_pixels_and_samples_are_of_it():
    """A density that is constant within a level: the sum over the levels of three channels, three each."""
    p = make("logistic_mixture", (3, 1, 1), num_levels=3)(torch.randn(1, 20, 3, 1, 1))
    levels = torch.tensor(list(itertools.product(range(3), repeat=3))).view(-1, 3, 1, 1)
    says = torch.cat([p.log_prob((level + torch.rand(3, 1, 1)) / 3) for level in levels.split(1)]).exp() / 27
    assert says.sum().item() == pytest.approx(1, abs=1e-5)
    samples = p.sample((50_000,))
    assert samples.min() >= 0
    assert samples.max() < 1
    frequency = np.bincount((samples.view(-1, 3) * 3).long() @ torch.tensor([9, 3, 1]), minlength=27) / 50_000
    np.testing.assert_allclose(frequency, says, atol=0.01)


def test_logistic_mixtures_moments_are_its_samples():
    """Of all channels where nothing reaches black or white; of red, and within 0.1 sigma of all, everywhere."""
    raw = torch.randn(2, 20, *PIXELS)
    anywhere = make("logistic_mixture", PIXELS)(raw)
    samples = anywhere.sample((20_000,))
    error = (samples.mean(0) - anywhere.mean).abs() / samples.std(0)
    assert error[:, 0].max() < 0.03
    assert error.max() < 0.1
    torch.testing.assert_close(samples.var(0)[:, 0], anywhere.variance[:, 0], rtol=0.04, atol=0)
    assert (anywhere.variance <= anywhere.mean * (1 - anywhere.mean)).all()
    raw[:, :5], raw[:, 5:10] = 0.1 * raw[:, :5], 0.3 * raw[:, 5:10] - 4
    inside = make("logistic_mixture", PIXELS)(raw)
    samples = inside.sample((20_000,))
    torch.testing.assert_close(samples.mean(0), inside.mean, rtol=0, atol=0.004)
    torch.testing.assert_close(samples.var(0), inside.variance, rtol=0.07, atol=0)


@pytest.mark.parametrize("location", [-40.0, 40.0])
def test_logistic_mixture_has_no_infinity_where_a_probability_is_tiny(location):
    raw = torch.full((1, 20, *PIXELS), -20.0)
    raw[:, :5] = location
    raw.requires_grad_()
    for level in (0.0, 0.3, 0.999):
        log_prob = make("logistic_mixture", PIXELS)(raw).log_prob(torch.full((1, *PIXELS), level))
        [gradient] = torch.autograd.grad(log_prob.sum(), raw)
        assert log_prob.isfinite().all()
        assert gradient.isfinite().all()


def test_spectral_is_a_gaussian_with_a_variance_per_frequency_and_one_per_place():
    """Against the dense covariance A A', A = diag(exp(spectrum / 2)) T diag(exp(place / 2)), T by scipy."""
    p = make("spectral", (1, 4, 4))(0.5 * torch.randn(2, 3, 1, 4, 4))
    transform = np.stack([scipy.fft.dctn(place.reshape(4, 4), norm="ortho").ravel() for place in np.eye(16)], axis=1)
    mean, spectrum, place = (part[0].double().numpy().ravel() for part in (p.mean, p.spectrum, p.place))
    mixing = np.exp(spectrum / 2)[:, None] * transform * np.exp(place / 2)
    covariance, y = mixing @ mixing.T, torch.randn(2, 1, 4, 4)
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(y[0].double().numpy().ravel())
    assert p.log_prob(y)[0].item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(p.variance[0].flatten(), covariance.diagonal(), rtol=1e-4)
    samples = p.sample((40_000,))[:, 0].flatten(1)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.06 * covariance.max())
