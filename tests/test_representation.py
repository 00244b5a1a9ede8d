"""Laws that every representation in conf/pca/ keeps, in each of its settings, and every residual; scikit-learn, scipy
and autograd are oracles."""

import functools
import itertools

import numpy as np
import pytest
import scipy.fft
import torch
from hydra.utils import instantiate
from scipy.stats import norm
from sklearn.decomposition import PCA as SklearnPCA
from torch.distributions import Normal

from conftest import composed, in_batches, options
from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import DCT, Representation, cosines
from svhn_vae.model.covariance import DEQUANTISATION_VARIANCE, Moments, robust_moments, sample_moments
from svhn_vae.model.residual import RESIDUALS

SHAPE, D = (3, 4, 4), 48
MIXING = torch.randn(6, D, generator=torch.Generator().manual_seed(0))


def images(num: int, seed: int = 1) -> torch.Tensor:
    """Correlated pixels in (0, 1), with small but true variance in every direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=generator) @ MIXING + 0.3 * torch.randn(num, D, generator=generator)
    return x.sigmoid().view(num, *SHAPE)


@functools.cache
def moments() -> Moments:
    return sample_moments(in_batches(images(3000).flatten(1)))


CHOICES = {choice: composed(f"pca={choice}").pca for choice in options("pca")}
PIXELS = [choice for choice, pca in CHOICES.items() if pca.n_components is None]
WHOLE = [choice for choice, pca in CHOICES.items() if pca._target_.endswith(".Frequencies")]  # whitened, nothing cut
CUTTING = [choice for choice, pca in CHOICES.items() if pca._target_.endswith((".PCA", ".DCT"))]
SETTINGS = [
    (pca, whiten, scale)
    for pca, whiten, scale in itertools.product(CHOICES, [False, True], [False, True])
    if (pca not in PIXELS or not whiten) and (pca not in WHOLE or whiten)
]
every_setting = pytest.mark.parametrize(("pca", "whiten", "scale"), SETTINGS)


def built(pca: str, **settings) -> Representation:
    """A choice of conf/pca/ with other settings, where it has them; not yet fitted."""
    own = {"scale": settings["scale"]} if pca in PIXELS else settings
    return instantiate(CHOICES[pca], image_shape=SHAPE, **own)


@every_setting
def test_a_representation_is_an_invertible_map_with_the_jacobian_that_it_says(pca, whiten, scale):
    """All D components are kept, so that the map is invertible as it stands; then the residual is nothing."""
    representation = built(pca, n_components=D, whiten=whiten, scale=scale, residual="banded").fit(moments())
    x, residual = images(4), representation.residual
    features = representation(x)
    assert features.y.shape == (4, *representation.event_shape)
    assert features.residual.shape == (4, residual.num_bands)
    torch.testing.assert_close(representation.inverse(features.y), x, rtol=0, atol=1e-5)
    jacobian = torch.autograd.functional.jacobian(lambda x: representation(x).y, x[:1]).view(D, D)
    log_det = torch.linalg.slogdet(jacobian).logabsdet.expand(4)
    torch.testing.assert_close(features.log_det, log_det, atol=1e-3, rtol=0)
    assert residual.log_prob(features.residual, torch.randn(4, residual.params_per_image)).tolist() == [0.0] * 4
    alone = [torch.cat(arrays) for arrays in zip(*(representation(x[i : i + 1]) for i in range(4)), strict=True)]
    torch.testing.assert_close(list(features), alone, rtol=1e-4, atol=1e-5)


@every_setting
def test_y_has_unit_average_variance(pca, whiten, scale):
    if not (scale or whiten):
        return
    num_components = D if pca in WHOLE else 20
    fitted = built(pca, n_components=num_components, whiten=whiten, scale=scale, residual="spectrum").fit(moments())
    y = fitted(images(3000)).y.flatten(1)
    assert y.square().mean().item() == pytest.approx(1, rel=0.02)
    if pca in PIXELS:
        assert y.mean().item() == pytest.approx(0, abs=1e-4)
    if whiten:
        torch.testing.assert_close(y.var(0), torch.ones(num_components), rtol=0, atol=0.02)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("num_components", [1, 5, 48])
def test_gaussian_in_y_is_scikit_learns_probabilistic_pca(num_components, whiten):
    """With p(y) the Gaussian of y's own variances and the isotropic residual, log p(x) is `score_samples`."""
    x = images(3000)
    oracle = SklearnPCA(num_components, svd_solver="covariance_eigh").fit(x.flatten(1).double().numpy())
    pca = built("default", n_components=num_components, whiten=whiten, residual="isotropic").fit(moments())
    y, energy, log_det, *_ = pca(x)
    spread = torch.from_numpy(oracle.explained_variance_).sqrt().float() / pca.scale[:num_components]
    log_px = Normal(0, spread).log_prob(y).sum(1) + log_det + pca.residual.log_prob(energy, x.new_empty(len(x), 0))
    expected = torch.from_numpy(oracle.score_samples(x.flatten(1).double().numpy())).float()
    torch.testing.assert_close(log_px, expected, rtol=1e-4, atol=2e-2)


