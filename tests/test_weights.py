"""What is read is what was written, or an error in a line; and it runs no code."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from conftest import composed
from svhn_vae.errors import Damaged
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import (
    load_representation,
    load_tensors,
    read_checkpoint,
    save_representation,
    save_tensors,
)

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(2, dtype=torch.int64)}


class Code:
    """What a malicious pickle does."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["SHOULD_NOT_BE"],))


@pytest.fixture
def tensors(tmp_path):
    save_tensors(TENSORS, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def test_what_was_written_is_read(tensors, checkpoint):
    assert all(torch.equal(load_tensors(tensors)[name], value) for name, value in TENSORS.items())
    assert read_checkpoint(checkpoint)["epoch"] == 3


@pytest.mark.parametrize("kind", ["tensors", "checkpoint"])
def test_every_truncation_and_any_flipped_bit_is_noticed(kind, request):
    path, read = request.getfixturevalue(kind), {"tensors": load_tensors, "checkpoint": read_checkpoint}[kind]
    whole = path.read_bytes()
    for num in range(0, len(whole), max(1, len(whole) // 64)):
        path.write_bytes(whole[:num])
        with pytest.raises(Damaged) as error:
            read(path)
        assert "\n" not in str(error.value)
    harmless = 0
    for num in range(0, len(whole), max(1, len(whole) // 64)):
        path.write_bytes(whole[:num] + bytes([whole[num] ^ 1]) + whole[num + 1 :])
        try:
            found = read(path)
        except Damaged:
            continue
        found = found.get("state_dict", found)
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())  # a date in a zip's header
        harmless += 1
    assert harmless < 40


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("read", [load_tensors, read_checkpoint])
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_malicious_pickle_does_not_run(read, write, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOULD_NOT_BE", str(tmp_path / "ran"))
    write({"state_dict": Code()}, tmp_path / "x.ckpt")
    with pytest.raises(Damaged):
        read(tmp_path / "x.ckpt")
    assert not (tmp_path / "ran").exists()


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
