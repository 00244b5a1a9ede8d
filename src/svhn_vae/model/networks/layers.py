"""Layers and initial weights that several networks share."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svhn_vae.model.whole_batch import num_parts, own_rows

ACTIVATIONS = {  # of what no other layer sees
    "relu": functools.partial(nn.ReLU, inplace=True),  # 1 % of a small network's step on a CPU
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "none": nn.Identity,
}


class Dropout(nn.Dropout):
    """Dropout by the mask of the whole batch. On a CPU an element of it takes 16 random bits, and p is rounded to a
    multiple of 2**-16: on an AMD processor torch draws a double each, an eighth of a small network's step."""

    def forward(self, x: Tensor) -> Tensor:
        is_cheap = x.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or not 0 < self.p < 1 or (is_cheap and num_parts() == 1):
            return super().forward(x)
        shape = (num_parts() * len(x), *x.shape[1:])
        if is_cheap:
            kept, share = torch.rand(shape, device=x.device) >= self.p, 1 - self.p
        else:
            kept, share = kept_by_bits(shape, self.p)
        return x * (own_rows(kept) * (1 / share)).to(x.dtype)


def kept_by_bits(shape: Sequence[int], p: float) -> tuple[Tensor, float]:
    """Booleans on the CPU, and the share of them that is expected to be true: 1 - p, rounded."""
    low, num = -(2**15), math.prod(shape)
    num_dropped = min(round(p * 2**16), 2**16 - 1)  # of the values that 16 bits have
    bits = torch.empty(-(-num // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (bits[:num] >= low + num_dropped).view(*shape), 1 - num_dropped / 2**16


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
        return h.new_empty(len(h), 0)


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
