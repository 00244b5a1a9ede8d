"""Baselines: scipy and scikit-learn are the oracles on small images, the figures of references.md on the real ones."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA as SklearnPCA

from conftest import in_batches
from svhn_vae.data.batches import dequantised_chunks
from svhn_vae.data.cache import fitted_moments
from svhn_vae.data.digits import draw_digits
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.data.svhn import read_mat
from svhn_vae.evaluation import baselines as module
from svhn_vae.evaluation.baselines import (
    Elliptical,
    baselines,
    cosine_student_t,
    fitted,
    gaussian_post_loss,
    gaussians,
    ledoit_wolf,
    score,
)
from svhn_vae.model.covariance import FITS, Moments, robust_moments, sample_moments, shrunk
from svhn_vae.seeds import Stream
from test_lit import fitted as fitted_vae

REAL = Path(__file__).parents[2] / "shared" / "svhn"
NUM_PIXELS = 48
FLOOR = 1 / (12 * 256**2)


def smooth_images(num_images: int, seed: int) -> torch.Tensor:
    """Images (N, 3, 4, 4) uint8 whose pixels go together, the variances of the components far above the floor."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((NUM_PIXELS, NUM_PIXELS)) * np.geomspace(10, 1, NUM_PIXELS)
    levels = 120 + 4 * rng.standard_normal((num_images, NUM_PIXELS)) @ mixing.T / 4
    return torch.from_numpy(levels.clip(0, 255).astype(np.uint8).reshape(-1, 3, 4, 4))


TRAIN, TEST = smooth_images(400, seed=0), smooth_images(150, seed=1)


def dequantised(images: torch.Tensor, stream: Stream) -> np.ndarray:
    return torch.cat(list(dequantised_chunks(images, stream))).flatten(1).double().numpy()


X_TRAIN, X_TEST = dequantised(TRAIN, Stream.BASIS_NOISE), dequantised(TEST, Stream.EVALUATION_NOISE)
MEAN, COVARIANCE = X_TRAIN.mean(axis=0), np.cov(X_TRAIN, rowvar=False)


def bits(log_density: np.ndarray) -> float:
    """The definition in references.md: D = 48 pixels of 256 levels."""
    return 8 - log_density.mean() / (NUM_PIXELS * np.log(2))


def moments_of_x(x: np.ndarray):
    """What the data module gives the baselines: scatter -> moments."""
    fits = FITS | {"shrunk": lambda batches: shrunk(sample_moments(batches), len(x))}
    return functools.cache(lambda scatter: fits[scatter](in_batches(x)))


TRAINING_MOMENTS = moments_of_x(X_TRAIN)


def fitted_on(images: torch.Tensor) -> dict:
    return fitted(images, moments_of_x(dequantised(images, Stream.BASIS_NOISE)), 10)


@pytest.fixture(scope="module")
def scores():
    return score(TEST, fitted(TRAIN, TRAINING_MOMENTS, 10))


NAMES = [
    "uniform", "independent Gaussian", "PPCA, K = 10", "full covariance", "full covariance, floored",
    "full covariance, Ledoit-Wolf", "full covariance, shrunk", "Student-t, full covariance",
    "cosine transform, one scale per image",
]  # fmt: skip


def test_scores_are_those_of_scipys_densities(scores):
    assert list(scores) == NAMES
    assert scores["uniform"] == 8
    independent = stats.norm.logpdf(X_TEST, MEAN, X_TRAIN.std(axis=0, ddof=1)).sum(axis=1)
    assert scores["independent Gaussian"] == pytest.approx(bits(independent), abs=1e-4)
    expected = bits(stats.multivariate_normal(MEAN, COVARIANCE).logpdf(X_TEST))
    assert scores["full covariance"] == pytest.approx(expected, abs=1e-4)
    assert scores["full covariance, floored"] == pytest.approx(expected, abs=1e-4)  # nothing is below the floor here
    assert expected < scores["independent Gaussian"] - 0.1
    robust = TRAINING_MOMENTS("robust")
    axes, degrees = robust.components.double().numpy(), robust.degrees_of_freedom.item()
    law = stats.multivariate_t(robust.mean.numpy(), axes.T * robust.eigenvalues.numpy() @ axes, degrees)
    assert scores["Student-t, full covariance"] == pytest.approx(bits(law.logpdf(X_TEST)), abs=1e-4)
    lw = LedoitWolf().fit(X_TRAIN)
    shrunk = stats.multivariate_normal(lw.location_, lw.covariance_).logpdf(X_TEST)
    assert scores["full covariance, Ledoit-Wolf"] == pytest.approx(bits(shrunk), abs=1e-4)


