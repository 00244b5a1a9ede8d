"""Laws that every representation in conf/pca/ keeps, in each of its settings; scikit-learn and autograd are oracles."""

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
from svhn_vae.model.coordinates import DCT, PCA, Features, Representation, cosines
from svhn_vae.model.covariance import DEQUANTISATION_VARIANCE, Moments, robust_moments, sample_moments
from svhn_vae.model.residual import RESIDUALS

SHAPE, D = (3, 4, 4), 48
MIXING = torch.randn(6, D, generator=torch.Generator().manual_seed(0))


def images(num: int, seed: int = 1) -> torch.Tensor:
    """Correlated pixels in (0, 1), with small but true variance in every direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=generator) @ MIXING + 0.3 * torch.randn(num, D, generator=generator)
    return x.sigmoid().view(num, *SHAPE)


def moments() -> Moments:
    return sample_moments(in_batches(images(3000).flatten(1)))


CHOICES = {choice: composed(f"pca={choice}").pca for choice in options("pca")}
PIXELS = [choice for choice, pca in CHOICES.items() if pca.n_components is None]
WHOLE = [choice for choice, pca in CHOICES.items() if pca._target_.endswith(".Frequencies")]  # whitened, nothing cut
CUTTING = [choice for choice, pca in CHOICES.items() if pca._target_.endswith((".PCA", ".DCT"))]
SETTINGS = [
    (pca, whiten, scale, residual)
    for pca, whiten, scale, residual in itertools.product(CHOICES, [False, True], [False, True], RESIDUALS)
    if pca not in PIXELS or (not whiten and residual == "spectrum")
    if pca not in WHOLE or whiten
]


def built(pca: str, **settings) -> Representation:
    """A choice of conf/pca/ with other settings, where it has them; not yet fitted."""
    own = {"scale": settings["scale"]} if pca in PIXELS else settings
    return instantiate(CHOICES[pca], image_shape=SHAPE, **own)


@pytest.fixture(params=SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def representation(request) -> Representation:
    """All D components kept, so that the map is invertible as it stands."""
    pca, whiten, scale, residual = request.param
    return built(pca, n_components=D, whiten=whiten, scale=scale, residual=residual).fit(moments())


def test_inverse_undoes_forward(representation):
    x = images(8)
    features = representation(x)
    assert features.y.shape == (8, *representation.event_shape)
    assert features.residual.shape == (8, representation.residual.num_bands)
    assert features.log_det.shape == (8,)
    torch.testing.assert_close(representation.inverse(features.y), x, rtol=0, atol=1e-5)


def test_log_det_is_autograds(representation):
    x = images(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: representation(x).y, x).view(D, D)
    torch.testing.assert_close(
        representation(x).log_det[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-3, rtol=0
    )


def test_residual_of_all_components_is_nothing(representation):
    features = representation(images(4))
    params = torch.randn(4, representation.residual.params_per_image)
    assert representation.residual.log_prob(features.residual, params).tolist() == [0.0] * 4


def test_an_image_is_represented_alike_alone_and_in_a_batch(representation):
    x = images(4)
    alone = [torch.cat(arrays) for arrays in zip(*(representation(x[i : i + 1]) for i in range(4)), strict=True)]
    torch.testing.assert_close(list(representation(x)), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[2] or s[1]], ids=lambda s: "-".join(map(str, s)))
def test_y_has_unit_average_variance(setting):
    pca, whiten, scale, residual = setting
    num_components = D if pca in WHOLE else 20
    fitted = built(pca, n_components=num_components, whiten=whiten, scale=scale, residual=residual).fit(moments())
    y = fitted(images(3000)).y.flatten(1)
    assert y.square().mean().item() == pytest.approx(1, rel=0.02)
    if whiten:
        torch.testing.assert_close(y.var(0), torch.ones(num_components), rtol=0, atol=0.02)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("num_components", [1, 5, 47, 48])
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


@pytest.mark.parametrize("num_components", [1, 5, 47])
def test_spectrum_residual_is_a_gaussian_per_dropped_component(num_components):
    fitted, x = moments(), images(50)
    pca = built("default", n_components=num_components).fit(fitted)
    scores = (x.flatten(1).double() - fitted.mean) @ fitted.components.double().T
    spread = fitted.eigenvalues.sqrt()[num_components:]
    expected = norm(0, spread).logpdf(scores[:, num_components:]).sum(1)
    found = pca.residual.log_prob(pca(x).residual, x.new_empty(50, 0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_eigenvalues_are_floored_at_the_dequantisation_variance():
    tiny = moments()._replace(eigenvalues=torch.linspace(1, 0, D).double())
    pca = built("default", n_components=D, whiten=True).fit(tiny)
    assert pca.scale.min().item() == pytest.approx(DEQUANTISATION_VARIANCE**0.5, rel=1e-6)


@pytest.mark.parametrize("num_components", [1, 20, 47])
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


@pytest.mark.parametrize("scatter", [sample_moments, robust_moments])
@pytest.mark.parametrize("pca", CUTTING)
def test_kept_components_have_the_largest_variances(pca, scatter):
    fitted = scatter(in_batches(images(3000).flatten(1)))
    _, variances = built(pca, n_components=20).basis(fitted)
    assert (variances.diff() <= 1e-12).all()


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


@pytest.mark.parametrize("settings", [{"whiten": False}, {"n_components": 20}])
def test_frequencies_are_whole_and_whitened(settings):
    with pytest.raises(Exception, match="pca=frequencies keeps all 48 coefficients, whitened, got n_components="):
        built("frequencies", **({"n_components": D} | settings))


@pytest.mark.parametrize("size", [1, 4, 32])
def test_cosines_are_orthonormal(size):
    torch.testing.assert_close(cosines(size) @ cosines(size).T, torch.eye(size, dtype=torch.float64))


def test_cosine_basis_is_orthonormal(cosine):
    axes, _ = cosine.basis(moments())
    torch.testing.assert_close(axes @ axes.T, torch.eye(D, dtype=torch.float64))


def test_coefficients_are_scipys_transform_of_mixed_colours(cosine):
    """Each row is one colour direction times one frequency: scipy's transform of that mixture of the channels."""
    axes, _ = cosine.basis(moments())
    x = images(5).double()
    transformed = scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")  # (5, C, H, W)
    by_row = scipy.fft.dctn(axes.view(D, *SHAPE).numpy(), axes=(2, 3), norm="ortho").reshape(D, 3, 16)
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


