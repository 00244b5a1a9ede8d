"""What a run folder keeps of a model: the representation once, and checkpoints of the rest. Nothing is unpickled."""

import torch
from safetensors.torch import load_file, save_file

from svhn_vae.atomic import replacing
from svhn_vae.runs import RunFolder
from svhn_vae.vae import VAE


def save_representation(vae: VAE, folder: RunFolder) -> None:
    """It never changes once fitted, so the checkpoints do without it."""
    state = {name: buffer.contiguous() for name, buffer in vae.representation.named_buffers()}
    with replacing(folder.representation) as beside:
        save_file(state, beside)


def load_representation(vae: VAE, folder: RunFolder) -> None:
    state = load_file(folder.representation)
    for name, buffer in vae.representation.named_buffers():
        buffer.copy_(state[name])


def load_best(vae: VAE, folder: RunFolder) -> None:
    """The best checkpoint's networks and head."""
    state = torch.load(folder.best_checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in state.items()})