def test_eigenvalues_are_floored_at_the_dequantisation_variance():
    tiny = moments()._replace(eigenvalues=torch.linspace(1, 0, D).double())
    pca = built("default", n_components=D, whiten=True).fit(tiny)
    assert pca.scale.min().item() == pytest.approx(DEQUANTISATION_VARIANCE**0.5, rel=1e-6)


@pytest.mark.parametrize("num_components", [1, 47])
@pytest.mark.parametrize("pca", CUTTING)
def test_a_basis_with_its_residual_is_one_gaussian(pca, num_components):
    """However many components are kept, log p(x) is that of the variances along the whole basis."""
    fitted, x = moments(), images(50)
    cut = built(pca, n_components=num_components, whiten=True, residual="spectrum").fit(fitted)
    axes, variances = cut.basis(fitted)
    scores = (x.flatten(1).double() - fitted.mean) @ axes.double().T
    y, energy, log_det, *_ = cut(x)
    log_px = Normal(0, 1).log_prob(y).sum(1) + log_det + cut.residual.log_prob(energy, x.new_empty(50, 0))
    expected = norm(0, variances.sqrt()).logpdf(scores).sum(1)
    np.testing.assert_allclose(log_px.numpy(), expected, rtol=1e-4, atol=1e-2)


# --- the cosine transform -------------------------------------------------------------------------------------------


@pytest.fixture
def cosine() -> DCT:
    return built("dct", n_components=D, whiten=False, scale=False)


