"""What a run folder keeps of a model: its fitted coordinates once, and checkpoints of the rest. Nothing is unpickled.

Every file is checked when it is read, because torch says nothing of a flipped bit.
"""

import errno
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from svhn_vae.errors import Damaged
from svhn_vae.model.vae import VAE
from svhn_vae.runs.files import replacing
from svhn_vae.runs.folder import RunFolder

BASIS = "components"  # the buffer (D, D) of a projection: 38 MB of 32 x 32 x 3 pixels, alike in most runs of a study
SHAPE = "image_shape"  # of a stored representation: (C, H, W)
MAX_SIDE, MAX_LABELS = 10_000, 256
NUM_LABELS = "num_labels"  # that the networks are told of; 0: none
BASES = ".bases"  # the study's folder of such buffers


def save_tensors(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """A safetensors file with the checksum of its content."""
    content = save(tensors)
    with replacing(path) as beside:
        beside.write_bytes(save(tensors, {"sha256": hashlib.sha256(content).hexdigest(), **metadata}))


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
    if BASIS in state:
        share_basis({BASIS: state.pop(BASIS)}, folder)
    save_tensors(state | shapes_of(vae), folder.representation)


def shapes_of(vae: VAE) -> dict[str, Tensor]:
    return {SHAPE: torch.tensor(vae.representation.image_shape), NUM_LABELS: torch.tensor(vae.num_labels)}


def stored_shapes(path: Path) -> tuple[tuple[int, ...], int]:
    """(C, H, W) of the images that the representation in a file was fitted on, and of how many labels its networks are
    told. Raises Damaged."""
    stored = load_tensors(path)
    shape = stored.get(SHAPE, torch.tensor([3, 32, 32]))  # older files have neither
    num_labels = int(stored.get(NUM_LABELS, torch.tensor(0)))
    if shape.shape != (3,) or not 1 <= shape.min() <= shape.max() <= MAX_SIDE:
        raise Damaged(path, f"no image has the shape {shape.tolist()}")
    if not 0 <= num_labels <= MAX_LABELS:
        raise Damaged(path, f"no data set has {num_labels} labels")
    return tuple(shape.tolist()), num_labels


def share_basis(basis: dict[str, Tensor], folder: RunFolder) -> None:
    """Keeps one file of a basis per study, and hard links to it in the run folders.

    A run folder that is moved or copied takes the file along. Where there are no hard links, each run has a copy.
    """
    name = hashlib.sha256(basis[BASIS].cpu().numpy()).hexdigest()[:16]  # pyright: ignore[reportArgumentType]
    shared = folder.path.parent / BASES / f"{name}.safetensors"
    try:
        try:
            load_tensors(shared)
        except (FileNotFoundError, Damaged):
            save_tensors(basis, shared)
        with replacing(folder.basis) as beside:
            os.link(shared, beside)
    except OSError:
        save_tensors(basis, folder.basis)


def load_representation(vae: VAE, folder: RunFolder) -> None:
    """Raises Damaged."""
    state = load_tensors(folder.representation)
    buffers = dict(vae.representation.named_buffers())
    if BASIS in buffers and BASIS not in state:  # runs of versions before 0.2 have it in the same file
        state |= load_tensors(folder.basis)
    fill(buffers, state, folder.representation)


def fill(tensors: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Copies what was found in a file into tensors of the same names and shapes. Raises Damaged."""
    for name, tensor in tensors.items():
        if name not in found or found[name].shape != tensor.shape:
            raise Damaged(path, f"it has no {name} of the shape {list(tensor.shape)}")
        tensor.copy_(found[name])


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
    fill(vae.prior.state_dict(), load_tensors(folder.prior), folder.prior)
    vae.prior.is_fitted = True


def load_parts(vae: VAE, folder: RunFolder) -> None:
    """All that a run folder keeps of a trained model. Raises Damaged."""
    load_weights(vae, folder.best_checkpoint)
    load_representation(vae, folder)
    if vae.prior.is_fitted_last:
        load_prior(vae, folder)


def save_model(vae: VAE, path: Path) -> None:
    """All of a trained model in one file."""
    whole = {name: value.clone().contiguous() for name, value in state_of(vae).items()}
    save_tensors(whole | shapes_of(vae), path)


def load_model(vae: VAE, path: Path) -> None:
    """Raises Damaged."""
    fill(state_of(vae), load_tensors(path), path)
    if vae.prior.is_fitted_last:
        vae.prior.is_fitted = True


def state_of(vae: VAE) -> dict[str, Tensor]:
    """The model's own tensors: of the networks, the head and the prior, and of the fitted coordinates."""
    return vae.state_dict() | {f"representation.{name}": buffer for name, buffer in vae.representation.named_buffers()}
