"""What a run folder keeps of a model: the representation once, and checkpoints of the rest. Nothing is unpickled.

What is read is checked: of a flipped bit, torch says nothing.
"""

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch

from svhn_vae.errors import Damaged
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.tensors import load_tensors, save_tensors


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


def save_prior(vae: VAE, folder: RunFolder) -> None:
    """One that was fitted after training: the checkpoints hold it as it was before."""
    save_tensors({name: value.contiguous() for name, value in vae.prior.state_dict().items()}, folder.prior)


def load_prior(vae: VAE, folder: RunFolder) -> None:
    """Raises Damaged."""
    try:
        vae.prior.load_state_dict(load_tensors(folder.prior))
    except RuntimeError as error:
        raise Damaged(folder.prior, error) from None
    vae.prior.is_fitted = True


def load_best(vae: VAE, folder: RunFolder) -> None:
    """The best checkpoint's networks and head. Raises Damaged."""
    load_weights(vae, folder.best_checkpoint)
