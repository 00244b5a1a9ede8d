"""The fully connected network. Shapes: as in interface.py."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from svhn_vae.errors import above_zero, at_least, fraction, one_of
from svhn_vae.model.networks.interface import (
    ACTIVATIONS,
    INITIALISATIONS,
    LinearPath,
    NoOutput,
    OneLevel,
    Sizes,
    shrink_channels,
    zero_linear,
)


class Dense(OneLevel):
    """Blocks of (Linear, normalisation, activation, Dropout) of one width; with the defaults, the post's network.

    encoder    y -> encoder_depth blocks -> the mean, and apart the log-variance: posterior_depth blocks, and linear
    decoder    z -> decoder_depth blocks -> the mean: linear
    variance   the parameters other than the mean: variance_depth blocks as wide as y, and linear; from the decoder's
               last block, or from z through blocks of their own (separate_trunks). A head without them (P = 1) has the
               same network but for this branch.

    At the post's sizes: 47,213,020 trainable numbers, and 1,276,000 in the variance branch.

    linear_path: a LinearPath of y beside the layers.
    normalise_input: batch normalisation of y, whatever normalises the blocks.
    batch_norm_momentum: the newest batch's weight in the running statistics, 1 - momentum in Keras's words.
    initialisation: torch's own; Keras's: Glorot-uniform weights, biases 0; or Kingma's: weights N(0, 1 / inputs),
    biases 0, and the posterior's log-variance 0 for every image.
    frozen_variance: the post's fault. Its variance branch was not in the model that was trained: it keeps its initial
    weights, and in evaluation its batch normalisation takes mean 0 and variance 1, those of no data. Gradients still
    pass through it to the decoder, which learns to steer a random network.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        latent_dim: int,
        width: int,
        encoder_depth: int,
        posterior_depth: int,
        decoder_depth: int,
        variance_depth: int,
        separate_trunks: bool,
        linear_path: bool,
        activation: str,
        normalisation: str,
        normalise_input: bool,
        dropout: float,
        batch_norm_momentum: float,
        batch_norm_eps: float,
        initialisation: str,
        sampling_bug: bool,
        frozen_variance: bool,
    ) -> None:
        super().__init__()
        at_least("model", 1, latent_dim=latent_dim, width=width)
        at_least("model", 1, encoder_depth=encoder_depth, decoder_depth=decoder_depth)
        at_least("model", 0, posterior_depth=posterior_depth, variance_depth=variance_depth)
        self.latent_dim, self.event_shape, self.sampling_bug = latent_dim, sizes.event_shape, sampling_bug
        self.separate_trunks = separate_trunks
        size, posterior = math.prod(sizes.event_shape), [width] * (posterior_depth + 1)
        block = Block(activation, normalisation, dropout, batch_norm_momentum, batch_norm_eps, initialisation)
        self.encoder = block.encoder([size, *[width] * encoder_depth], normalise_input)
        self.posterior_mean, self.posterior_log_variance = (block.branch(posterior, latent_dim) for _ in range(2))
        if initialisation == "kingma":  # sigma 1 for every image
            nn.init.zeros_(self.posterior_log_variance[-1].weight)  # pyright: ignore[reportArgumentType]
        self.decoder = nn.Sequential(*block.chain(trunk := [latent_dim, *[width] * decoder_depth]))
        self.mean = block.linear(width, size)
        widths = [*(trunk if separate_trunks else [width]), *[size] * variance_depth]
        self.raw = variance_branch(block, widths, (sizes.params_per_element - 1) * size, frozen=frozen_variance)
        self.image_params = zero_linear(width, sizes.params_per_image)
        self.linear_path = LinearPath(size, latent_dim).apply(INITIALISATIONS[initialisation]) if linear_path else None

    def shrink(self, factor: float) -> None:
        shrink_channels(self.raw[-1], 0, factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(y.flatten(1))
        mean, log_variance = self.posterior_mean(h), self.posterior_log_variance(h)
        if self.linear_path is not None:
            mean = mean + self.linear_path.posterior_mean(y.flatten(1))
        return mean, log_variance

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self.decoder(z)
        raw = self.raw(z if self.separate_trunks else h)
        mean = self.mean(h) if self.linear_path is None else self.mean(h) + self.linear_path.mean(z)
        return torch.cat([mean, raw], dim=1).view(z.shape[0], -1, *self.event_shape), self.image_params(h)


@dataclass(frozen=True)
class Block:
    """What the network is built of: (Linear, normalisation, activation, Dropout), and linear outputs."""

    activation: str
    normalisation: str
    dropout: float
    batch_norm_momentum: float
    batch_norm_eps: float
    initialisation: str

    def __post_init__(self) -> None:
        one_of("model", ACTIVATIONS, activation=self.activation)
        one_of("model", ("batch", "layer", "none"), normalisation=self.normalisation)
        one_of("model", INITIALISATIONS, initialisation=self.initialisation)
        fraction("model", dropout=self.dropout, batch_norm_momentum=self.batch_norm_momentum)
        above_zero("model", batch_norm_eps=self.batch_norm_eps)

    def chain(self, widths: Sequence[int]) -> list[nn.Module]:
        activation = ACTIVATIONS[self.activation]
        return [
            layer
            for before, after in itertools.pairwise(widths)
            for layer in (self.linear(before, after), self.normalise(after), activation(), nn.Dropout(self.dropout))
        ]

    def encoder(self, widths: Sequence[int], normalise_input: bool) -> nn.Sequential:
        first = self.batch_norm(widths[0]) if normalise_input else nn.Identity()
        return nn.Sequential(first, *self.chain(widths))

    def branch(self, widths: Sequence[int], num_outputs: int) -> nn.Sequential:
        return nn.Sequential(*self.chain(widths), self.linear(widths[-1], num_outputs))

    def linear(self, before: int, after: int) -> nn.Linear:
        layer = nn.Linear(before, after)
        INITIALISATIONS[self.initialisation](layer)
        return layer

    def normalise(self, width: int) -> nn.Module:
        choices = {"batch": self.batch_norm, "layer": nn.LayerNorm, "none": nn.Identity}
        return choices[self.normalisation](width)

    def batch_norm(self, width: int) -> nn.BatchNorm1d:
        return nn.BatchNorm1d(width, momentum=self.batch_norm_momentum, eps=self.batch_norm_eps)


def variance_branch(block: Block, widths: Sequence[int], num_outputs: int, *, frozen: bool) -> nn.Sequential:
    """What emits the parameters other than the mean; frozen, its weights and running statistics stay as they begin."""
    if not num_outputs:
        return nn.Sequential(NoOutput())
    if frozen:
        block = replace(block, batch_norm_momentum=0.0)
    return block.branch(widths, num_outputs).requires_grad_(not frozen)
