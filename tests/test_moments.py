"""Moments that are kept: fitted on the right images, and their file is whole, damaged and noticed, or absent."""

import errno
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from svhn_vae.data import moments
from svhn_vae.data.moments import moments_once
from svhn_vae.model.covariance import FITS, sample_moments

RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (60, 3, 4, 4), dtype=np.uint8))


# --- images -> moments ----------------------------------------------------------------------------------------------


@pytest.fixture
def fitted_on(monkeypatch):
    """The x (N, D) of every fit, one after the other."""
    calls = []

    def fit(batches):
        calls.append(torch.cat(list(batches)).numpy())
        return sample_moments([torch.from_numpy(calls[-1])])

    monkeypatch.setitem(FITS, "sample", fit)
    return calls


def test_fitted_on_the_dequantised_images(fitted_on, tmp_path):
    moments_once(IMAGES, "digest", "sample", tmp_path)
    [x] = fitted_on
    assert x.dtype == np.float64
    np.testing.assert_array_equal(np.floor(256 * x), IMAGES.flatten(1))
    assert (256 * x - np.floor(256 * x)).std() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize(("max_images", "step"), [(60, 1), (59, 2), (30, 2), (25, 3), (7, 9)])
def test_at_most_so_many_evenly_spaced_images(fitted_on, tmp_path, monkeypatch, max_images, step):
    monkeypatch.setitem(moments.MAX_IMAGES, "sample", max_images)
    moments_once(IMAGES, "digest", "sample", tmp_path)
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
    first = moments_once(IMAGES, "digest", "sample", cache)
    [path] = cache.iterdir()
    written = path.stat()
    assert_same(moments_once(IMAGES, "digest", "sample", cache), first)
    assert len(fitted_on) == 1
    assert list(cache.iterdir()) == [path]
    assert path.stat().st_mtime_ns == written.st_mtime_ns


def test_other_images_have_another_file(fitted_on, tmp_path):
    first = moments_once(IMAGES, "one", "sample", tmp_path)
    second = moments_once(IMAGES[:50], "two", "sample", tmp_path)
    assert not torch.equal(first.mean, second.mean)
    assert len(list(tmp_path.iterdir())) == len(fitted_on) == 2
    assert_same(moments_once(IMAGES, "one", "sample", tmp_path), first)
    assert len(fitted_on) == 2


def test_the_two_fits_have_a_file_each(fitted_on, tmp_path):
    sample, robust = (moments_once(IMAGES, "digest", scatter, tmp_path) for scatter in ("sample", "robust"))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"moments-{moments.FORMAT}-{scatter}-digest.safetensors" for scatter in FITS
    }
    assert sample.degrees_of_freedom.isinf()
    assert robust.degrees_of_freedom.isfinite()
    for scatter, due in (("sample", sample), ("robust", robust)):
        assert_same(moments_once(IMAGES, "digest", scatter, tmp_path), due)
    assert len(fitted_on) == 1


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
    expected = moments_once(IMAGES, "digest", "sample", tmp_path)
    [path] = tmp_path.iterdir()
    damage(path)
    assert_same(moments_once(IMAGES, "digest", "sample", tmp_path), expected)
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"  {path} is damaged")
    assert notice.endswith("fitted anew")
    assert_same(moments_once(IMAGES, "digest", "sample", tmp_path), expected)
    assert len(fitted_on) == 2
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, monkeypatch, capsys, broken):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, broken, fail)
    assert_same(moments_once(IMAGES, "digest", "sample", tmp_path), moments.fitted(IMAGES, "sample"))
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "cannot be written" in out
    assert "no space left on device" in out