def test_frequencies_are_the_cosine_coefficients_as_an_image():
    """By colour, frequency down and frequency across: one wave is one number."""
    fitted = built("frequencies", n_components=D).fit(moments())
    x = images(5)
    y = fitted(x).y
    assert y.shape == (5, *SHAPE)
    unscaled = y * fitted.scale.view(SHAPE)
    energy = scipy.fft.dctn((x - fitted.mean.view(SHAPE)).numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(unscaled.square().sum(1), np.square(energy).sum(1), rtol=1e-3, atol=1e-6)


def test_coefficients_are_scipys_transform_of_mixed_colours(cosine):
    """Each row is one colour direction times one frequency: scipy's transform of that mixture of the channels."""
    axes, _ = cosine.basis(moments())
    x = images(5).double()
    transformed = scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")  # (5, C, H, W)
    by_row = scipy.fft.dctn(axes.view(D, *SHAPE).numpy(), axes=(2, 3), norm="ortho").reshape(D, 3, 16)
    torch.testing.assert_close(axes @ axes.T, torch.eye(D, dtype=torch.float64))
    torch.testing.assert_close(cosines(32) @ cosines(32).T, torch.eye(32, dtype=torch.float64))
    seen = set()
    for index, row in enumerate(by_row):
        frequency = np.square(row).sum(0).argmax()
        colour = row[:, frequency]
        assert np.square(colour).sum() == pytest.approx(1)  # all of the row is at one frequency
        expected = np.einsum("c,nc->n", colour, transformed.reshape(5, 3, 16)[:, :, frequency])
        np.testing.assert_allclose(x.flatten(1).numpy() @ axes[index].numpy(), expected, atol=1e-12)
        seen.add((tuple(colour.round(6)), frequency))
    assert len(seen) == D
    assert len({colour for colour, _ in seen}) == 3


@pytest.mark.parametrize("fit", [sample_moments, robust_moments])
def test_variances_are_of_the_moments_covariance(cosine, fit):
    fitted = fit(in_batches(images(3000).flatten(1)))
    axes, variances = cosine.basis(fitted)
    covariance = fitted.components.double().T * fitted.variances @ fitted.components.double()
    assert (variances.diff() <= 1e-12).all()  # the largest are kept
    torch.testing.assert_close(variances, (axes @ covariance @ axes.T).diagonal(), rtol=1e-5, atol=1e-9)


def test_colours_are_decorrelated_on_average(cosine):
    """Over the frequencies, each with its total variance taken out; the first colour has the most variance."""
    axes, _ = cosine.basis(moments())
    by_row = scipy.fft.dctn(axes.view(D, *SHAPE).numpy(), axes=(2, 3), norm="ortho").reshape(D, 3, 16)
    colours = np.unique(by_row[np.square(by_row).sum(1).argmax(1) == 0][:, :, 0].round(9), axis=0)  # of the constant
    coefficients = scipy.fft.dctn(images(3000).double().numpy(), axes=(2, 3), norm="ortho").reshape(-1, 3, 16)
    covariances = np.stack([np.cov((coefficients[:, :, f] @ colours.T).T) for f in range(16)])
    relative = (covariances / np.trace(covariances, axis1=1, axis2=2)[:, None, None]).mean(0)
    np.testing.assert_allclose(relative - np.diag(np.diag(relative)), 0, atol=1e-5)


def test_projection_is_exact_under_autocast():
    pca = built("default", n_components=20, whiten=True).fit(moments())
    x = images(4)
    plain = pca(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = pca(x)
        rebuilt = pca.inverse(mixed.y)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    assert torch.equal(rebuilt, pca.inverse(plain.y))


@pytest.mark.parametrize("pca", options("pca"))
def test_use_before_fit_is_loud_and_senseless_images_are_refused(pca):
    """uint8 levels, rows before channels, a single image, and values up to 255 would give a senseless figure."""
    representation = built(pca, n_components=D) if pca not in PIXELS else built(pca, scale=True)
    x = images(4)
    assert representation(x).y.isnan().all()
    assert representation(x).log_det.isnan().all()
    representation.fit(moments())
    for wrong in [(256 * x).byte(), x.permute(0, 2, 3, 1), x[0], x[:, :, :2], 256 * x, x - 1, x * torch.nan]:
        with pytest.raises(
            UserError, match=r"^expected images x \(B, 3, 4, 4\) of floating point in \[0, 1\], got [^\n]*$"
        ):
            representation(wrong)
    assert representation(x[:0]).log_det.shape == (0,)


@pytest.mark.parametrize(
    ("pca", "settings", "message"),
    [
        ("default", {"n_components": 49}, r"pca\.n_components must be in 1\.\.48.*got 49"),
        ("default", {"residual": "bands"}, r"pca\.residual must be one of isotropic, .*, got bands"),
        ("default", {"num_bands": 0}, r"pca\.num_bands must be at least 1, got 0"),
        ("frequencies", {"whiten": False}, "pca=frequencies keeps all 48 coefficients, whitened, got n_components="),
        ("frequencies", {"n_components": 20}, "pca=frequencies keeps all 48 coefficients, whitened"),
        ("none", {"whiten": True}, r"pca\.whiten=true needs a PCA"),
        ("none", {"n_components": 100}, r"pca\.n_components=100 needs a PCA"),
        ("none", {"residual": "scaled"}, r"pca\.residual=scaled needs a PCA"),
    ],
)
def test_bad_settings_say_what_was_expected(pca, settings, message):
    good = {} if pca in PIXELS else {"n_components": D}
    with pytest.raises(Exception, match=message):
        instantiate(CHOICES[pca], image_shape=SHAPE, **good | settings)


# --- the residual ---------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize(("num_dims", "num_bands"), [(0, 24), (1, 1), (7, 3), (3, 24), (2572, 24)])
def test_bands_share_the_components_evenly_and_in_order(name, num_dims, num_bands):
    residual = RESIDUALS[name](num_dims, num_bands)
    r = torch.randn(4, num_dims)
    bands = np.array_split(r.double().numpy() ** 2, residual.num_bands, axis=1)
    np.testing.assert_allclose(residual.energy(r), np.stack([band.sum(1) for band in bands], axis=1), rtol=1e-5)
    assert residual.num_bands == (min(num_bands, max(num_dims, 1)) if name == "banded" else 1)
    assert residual.params_per_image == {"scaled": 1, "banded": residual.num_bands}.get(name, 0)


@pytest.mark.parametrize("name", RESIDUALS)
def test_gradients_are_finite_at_extremes(name):
    residual = RESIDUALS[name](1, 24)
    residual.fit(torch.tensor([1e-6]))
    params = torch.tensor([[-1e4], [0.0], [1e4]])[:, : residual.params_per_image].requires_grad_()
    log_prob = residual.log_prob(torch.full((3, 1), 1e8), params)
    assert log_prob.isfinite().all()
    if residual.params_per_image:
        log_prob.sum().backward()
        assert params.grad.isfinite().all()


@pytest.mark.parametrize(("name", "num_dims", "num_bands"), [("scaled", 3, 1), ("banded", 7, 3), ("banded", 5, 1)])
def test_a_scaled_residual_is_the_spectrum_times_a_factor_per_band(name, num_dims, num_bands):
    eigenvalues, r = torch.linspace(0.5, 0.1, num_dims), torch.randn(6, num_dims)
    residual = RESIDUALS[name](num_dims, num_bands)
    energy = residual.energy(r / residual.fit(eigenvalues).sqrt())
    log_scale = torch.linspace(-2, 2, 6 * residual.num_bands).view(6, -1)
    # tanh is inverted, so that the factor is exactly this
    params = residual.max_log_scale * torch.atanh(log_scale / residual.max_log_scale)
    sizes = [len(band) for band in np.array_split(np.arange(num_dims), residual.num_bands)]
    factors = log_scale.exp().repeat_interleave(torch.tensor(sizes), dim=1)
    expected = Normal(0, (factors * eigenvalues).sqrt()).log_prob(r).sum(1)
    torch.testing.assert_close(residual.log_prob(energy, params), expected)
