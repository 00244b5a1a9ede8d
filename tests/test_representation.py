"""Laws that every representation in conf/pca/ keeps, in each of its settings; scikit-learn and autograd are oracles."""

import itertools

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy.stats import norm
from sklearn.decomposition import PCA as SklearnPCA
from torch.distributions import Normal

from conftest import composed, options
from svhn_vae.representation import PCA, Features, Pixels, Representation
from svhn_vae.residual import RESIDUALS
from svhn_vae.scatter import DEQUANTISATION_VARIANCE, Moments, sample_moments

SHAPE, D = (3, 4, 4), 48
MIXING = torch.randn(6, D, generator=torch.Generator().manual_seed(0))


def images(num: int, seed: int = 1) -> torch.Tensor:
    """Correlated pixels in (0, 1), with small but true variance in every direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=generator) @ MIXING + 0.3 * torch.randn(num, D, generator=generator)
    return x.sigmoid().view(num, *SHAPE)


def moments() -> Moments:
    return sample_moments(images(3000).flatten(1).double().numpy())


SETTINGS = [
    (pca, whiten, scale, residual)
    for pca, whiten, scale, residual in itertools.product(options("pca"), [False, True], [False, True], RESIDUALS)
    if pca != "none" or (not whiten and residual == "spectrum")
]


@pytest.fixture(params=SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def representation(request) -> Representation:
    """All D components kept, so that the map is invertible as it stands."""
    pca, whiten, scale, residual = request.param
    overrides = {} if pca == "none" else {"n_components": D, "whiten": whiten, "residual": residual}
    cfg = composed(f"pca={pca}", f"pca.scale={scale}").pca
    return instantiate(cfg, image_shape=SHAPE, **overrides).fit(moments())


def test_inverse_undoes_forward(representation):
    x = images(8)
    features = representation(x)
    assert features.y.shape == (8, *representation.event_shape)
    assert features.residual.shape == features.log_det.shape == (8,)
    torch.testing.assert_close(representation.inverse(features.y), x, rtol=0, atol=1e-5)


def test_log_det_is_autograds(representation):
    x = images(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: representation(x).y, x).view(D, D)
    torch.testing.assert_close(
        representation(x).log_det[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-3, rtol=0
    )


def test_residual_of_all_components_is_nothing(representation):
    features = representation(images(4))
    empty = torch.empty(4, representation.residual.params_per_image)
    assert representation.residual.log_prob(features.residual, empty).tolist() == [0.0] * 4


def test_an_image_is_represented_alike_alone_and_in_a_batch(representation):
    x = images(4)
    alone = [torch.cat(arrays) for arrays in zip(*(representation(x[i : i + 1]) for i in range(4)), strict=True)]
    torch.testing.assert_close(list(representation(x)), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[2] or s[1]], ids=lambda s: "-".join(map(str, s)))
def test_y_has_unit_average_variance(setting):
    pca, whiten, scale, residual = setting
    overrides = {} if pca == "none" else {"n_components": 20, "whiten": whiten, "residual": residual}
    cfg = composed(f"pca={pca}", f"pca.scale={scale}").pca
    fitted = instantiate(cfg, image_shape=SHAPE, **overrides).fit(moments())
    y = fitted(images(3000)).y.flatten(1)
    assert y.square().mean().item() == pytest.approx(1, rel=0.02)
    if whiten:
        torch.testing.assert_close(y.var(0), torch.ones(20), rtol=0, atol=0.02)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("num_components", [1, 5, 47, 48])
def test_gaussian_in_y_is_scikit_learns_probabilistic_pca(num_components, whiten):
    """With p(y) the Gaussian of y's own variances and the isotropic residual, log p(x) is `score_samples`."""
    x = images(3000)
    oracle = SklearnPCA(num_components, svd_solver="covariance_eigh").fit(x.flatten(1).double().numpy())
    pca = PCA(SHAPE, n_components=num_components, whiten=whiten, scale=True, residual="isotropic").fit(moments())
    y, energy, log_det = pca(x)
    spread = torch.from_numpy(oracle.explained_variance_).sqrt().float() / pca.scale[:num_components]
    log_px = Normal(0, spread).log_prob(y).sum(1) + log_det + pca.residual.log_prob(energy, x.new_empty(len(x), 0))
    expected = torch.from_numpy(oracle.score_samples(x.flatten(1).double().numpy())).float()
    torch.testing.assert_close(log_px, expected, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("num_components", [1, 5, 47])
def test_spectrum_residual_is_a_gaussian_per_dropped_component(num_components):
    fitted, x = moments(), images(50)
    pca = PCA(SHAPE, n_components=num_components, whiten=False, scale=True, residual="spectrum").fit(fitted)
    scores = (x.flatten(1).double() - fitted.mean) @ fitted.components.double().T
    spread = fitted.eigenvalues.sqrt()[num_components:]
    expected = norm(0, spread).logpdf(scores[:, num_components:]).sum(1)
    found = pca.residual.log_prob(pca(x).residual, x.new_empty(50, 0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_eigenvalues_are_floored_at_the_dequantisation_variance():
    tiny = moments()._replace(eigenvalues=torch.linspace(1, 0, D).double())
    pca = PCA(SHAPE, n_components=D, whiten=True, scale=True, residual="spectrum").fit(tiny)
    assert pca.scale.min().item() == pytest.approx(DEQUANTISATION_VARIANCE**0.5, rel=1e-6)


def test_pixels_are_scaled_by_their_own_mean_and_deviation():
    pixels = Pixels(SHAPE, scale=True, n_components=None, whiten=False, residual=None).fit(moments())
    assert pixels.mean.item() == pytest.approx(images(3000).mean().item(), abs=1e-6)
    assert pixels.scale.item() == pytest.approx(images(3000).std().item(), rel=1e-3)


def test_projection_is_exact_under_autocast():
    pca = PCA(SHAPE, n_components=20, whiten=True, scale=True, residual="spectrum").fit(moments())
    x = images(4)
    plain = pca(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = pca(x)
        rebuilt = pca.inverse(mixed.y)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    assert torch.equal(rebuilt, pca.inverse(plain.y))


@pytest.mark.parametrize("pca", options("pca"))
def test_use_before_fit_is_loud(pca):
    features: Features = instantiate(composed(f"pca={pca}").pca, image_shape=(3, 32, 32))(torch.rand(2, 3, 32, 32))
    assert features.y.isnan().all()
    assert features.log_det.isnan().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 49}, r"pca\.n_components must be in 1\.\.48.*got 49"),
        ({"n_components": 0}, r"pca\.n_components must be in 1\.\.48.*got 0"),
        ({"residual": "banded"}, r"pca\.residual must be one of isotropic, spectrum, scaled, got banded"),
    ],
)
def test_bad_settings_say_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        PCA(SHAPE, **{"n_components": 5, "whiten": False, "scale": True, "residual": "spectrum", **settings})


@pytest.mark.parametrize("setting", ["whiten=true", "n_components=100", "residual=scaled"])
def test_pixels_refuse_the_settings_of_a_pca(setting):
    with pytest.raises(Exception, match=rf"pca\.{setting} needs a PCA"):
        instantiate(composed("pca=none", f"pca.{setting}").pca, image_shape=SHAPE)
