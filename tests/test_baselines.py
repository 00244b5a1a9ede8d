"""Baselines: scipy and scikit-learn are the oracles on small images, the figures of references.md on the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA as SklearnPCA

from svhn_vae.data.batches import dequantised_chunks
from svhn_vae.data.dataset import Dataset
from svhn_vae.data.mat import LabelledImages, read_mat
from svhn_vae.data.moments import moments_once
from svhn_vae.evaluation import baselines as module
from svhn_vae.evaluation.baselines import baselines, score
from svhn_vae.scatter import DEQUANTISATION_VARIANCE, Moments, sample_moments
from svhn_vae.seeds import Stream

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


@pytest.fixture(scope="module")
def scores():
    return score(TEST, sample_moments(X_TRAIN), 10)


def test_names(scores):
    due = ["uniform", "independent Gaussian", "PPCA, K = 10", "full covariance", "full covariance, floored"]
    assert list(scores) == due


def test_uniform_is_eight_bits(scores):
    assert scores["uniform"] == 8


def test_independent_gaussian(scores):
    log_density = stats.norm.logpdf(X_TEST, MEAN, X_TRAIN.std(axis=0, ddof=1)).sum(axis=1)
    assert scores["independent Gaussian"] == pytest.approx(bits(log_density), abs=1e-4)


def test_full_covariance(scores):
    expected = bits(stats.multivariate_normal(MEAN, COVARIANCE).logpdf(X_TEST))
    assert scores["full covariance"] == pytest.approx(expected, abs=1e-4)
    assert scores["full covariance, floored"] == pytest.approx(expected, abs=1e-4)  # nothing is below the floor here
    assert expected < scores["independent Gaussian"] - 0.1


@pytest.mark.parametrize("num_components", [1, 10, 47])
def test_ppca_is_that_of_scikit_learn(num_components):
    oracle = SklearnPCA(num_components, svd_solver="full").fit(X_TRAIN)
    found = score(TEST, sample_moments(X_TRAIN), num_components)[f"PPCA, K = {num_components}"]
    assert found == pytest.approx(bits(oracle.score_samples(X_TEST)), abs=1e-4)


def test_ppca_with_all_components_is_the_full_covariance():
    scores = score(TEST, sample_moments(X_TRAIN), NUM_PIXELS)
    assert scores["PPCA, K = 48"] == pytest.approx(scores["full covariance, floored"], abs=1e-9)


def test_without_components_there_is_no_ppca():
    assert not any("PPCA" in name for name in score(TEST, sample_moments(X_TRAIN), None))


def moments_of(variance: np.ndarray) -> Moments:
    """On the pixels themselves as a basis, around grey."""
    mean = torch.full((NUM_PIXELS,), 0.5, dtype=torch.float64)
    return Moments(mean, torch.eye(NUM_PIXELS), torch.from_numpy(variance))


def test_floors():
    """A variance below that of the dequantisation noise is no property of the images."""
    assert pytest.approx(FLOOR) == DEQUANTISATION_VARIANCE
    variance = np.geomspace(1e-2, 1e-8, NUM_PIXELS)
    scores = score(torch.full((20, 3, 4, 4), 128, dtype=torch.uint8), moments_of(variance), 5)
    x = dequantised(torch.full((20, 3, 4, 4), 128, dtype=torch.uint8), Stream.EVALUATION_NOISE)
    floored = variance.clip(min=FLOOR)
    isotropic = np.concatenate([floored[:5], np.full(43, floored[5:].mean())])
    for name, expected in {
        "independent Gaussian": floored,
        "PPCA, K = 5": isotropic,
        "full covariance": variance,
        "full covariance, floored": floored,
    }.items():
        log_density = stats.norm.logpdf(x, 0.5, np.sqrt(expected)).sum(axis=1)
        assert scores[name] == pytest.approx(bits(log_density), rel=1e-4), name


@pytest.mark.parametrize("num_images", [20, 47, 48])
def test_no_density_of_the_full_covariance_from_so_few_images(num_images):
    """N images span N - 1 dimensions: what rounding leaves of the other variances is no variance."""
    for seed in range(10):
        x = np.random.default_rng(seed).random((num_images, NUM_PIXELS))
        scores = score(TEST[:5], sample_moments(x), None)
        assert "full covariance" not in scores, scores
        assert np.isfinite(list(scores.values())).all()


def test_the_mean_is_over_images_whatever_the_chunks(monkeypatch):
    moments, half = sample_moments(X_TRAIN), len(TEST) // 2
    monkeypatch.setattr("svhn_vae.data.batches.CHUNK", half)
    whole, first = score(TEST, moments, 10), score(TEST[:half], moments, 10)
    x = dequantised(TEST, Stream.EVALUATION_NOISE)  # in those chunks
    gaussian = stats.multivariate_normal(MEAN, COVARIANCE)
    assert whole["full covariance"] == pytest.approx(bits(gaussian.logpdf(x)), abs=1e-4)
    assert first["full covariance"] == pytest.approx(bits(gaussian.logpdf(x[:half])), abs=1e-4)


# --- kept in a file -------------------------------------------------------------------------------------------------


def dataset_of(test: torch.Tensor) -> Dataset:
    parts = [LabelledImages(images, torch.zeros(len(images), dtype=torch.uint8)) for images in (TRAIN, TEST[:9], test)]
    return Dataset("small", True, *parts)


@pytest.fixture
def scored(monkeypatch):
    """The number of components of every time that images were scored."""
    calls = []
    monkeypatch.setattr(module, "score", lambda *arguments: (calls.append(arguments[2]), score(*arguments))[1])
    return calls


def test_scored_once_and_read_afterwards(scored, scores, tmp_path):
    cache, dataset, moments = tmp_path / "not there yet", dataset_of(TEST), sample_moments(X_TRAIN)
    assert baselines(dataset, moments, 10, cache) == scores
    [path] = cache.iterdir()
    assert json.loads(path.read_text()) == scores
    assert baselines(dataset, moments, 10, cache) == scores
    assert scored == [10]


def test_other_images_and_other_components_are_scored_apart(scored, tmp_path):
    moments = sample_moments(X_TRAIN)
    for num_components in (10, 20, None):
        found = baselines(dataset_of(TEST), moments, num_components, tmp_path)
        assert (f"PPCA, K = {num_components}" in found) == (num_components is not None)
    first = baselines(dataset_of(TEST), moments, 10, tmp_path)
    assert baselines(dataset_of(TEST[:100]), moments, 10, tmp_path) != first
    assert scored == [10, 20, None, 10]


@pytest.mark.parametrize("damaged", [b"", b'{"uniform": 8', b"\xff\xfe", b"[]"])
def test_damaged_file_is_replaced(scored, scores, tmp_path, damaged):
    dataset, moments = dataset_of(TEST), sample_moments(X_TRAIN)
    baselines(dataset, moments, 10, tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(damaged)
    assert baselines(dataset, moments, 10, tmp_path) == scores
    assert json.loads(path.read_text()) == scores
    assert len(scored) == 2


# --- real images: the table of references.md --------------------------------------------------------------------------

REAL_BITS = {
    "test": {
        "uniform": 8,
        "independent Gaussian": 7.88,
        "PPCA, K = 500": 3.57,
        "full covariance": 3.19,
        "full covariance, floored": 3.13,
    },
    "extra": {
        "uniform": 8,
        "independent Gaussian": 7.78,
        "PPCA, K = 500": 4.35,
        "full covariance": 4.27,
        "full covariance, floored": 4.18,
    },
}


@pytest.fixture(scope="module")
def real_moments(tmp_path_factory):
    """Of all 7,499 training images: about 15 s."""
    images = read_mat(REAL / "train_32x32.mat").images
    return moments_once(images, "real", tmp_path_factory.mktemp("cache"))


@pytest.mark.skipif(not (REAL / "extra_32x32.mat").is_file(), reason="real images not at hand")
@pytest.mark.parametrize("split", REAL_BITS)
def test_real_images(real_moments, split):
    found = score(read_mat(REAL / f"{split}_32x32.mat").images, real_moments, 500)
    assert found == pytest.approx(REAL_BITS[split], abs=0.02)
