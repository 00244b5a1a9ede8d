"""What is read is what was written, or an error in a line; and it runs no code."""

import os
import pickle

import pytest
import torch

from svhn_vae.errors import Damaged
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.runs.weights import read_checkpoint

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


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    for read in (load_tensors, read_checkpoint):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
