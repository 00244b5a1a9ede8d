"""What is read is what was written, or an error in a line; that no code is run, see test_damage."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from conftest import composed
from svhn_vae.errors import Damaged
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.training.checkpoints import load_representation, read_checkpoint, save_representation

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.int64)}


KINDS = {
    "tensors": (save_tensors, load_tensors),
    "checkpoint": (lambda tensors, path: torch.save({"state_dict": tensors}, path), read_checkpoint),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_and_every_truncation_and_any_flipped_bit_is_noticed(kind, tmp_path):
    (write, read), path, harmless = KINDS[kind], tmp_path / "x", 0
    write(TENSORS, path)
    whole = path.read_bytes()
    for num in range(0, len(whole), max(1, len(whole) // 64)):
        path.write_bytes(whole[:num])
        with pytest.raises(Damaged, match=r"^[^\n]*$"):
            read(path)
        path.write_bytes(whole[:num] + bytes([whole[num] ^ 1]) + whole[num + 1 :])
        with contextlib.suppress(Damaged):
            assert_is_whole(read(path))  # a date in a zip's header
            harmless += 1
    assert harmless < 40
    path.write_bytes(whole)
    assert_is_whole(read(path))


def assert_is_whole(found: dict) -> None:
    found = found.get("state_dict", found)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


# --- coordinates, their basis once per study -------------------------------------------------------------------------


def some_vae(num_components: int = 20, fill: float = 0.5) -> VAE:
    vae = build_vae(composed(f"pca.n_components={num_components}", "network_scale=0.01"))
    for buffer in vae.representation.buffers():
        buffer.fill_(fill)
    return vae


@pytest.fixture
def study(tmp_path) -> Path:
    return tmp_path / "outputs" / "study"


def saved(vae: VAE, path: Path) -> RunFolder:
    save_representation(vae, RunFolder(path))
    return RunFolder(path)


def assert_loads(vae: VAE, folder: RunFolder) -> None:
    found = some_vae(vae.representation.num_components, fill=torch.nan)
    load_representation(found, folder)
    due = dict(vae.representation.named_buffers())
    assert all(torch.equal(buffer, due[name]) for name, buffer in found.representation.named_buffers())


def test_runs_of_one_basis_share_its_file_and_a_moved_run_takes_it_along(study, tmp_path):
    first, second = saved(some_vae(), study / "a"), saved(some_vae(5), study / "b")
    other = saved(some_vae(fill=0.25), study / "c")
    [num_bytes] = {folder.basis.stat().st_size for folder in (first, second, other)}
    assert num_bytes > 3072**2 * 4
    assert first.basis.samefile(second.basis)
    assert not first.basis.samefile(other.basis)
    assert len(os.listdir(study / ".bases")) == 2
    assert all(folder.representation.stat().st_size < 30_000 for folder in (first, second, other))
    shutil.move(study / "a", tmp_path / "elsewhere")
    shutil.copytree(study / "b", tmp_path / "copied")
    shutil.rmtree(study)
    assert_loads(some_vae(), RunFolder(tmp_path / "elsewhere"))
    assert_loads(some_vae(5), RunFolder(tmp_path / "copied"))


def test_a_damaged_basis_is_not_shared_with_the_next_run(study):
    saved(some_vae(), study / "a")
    [shared] = (study / ".bases").iterdir()
    shared.write_bytes(shared.read_bytes()[:-5])
    assert_loads(some_vae(), saved(some_vae(), study / "b"))


def test_without_hard_links_each_run_has_a_copy(study, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    (study / "a").mkdir(parents=True)
    monkeypatch.setattr(os, "link", refuse)
    assert_loads(some_vae(), saved(some_vae(), study / "a"))


def test_a_run_of_an_older_version_has_it_in_one_file(study):
    vae, folder = some_vae(), RunFolder(study / "a")
    save_tensors(
        {name: buffer.contiguous() for name, buffer in vae.representation.named_buffers()}, folder.representation
    )
    assert_loads(vae, folder)