def test_ppca_is_that_of_scikit_learn():
    """With all components it is the full covariance."""
    for num_components in (1, 10, 47):
        oracle = SklearnPCA(num_components, svd_solver="full").fit(X_TRAIN)
        found = score(TEST, gaussians(TRAINING_MOMENTS("sample"), num_components))[f"PPCA, K = {num_components}"]
        assert found == pytest.approx(bits(oracle.score_samples(X_TEST)), abs=1e-4)
    whole = score(TEST, gaussians(TRAINING_MOMENTS("sample"), NUM_PIXELS))
    assert whole["PPCA, K = 48"] == pytest.approx(whole["full covariance, floored"], abs=1e-9)


def test_floors():
    """A variance below that of the dequantisation noise is no property of the images."""
    variance = np.geomspace(1e-2, 1e-8, NUM_PIXELS)
    mean = torch.full((NUM_PIXELS,), 0.5, dtype=torch.float64)
    moments = Moments(mean, torch.eye(NUM_PIXELS), torch.from_numpy(variance), torch.tensor(torch.inf),
                      torch.tensor(variance.sum()))  # fmt: skip
    grey = torch.full((20, 3, 4, 4), 128, dtype=torch.uint8)
    scores = score(grey, gaussians(moments, 5))
    x = dequantised(grey, Stream.EVALUATION_NOISE)
    clipped = variance.clip(min=FLOOR)
    isotropic = np.concatenate([clipped[:5], np.full(43, clipped[5:].mean())])
    for name, expected in {
        "independent Gaussian": clipped,
        "PPCA, K = 5": isotropic,
        "full covariance": variance,
        "full covariance, floored": clipped,
    }.items():
        log_density = stats.norm.logpdf(x, 0.5, np.sqrt(expected)).sum(axis=1)
        assert scores[name] == pytest.approx(bits(log_density), rel=1e-4), name


@pytest.mark.parametrize("num_images", [2, 20, 48, 49])
def test_baselines_of_few_images_are_finite_and_the_full_covariance_has_none(num_images):
    """N images span N - 1 dimensions: what rounding leaves of the other variances is no variance."""
    scores = score(TEST, fitted_on(smooth_images(num_images, seed=num_images)))
    assert list(scores) == [name for name in NAMES if name != "full covariance" or num_images > NUM_PIXELS]
    assert np.isfinite(list(scores.values())).all()
    alike = score(TEST[:5], fitted_on(torch.full((num_images, 3, 4, 4), 128, dtype=torch.uint8)))
    assert np.isfinite(list(alike.values())).all()


# --- beyond a Gaussian of the covariance ----------------------------------------------------------------------------


def pixels(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).float()


@pytest.mark.parametrize("num_images", [5, 30, 400])
def test_ledoit_wolf_is_that_of_scikit_learn(num_images):
    x = X_TRAIN[:num_images]
    oracle = LedoitWolf().fit(x)
    found = ledoit_wolf(sample_moments(in_batches(x)), pixels(x), num_images)
    np.testing.assert_allclose(
        found.axes.double().T * found.scatter @ found.axes.double(), oracle.covariance_, atol=1e-7
    )
    log_density = stats.multivariate_normal(oracle.location_, oracle.covariance_).logpdf(X_TEST)
    np.testing.assert_allclose(found.log_prob(pixels(X_TEST)), log_density, atol=0.05)


def test_a_scale_per_image_is_found_in_the_cosine_basis():
    """Independent cosine coefficients times a scale per image: the law itself is the oracle."""
    rng = np.random.default_rng(0)
    truth = cosine_student_t(robust_moments(in_batches(X_TRAIN)), pixels(X_TRAIN).view(-1, 3, 4, 4))
    scales = np.sqrt(5 / rng.chisquare(5, (8000, 1)))
    x = scales * rng.standard_normal((8000, NUM_PIXELS)) * truth.scatter.sqrt().numpy() @ truth.axes.double().numpy()
    x = pixels(x + truth.mean.double().numpy())
    found = cosine_student_t(robust_moments(in_batches(x[:4000])), x[:4000].view(-1, 3, 4, 4))
    assert found.degrees == pytest.approx(5, rel=0.1)
    law = Elliptical(truth.mean, truth.axes, truth.scatter, 5.0)
    assert found.log_prob(x[4000:]).mean().item() == pytest.approx(law.log_prob(x[4000:]).mean().item(), abs=0.2)


# --- kept in a file -------------------------------------------------------------------------------------------------


def dataset_of(test: torch.Tensor) -> Dataset:
    parts = [LabelledImages(images, torch.zeros(len(images), dtype=torch.uint8)) for images in (TRAIN, TEST[:9], test)]
    return Dataset("small", True, *parts)


