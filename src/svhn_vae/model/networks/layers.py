"""What several networks share: layers, initial weights, and checks of settings, UserErrors of one line."""

import functools
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError

ACTIVATIONS = {  # of what no other layer sees
    "relu": functools.partial(nn.ReLU, inplace=True),  # 1 % of a small network's step on a CPU
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "none": nn.Identity,
}


def group_norm(width: int) -> nn.GroupNorm:
    """Group normalisation: an image is treated alike alone, in a batch, in training and in evaluation."""
    return nn.GroupNorm(math.gcd(8, width), width)


def zero_linear(in_features: int, out_features: int) -> nn.Module:
    """A linear layer that starts at zero, or one of no outputs."""
    if not out_features:
        return NoOutput()
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class NoOutput(nn.Module):
    """h (B, ...) -> (B, 0); torch's Linear warns about having nothing to initialise."""

    def forward(self, h: Tensor) -> Tensor:
        return h.new_empty(h.shape[0], 0)


def keras_weights(module: nn.Module) -> None:
    """For `module.apply`, Keras's defaults: Glorot-uniform weights, biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def kingma_weights(module: nn.Module) -> None:
    """For `module.apply`, those of nips14-ssl: weights N(0, 1 / inputs), biases 0; hidden ones there N(0, 0.01^2)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)


INITIALISATIONS = {"torch": lambda module: None, "keras": keras_weights, "kingma": kingma_weights}


@torch.no_grad()
def shrink_channels(layer: nn.Module, first: int, factor: float) -> None:
    """Multiplies the weights of all outputs, a convolution's channels, but the `first`."""
    assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    layer.weight.movedim(int(isinstance(layer, nn.ConvTranspose2d)), 0)[first:].mul_(factor)


def one_of(choices: Collection[str], **settings: str) -> None:
    for name, value in settings.items():
        if value not in choices:
            raise UserError(f"model.{name} must be one of {', '.join(choices)}, got {value}")


def at_least(minimum: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < minimum:
            raise UserError(f"model.{name} must be at least {minimum}, got {value}")


def fraction(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise UserError(f"model.{name} must be in 0..1, got {value}")


def positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise UserError(f"model.{name} must be above 0, got {value}")


def square_images(model: str, event_shape: Sequence[int], *, multiple: int) -> None:
    if len(event_shape) != 3 or event_shape[1] != event_shape[2] or event_shape[1] % multiple:
        raise UserError(
            f"model={model} needs image-shaped features (C, H, H) with H a multiple of {multiple}, "
            f"got {tuple(event_shape)}: use model=dense, or pca=none"
        )