def test_variances_are_those_of_the_projected_training_images(cosine):
    axes, variances = cosine.basis(moments())
    scores = images(3000).flatten(1).double() @ axes.T
    torch.testing.assert_close(variances, scores.var(0), rtol=1e-5, atol=1e-9)


def test_robust_variances_are_the_covariances_of_the_student_t(cosine):
    fitted = robust_moments(in_batches(images(3000).flatten(1)))
    axes, variances = cosine.basis(fitted)
    covariance = fitted.components.double().T * fitted.variances @ fitted.components.double()
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


def test_the_constant_comes_first_where_brightness_varies_most(cosine):
    """Grey images of one brightness each, with a little grey noise and less of colour."""
    brightness = torch.rand(500, 1, 1, 1, dtype=torch.float64)
    noise = 0.1 * torch.randn(500, 1, 4, 4) + 0.001 * torch.randn(500, *SHAPE)
    x = brightness + 0.1 * noise.double()
    axes, variances = cosine.basis(sample_moments(in_batches(x.flatten(1))))
    np.testing.assert_allclose(axes[0].abs(), D**-0.5, atol=1e-3)
    assert variances[0] > 100 * variances[1]


def test_few_images_have_a_cosine_basis(cosine):
    fitted = cosine.fit(sample_moments(in_batches(images(3).flatten(1))))
    assert all(array.isfinite().all() for array in fitted(images(4)))


def test_pixels_are_scaled_by_their_own_mean_and_deviation():
    pixels = built("none", scale=True).fit(moments())
    assert pixels.mean.item() == pytest.approx(images(3000).mean().item(), abs=1e-6)
    assert pixels.scale.item() == pytest.approx(images(3000).std().item(), rel=1e-3)


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
def test_use_before_fit_is_loud(pca):
    features: Features = instantiate(composed(f"pca={pca}").pca, image_shape=(3, 32, 32))(torch.rand(2, 3, 32, 32))
    assert features.y.isnan().all()
    assert features.log_det.isnan().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 49}, r"pca\.n_components must be in 1\.\.48.*got 49"),
        ({"n_components": 0}, r"pca\.n_components must be in 1\.\.48.*got 0"),
        ({"residual": "bands"}, r"pca\.residual must be one of isotropic, spectrum, scaled, banded, got bands"),
        ({"scatter": "student"}, r"pca\.scatter must be one of sample, robust, got student"),
        ({"pixel_levels": 128}, r"pca\.pixel_levels must be one of 255, 256, got 128"),
        ({"num_bands": 0}, r"pca\.num_bands must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("basis", [PCA, DCT])
def test_bad_settings_say_what_was_expected(basis, settings, message):
    good = {"n_components": 5, "whiten": False, "scale": True, "pixel_levels": 256, "scatter": "sample"}
    good |= {"residual": "spectrum", "num_bands": 24}
    with pytest.raises(ValueError, match=message):
        basis(SHAPE, **(good | settings))


@pytest.mark.parametrize(
    "setting", ["whiten=true", "n_components=100", "residual=scaled", "num_bands=24", "scatter=robust"]
)
def test_pixels_refuse_the_settings_of_a_pca(setting):
    with pytest.raises(Exception, match=rf"pca\.{setting} needs a PCA"):
        instantiate(composed("pca=none", f"pca.{setting}").pca, image_shape=SHAPE)


@pytest.mark.parametrize("pca", options("pca"))
def test_images_of_another_type_shape_or_range_are_refused(pca):
    """uint8 levels, rows before channels, a single image, and values up to 255 would give a senseless figure."""
    representation = built(pca, n_components=D) if pca not in PIXELS else built(pca, scale=True)
    representation.fit(moments())
    x = images(4)
    wrong = [(256 * x).to(torch.uint8), x.permute(0, 2, 3, 1), x[0], x[:, :, :2], 256 * x, x - 1, x * torch.nan]
    for each in wrong:
        with pytest.raises(
            UserError, match=r"^expected images x \(B, 3, 4, 4\) of floating point in \[0, 1\], got [^\n]*$"
        ):
            representation(each)
    assert representation(x[:0]).log_det.shape == (0,)
