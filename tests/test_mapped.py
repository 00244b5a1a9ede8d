"""Data that are mapped from disk: the same images, batches and weights as from memory, in less of it."""

import os

import pytest
import torch
from hydra.utils import instantiate

from conftest import composed
from svhn_vae.data import batches
from svhn_vae.data.mapped import Mapped, room_on_disk
from svhn_vae.data.mat import LabelledImages
from test_batches import IMAGES, full_pca, pixels, taken
from test_checkpoints import train

SMALL = ("data=synthetic", "data.num_train=60", "data.num_test=20")


@pytest.fixture(autouse=True)
def groups_of_ten(monkeypatch):
    """More than one of a draw."""
    monkeypatch.setattr(batches, "PROJECTED_ON_CPU", 10)


def mapped(folder, *overrides: str) -> Mapped:
    return Mapped(instantiate(composed(*SMALL, *overrides).data, _convert_="all"), folder)


def test_the_images_are_those_of_the_source(tmp_path):
    for _ in range(2):  # written, and found
        found, expected = mapped(tmp_path).load(), mapped(tmp_path).source.load()
        assert (found.digest, found.train_digest) == (expected.digest, expected.train_digest)
        assert (found.name, found.is_synthetic) == (expected.name, expected.is_synthetic)
        for part in ("train", "val", "test"):
            assert isinstance(getattr(found, part), LabelledImages)
            assert all(map(torch.equal, getattr(found, part), getattr(expected, part)))
    assert len(os.listdir(tmp_path)) == 1


def test_other_images_are_another_file(tmp_path):
    digests = {mapped(tmp_path, *other).load().digest for other in ([], ["data.drawing_seed=1"], ["data.limit=0.5"])}
    assert len(digests) == len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path, damage, capsys):
    expected = mapped(tmp_path).load().digest
    [path] = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert mapped(tmp_path).load().digest == expected
    assert "is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("representation", [full_pca, pixels])
def test_batches_are_bit_by_bit_those_from_memory(representation, tmp_path):
    expected = taken(IMAGES, representation())
    for batch, due in zip(taken(IMAGES, representation(), scratch=tmp_path), expected, strict=True):
        assert all(map(torch.equal, batch, due))
    assert not list(tmp_path.iterdir())  # the file has no name


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    with pytest.raises(OSError, match=r"No space left|File too large"):
        room_on_disk((2**52,), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_comes_to_the_same_weights_bit_by_bit(tmp_path):
    from_memory, from_disk = (
        train(tmp_path / name, f"memory_map={name}", f"cache={tmp_path}").module.state_dict()
        for name in ("false", "true")
    )
    assert all(torch.equal(from_disk[name], value) for name, value in from_memory.items())
