"""Layers and initial weights that several networks share."""

import functools
import math

import torch
from torch import Tensor, nn

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
    """Multiplies the weights of all output channels of a convolution but the `first`."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    layer.weight.movedim(int(layer.transposed), 0)[first:].mul_(factor)
