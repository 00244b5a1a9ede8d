"""What a run folder keeps of a model: the representation once, and checkpoints of the rest. Nothing is unpickled.

What is read is checked: of a flipped bit, torch says nothing, and safetensors has no checksum of its own.
"""

import errno
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from svhn_vae.atomic import replacing
from svhn_vae.runs import RunFolder
from svhn_vae.vae import VAE


class Damaged(ValueError):
    """A file that is not what was written."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path} is damaged: {' '.join(str(why).split())[:200]}")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file with the checksum of its content."""
    content = save(tensors)
    with replacing(path) as beside:
        beside.write_bytes(save(tensors, {"sha256": hashlib.sha256(content).hexdigest()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises Damaged if its content is not what was written."""
    content = path.read_bytes()
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    expected = metadata.get("sha256")  # older files have none
    if expected not in (None, hashlib.sha256(save(tensors)).hexdigest()):
        raise Damaged(path, "its checksum is another")
    return tensors


def save_representation(vae: VAE, folder: RunFolder) -> None:
    """It never changes once fitted, so the checkpoints do without it."""
    state = {name: buffer.contiguous() for name, buffer in vae.representation.named_buffers()}
    save_tensors(state, folder.representation)


def load_representation(vae: VAE, folder: RunFolder) -> None:
    """Raises Damaged."""
    state = load_tensors(folder.representation)
    for name, buffer in vae.representation.named_buffers():
        if name not in state or state[name].shape != buffer.shape:
            raise Damaged(folder.representation, f"it has no {name} of the shape {list(buffer.shape)}")
        buffer.copy_(state[name])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises Damaged for what is cut off, has a flipped bit or holds code."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise Damaged(path, f"the checksum of {record} is another")
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Damaged:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's start
            raise
        raise Damaged(path, error) from None
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise Damaged(path, "it holds no weights")
    return checkpoint


def load_weights(vae: VAE, path: Path) -> None:
    """A checkpoint's networks and head. Raises Damaged."""
    state = read_checkpoint(path)["state_dict"]
    try:
        vae.load_state_dict({name.removeprefix("vae."): value for name, value in state.items()})
    except RuntimeError as error:
        raise Damaged(path, error) from None


def load_best(vae: VAE, folder: RunFolder) -> None:
    """The best checkpoint's networks and head. Raises Damaged."""
    load_weights(vae, folder.best_checkpoint)