@pytest.fixture
def scored(monkeypatch):
    """An entry for every time that all baselines were fitted."""
    calls = []
    monkeypatch.setattr(module, "fitted", lambda *arguments: (calls.append(arguments[2]), fitted(*arguments))[1])
    return calls


def test_scored_once_and_read_afterwards_other_images_and_components_apart(scored, scores, tmp_path):
    cache, dataset = tmp_path / "not there yet", dataset_of(TEST)
    assert baselines(dataset, TRAINING_MOMENTS, 10, cache) == scores
    assert baselines(dataset, None, 10, cache) == scores  # without moments, which cost more than the scores
    assert not any(name.startswith("PPCA") for name in baselines(dataset, None, None, cache))
    assert baselines(dataset, TRAINING_MOMENTS, 20, cache) == score(TEST, fitted(TRAIN, TRAINING_MOMENTS, 20))
    assert len(scored) == 1  # and PPCA alone for the other K
    assert baselines(dataset_of(TEST[:100]), TRAINING_MOMENTS, 10, cache) != scores
    assert len(scored) == 2


@pytest.mark.parametrize("damaged", [b"", b'{"scores": {"uniform": 8', b"\xff\xfe", b"[]", b'{"uniform": 8}',
                                     b'{"scores": {"uniform": 7}, "sha256": "0"}'])  # fmt: skip
def test_a_damaged_file_is_replaced_and_a_refused_one_costs_time(scored, scores, tmp_path, damaged, monkeypatch):
    """Root may read everything, so the refusal is simulated."""
    dataset = dataset_of(TEST)
    baselines(dataset, TRAINING_MOMENTS, 10, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(damaged)
    assert baselines(dataset, TRAINING_MOMENTS, 10, tmp_path) == scores
    kept = [json.loads(path.read_text(encoding="utf-8"))["scores"] for path in tmp_path.iterdir()]
    assert kept[0] | kept[1] == scores
    monkeypatch.setattr(module, "read_json", lambda path: (_ for _ in ()).throw(PermissionError()))
    assert baselines(dataset, TRAINING_MOMENTS, 10, tmp_path) == scores
    assert len(scored) == 3


# --- real images: the table of references.md --------------------------------------------------------------------------

KINDS = [*NAMES[:2], "PPCA, K = 500", *NAMES[3:]]
# `shrunk` was measured here; so were the last two, whose scatter takes long, of every fifth training image.
REAL_BITS = {
    "test": [8, 7.88, 3.57, 3.19, 3.13, 3.03, 2.86, 3.29, 2.50],
    "extra": [8, 7.78, 4.35, 4.27, 4.18, 3.39, 3.55, 3.59, 2.72],
}


@pytest.fixture(scope="module")
def real_densities():
    images = read_mat(REAL / "train_32x32.mat").images
    found = {"sample": fitted_moments(images, "sample"), "robust": fitted_moments(images[::5], "robust")}
    found["shrunk"] = shrunk(found["sample"], len(images))
    return fitted(images, found.__getitem__, 500)


@pytest.mark.skipif(not (REAL / "extra_32x32.mat").is_file(), reason="real images not at hand")
@pytest.mark.parametrize("split", REAL_BITS)
def test_real_images(real_densities, split):
    found = score(read_mat(REAL / f"{split}_32x32.mat").images, real_densities)
    assert found == pytest.approx(dict(zip(KINDS, REAL_BITS[split], strict=True)), abs=0.02)


def test_the_post_loss_of_a_gaussian_is_scipys_in_the_models_coordinates():
    """Of the test images with the noise that they are scored with; the floor is the head's. Pixels have none."""
    parts = [LabelledImages(*map(torch.from_numpy, draw_digits(num, seed=num))) for num in (60, 10, 30)]
    dataset = Dataset("digits", True, *parts)
    coordinates = ("pca.whiten=true", "pca.n_components=20", "variance.epsilon=0.665")
    vae = fitted_vae(*coordinates, "network_scale=0.03125").vae.eval()
    found = gaussian_post_loss(vae, EvaluationSplits(dataset, vae.representation))
    [train], [test] = (
        [vae.representation(x).y.double().numpy() for x in dequantised_chunks(part.images, Stream.EVALUATION_NOISE)]
        for part in (parts[0], parts[2])
    )
    variance = train.var(0, ddof=1)
    assert (variance < 0.665).any()
    assert (variance > 0.665).any()
    expected = -stats.norm.logpdf(test, train.mean(0), np.sqrt(np.maximum(variance, 0.665))).sum(1).mean()
    assert found == pytest.approx(expected, rel=1e-5)
    vae = fitted_vae("model=conv", "network_scale=0.03125").vae.eval()
    assert gaussian_post_loss(vae, EvaluationSplits(dataset, vae.representation)) is None
