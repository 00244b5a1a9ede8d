"""Moments of the pixels: numpy is the oracle, and the file that keeps them is whole, damaged and noticed, or absent."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import linalg

from svhn_vae.data import moments
from svhn_vae.data.moments import moments_once
from svhn_vae.representation import fit_moments

NUM_PIXELS = 48
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (60, 3, 4, 4), dtype=np.uint8))


def some_x(num_images: int) -> np.ndarray:
    """Correlated pixels of very different variance, far from 0."""
    rng = np.random.default_rng(num_images)
    return 0.5 + rng.standard_normal((num_images, NUM_PIXELS)) @ (
        rng.standard_normal((NUM_PIXELS, NUM_PIXELS)) * np.geomspace(0.1, 1e-3, NUM_PIXELS)
    )


@pytest.mark.parametrize("num_images", [5, 47, 48, 49, 300])
def test_numpy_is_the_oracle(num_images):
    x = some_x(num_images)
    fitted = fit_moments(x)
    covariance = np.cov(x, rowvar=False)
    eigenvalues = linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(fitted.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.eigenvalues, eigenvalues.clip(min=0), rtol=1e-9, atol=1e-15)
    basis = fitted.components.double().numpy()
    np.testing.assert_allclose(basis.T * fitted.eigenvalues.numpy() @ basis, covariance, atol=1e-6 * eigenvalues[0])


def test_components_are_eigenvectors_up_to_their_sign():
    x = some_x(300)
    _, vectors = linalg.eigh(np.cov(x, rowvar=False))
    overlap = np.abs(fit_moments(x).components.double().numpy() @ vectors[:, ::-1])
    np.testing.assert_allclose(overlap, np.eye(NUM_PIXELS), atol=1e-5)


@pytest.mark.parametrize("num_images", [2, 5, 47, 48, 49, 300])
def test_basis_is_complete_and_orthonormal(num_images):
    fitted = fit_moments(some_x(num_images))
    assert fitted.components.shape == (NUM_PIXELS, NUM_PIXELS)
    assert fitted.components.dtype == torch.float32
    assert fitted.mean.dtype == fitted.eigenvalues.dtype == torch.float64
    gram = fitted.components.double() @ fitted.components.double().T
    np.testing.assert_allclose(gram, np.eye(NUM_PIXELS), atol=1e-6)
    assert (fitted.eigenvalues.diff() <= 0).all()


@pytest.mark.parametrize("num_images", [2, 5, 47])
def test_no_variance_beyond_the_number_of_images(num_images):
    """N images less their mean span N - 1 dimensions; rounding may give the N-th a trace."""
    x = some_x(num_images)
    fitted = fit_moments(x)
    assert fitted.eigenvalues[num_images:].tolist() == [0] * (NUM_PIXELS - num_images)
    assert fitted.eigenvalues[num_images - 2] > 1e-12 > fitted.eigenvalues[num_images - 1]
    beyond = (x - x.mean(axis=0)) @ fitted.components[num_images:].double().numpy().T
    np.testing.assert_allclose(beyond, 0, atol=1e-6)


def test_basis_does_not_depend_on_the_run():
    first = fit_moments(some_x(100))
    np.random.seed(1)
    torch.manual_seed(1)
    for array, again in zip(first, fit_moments(some_x(100)), strict=True):
        assert torch.equal(array, again)


# --- images -> moments ----------------------------------------------------------------------------------------------


@pytest.fixture
def fitted_on(monkeypatch):
    """The x (N, D) of every fit, one after the other."""
    calls = []
    monkeypatch.setattr(moments, "fit_moments", lambda x: (calls.append(x.copy()), fit_moments(x))[1])
    return calls


def test_fitted_on_the_dequantised_images(fitted_on, tmp_path):
    moments_once(IMAGES, "digest", tmp_path)
    [x] = fitted_on
    assert x.dtype == np.float64
    np.testing.assert_array_equal(np.floor(256 * x), IMAGES.flatten(1))
    assert (256 * x - np.floor(256 * x)).std() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize(("max_images", "step"), [(60, 1), (59, 2), (30, 2), (25, 3), (7, 9)])
def test_at_most_so_many_evenly_spaced_images(fitted_on, tmp_path, monkeypatch, max_images, step):
    monkeypatch.setattr(moments, "MAX_IMAGES", max_images)
    moments_once(IMAGES, "digest", tmp_path)
    [x] = fitted_on
    assert len(x) <= max_images
    np.testing.assert_array_equal(np.floor(256 * x), IMAGES[::step].flatten(1))


# --- the file -------------------------------------------------------------------------------------------------------


def assert_same(found, expected) -> None:
    for array, due in zip(found, expected, strict=True):
        assert torch.equal(array, due)
        assert array.dtype == due.dtype


def test_fitted_once_and_read_afterwards(fitted_on, tmp_path):
    cache = tmp_path / "not" / "there yet"
    first = moments_once(IMAGES, "digest", cache)
    [path] = cache.iterdir()
    written = path.stat()
    assert_same(moments_once(IMAGES, "digest", cache), first)
    assert len(fitted_on) == 1
    assert list(cache.iterdir()) == [path]
    assert path.stat().st_mtime_ns == written.st_mtime_ns


def test_other_images_have_another_file(fitted_on, tmp_path):
    first = moments_once(IMAGES, "one", tmp_path)
    second = moments_once(IMAGES[:50], "two", tmp_path)
    assert not torch.equal(first.mean, second.mean)
    assert len(list(tmp_path.iterdir())) == len(fitted_on) == 2
    assert_same(moments_once(IMAGES, "one", tmp_path), first)
    assert len(fitted_on) == 2


def truncated(length):
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def garbage(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def wrong_names(path):
    save_file({"average": torch.zeros(3)}, path)


def one_name_missing(path):
    content = load_file(path)
    del content["eigenvalues"]
    save_file(content, path)


DAMAGES = {f"{length} bytes": truncated(length) for length in (0, 1, 7, 8, 9, 100, 1000, 5000, -1)}
DAMAGES |= {"garbage": garbage, "wrong names": wrong_names, "one name missing": one_name_missing}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_replaced_with_a_notice(fitted_on, tmp_path, capsys, damage):
    expected = moments_once(IMAGES, "digest", tmp_path)
    [path] = tmp_path.iterdir()
    damage(path)
    assert_same(moments_once(IMAGES, "digest", tmp_path), expected)
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"  {path} is damaged")
    assert notice.endswith("fitted anew")
    assert_same(moments_once(IMAGES, "digest", tmp_path), expected)
    assert len(fitted_on) == 2
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("broken", ["save_file", "replace"])
def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, monkeypatch, capsys, broken):
    def fail(content, path):
        if broken == "save_file":
            path.write_bytes(b"a part")
        raise OSError("no space left on device")

    monkeypatch.setattr(moments if broken == "save_file" else moments.os, broken, fail)
    assert_same(moments_once(IMAGES, "digest", tmp_path), moments._fit(IMAGES))
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written (no space left on device)" in capsys.readouterr().out
