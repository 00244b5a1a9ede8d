"""Tensors that are kept: made of the right images, and their file is whole, or damaged and noticed, or done without."""

import errno
import os
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from safetensors.torch import save_file

from svhn_vae.data import cache, digits
from svhn_vae.data.cache import cached_moments, fitted_moments
from svhn_vae.data.digits import Synthetic, draw_digits
from svhn_vae.model.covariance import FITS, Moments, sample_moments

RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (60, 3, 4, 4), dtype=np.uint8))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What another test has in memory."""
    monkeypatch.setattr(cache, "_in_memory", {})


@pytest.fixture
def fitted_on(monkeypatch):
    """The x (N, D) of every fit, one after the other."""
    calls = []

    def fit(batches):
        calls.append(torch.cat(list(batches)).numpy())
        return sample_moments([torch.from_numpy(calls[-1])])

    monkeypatch.setitem(FITS, "sample", fit)
    return calls


def assert_same(found, expected) -> None:
    for array, due in zip(found, expected, strict=True):
        assert torch.equal(array, due)
        assert array.dtype == due.dtype


def moments_of(folder, images=IMAGES, digest: str = "digest", scatter: str = "sample") -> Moments:
    """As another process has them: nothing is in memory."""
    cache._in_memory.clear()
    return cached_moments(images, digest, scatter, folder)


@pytest.mark.parametrize(("max_images", "step"), [(60, 1), (59, 2), (25, 3)])
def test_fitted_on_at_most_so_many_evenly_spaced_dequantised_images(fitted_on, tmp_path, monkeypatch, max_images, step):
    monkeypatch.setitem(cache.MAX_IMAGES, "sample", max_images)
    moments_of(tmp_path)
    [x] = fitted_on
    assert len(x) <= max_images
    assert x.dtype == np.float64
    np.testing.assert_array_equal(np.floor(256 * x), IMAGES[::step].flatten(1))
    assert (256 * x - np.floor(256 * x)).std() == pytest.approx(12**-0.5, abs=0.02)


def test_each_images_and_each_fit_has_a_file_of_its_own_written_once_and_read_afterwards(fitted_on, tmp_path):
    folder = tmp_path / "not" / "there yet"
    first, robust = moments_of(folder, digest="one"), moments_of(folder, digest="one", scatter="robust")
    second = moments_of(folder, IMAGES[:50], "two")
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert first.degrees_of_freedom.isinf()
    assert robust.degrees_of_freedom.isfinite()
    assert written.keys() == {
        f"moments-{cache.MOMENTS_FORMAT}-{name}.safetensors" for name in ("sample-one", "robust-one", "sample-two")
    }
    assert_same(moments_of(folder, digest="one"), first)
    assert_same(moments_of(folder, digest="one", scatter="robust"), robust)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert not torch.equal(first.mean, second.mean)
    assert len(fitted_on) == 2


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "other names": lambda path: save_file({"average": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_replaced_with_a_notice(fitted_on, tmp_path, capsys, damage):
    expected = moments_of(tmp_path)
    [path] = tmp_path.iterdir()
    damage(path)
    assert_same(moments_of(tmp_path), expected)
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"  {path} is damaged")
    assert_same(moments_of(tmp_path), expected)
    assert len(fitted_on) == 2
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().out == ""


def denied(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


def full(*_, **__):
    raise OSError(errno.ENOSPC, "no space left on device")


REFUSALS = {
    "a full disk": (os, "fsync", full),
    "a sticky folder": (os, "replace", denied),
    "no rights to write": (cache, "save_tensors", denied),
    "another user's private file": (cache, "load_tensors", denied),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_cache_that_cannot_be_used_costs_one_fit_per_command(fitted_on, tmp_path, monkeypatch, capsys, refusal):
    """Root may read and write everything, so the refusals are simulated."""
    monkeypatch.setattr(*refusal)
    expected = fitted_moments(IMAGES, "sample")
    for _ in range(3):  # jobs of one command
        assert_same(cached_moments(IMAGES, "digest", "sample", tmp_path), expected)
    assert len(fitted_on) == 2
    notices = capsys.readouterr().out.splitlines()
    assert len(notices) == 1
    assert "damaged" not in notices[0]
    assert "cache=FOLDER is another place" in notices[0]


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nope", "/dev/null/below", "/sys/nope"])
def test_a_folder_that_cannot_be_made_costs_one_fit_and_one_notice(fitted_on, capsys, folder):
    for _ in range(3):
        assert_same(cached_moments(IMAGES, f"of {folder}", "sample", Path(folder)), fitted_moments(IMAGES, "sample"))
    [notice] = capsys.readouterr().out.splitlines()
    assert "cannot be written" in notice


def test_what_is_not_finite_is_not_kept(tmp_path, monkeypatch):
    good = fitted_moments(IMAGES, "sample")
    monkeypatch.setitem(FITS, "sample", lambda batches: good._replace(mean=good.mean * torch.nan))
    assert cached_moments(IMAGES, "digest", "sample", tmp_path).mean.isnan().all()
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(FITS, "sample", lambda batches: good)
    assert_same(cached_moments(IMAGES, "digest", "sample", tmp_path), good)


def test_digits_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    division = {"splits": ["train"], "limit": None, "held_out": 0.1, "division": "contiguous"}
    source = Synthetic(**division, num_train=12, num_test=11, drawing_seed=3)
    for _ in range(2):
        for split, due in (("train", draw_digits(12, 6)), ("test", draw_digits(11, 7))):
            for found, expected in zip(source.read(split), due, strict=True):
                np.testing.assert_array_equal(found.numpy(), expected)
        cache._in_memory.clear()
        monkeypatch.setattr(digits, "draw_digits", None)
    assert len(list((tmp_path / "svhn-vae").iterdir())) == 2
