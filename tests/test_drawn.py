"""Drawn digits that are kept: the same as drawn, whole or noticed, and no file for a few of them."""

import numpy as np
import pooch
import pytest

from svhn_vae.data import digits, drawn
from svhn_vae.data.drawn import drawn_once


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(drawn, "KEPT", range(10, 21))
    return tmp_path / "svhn-vae"


def assert_drawn(found, num_images: int, seed: int) -> None:
    images, labels = digits.draw_digits(num_images, seed)
    np.testing.assert_array_equal(found.images.numpy(), images)
    np.testing.assert_array_equal(found.labels.numpy(), labels)


def test_drawn_once_and_read_afterwards(cache, monkeypatch):
    for _ in range(2):
        assert_drawn(drawn_once(12, seed=3), 12, seed=3)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(digits, "draw_digits", None)
    assert len(drawn_once(12, seed=3).labels) == 12


def test_other_numbers_and_seeds_have_files_of_their_own(cache):
    for num_images, seed in ((12, 3), (13, 3), (12, 4)):
        assert_drawn(drawn_once(num_images, seed), num_images, seed)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("num_images", [9, 21])
def test_few_and_very_many_are_not_kept(cache, num_images):
    assert_drawn(drawn_once(num_images, seed=3), num_images, seed=3)
    assert not cache.exists()


def test_other_code_draws_anew(cache, monkeypatch):
    drawn_once(12, seed=3)
    drawn._drawer.cache_clear()
    monkeypatch.setattr(drawn, "version", lambda library: "0.1")
    drawn_once(12, seed=3)
    drawn._drawer.cache_clear()
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_is_replaced_with_a_notice(cache, capsys):
    drawn_once(12, seed=3)
    [path] = cache.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert_drawn(drawn_once(12, seed=3), 12, seed=3)
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"  {path} is damaged")
    assert notice.endswith("drawn anew")
    assert_drawn(drawn_once(12, seed=3), 12, seed=3)
    assert capsys.readouterr().out == ""
