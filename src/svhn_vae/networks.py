"""Encoder and decoder networks. One class per file in conf/model/.

Shapes: B images, Z latent dimensions, E = event_shape of y, P = params_per_element and I = params_per_image of the
likelihood's parameters: P numbers for each element of y, the mean first, and I for the image as a whole.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Inferred(NamedTuple):
    """What the networks make of B images: q(z | y), a sample of it, and that sample decoded."""

    mean: Tensor  # (B, Z)
    log_variance: Tensor  # (B, Z): of the distribution that z is sampled from
    claimed_log_variance: Tensor  # (B, Z): what the loss's KL takes for it; the same but for `sampling_bug`
    z: Tensor  # (B, Z)
    params: Tensor  # (B, P, *E)
    image_params: Tensor  # (B, I)


class Networks(nn.Module, ABC):
    """The two networks of a VAE: y -> q(z | y), and z -> parameters of p(y, r | z). The prior of z is N(0, I).

    A hierarchy of latents fits in: its z is the noise that its levels are made of, in order, and its mean and
    log-variance are those of each number given the ones before, so that KL and densities are the same formulas.
    """

    latent_dim: int

    @abstractmethod
    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        """y (B, *E), noise (B, Z) of N(0, I) -> Inferred; with noise 0, z is the posterior's mean."""

    @abstractmethod
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, Z) -> parameters per element (B, P, *E), parameters per image (B, I)."""

    @abstractmethod
    def shrink(self, factor: float) -> None:
        """Multiplies the initial weights that emit all parameters per element but the mean: heads may ask for it."""


class OneLevel(Networks):
    """An encoder and a decoder with one level of latents between them.

    sampling_bug: the post's: z = mean + exp(log-variance) * noise, where exp(log-variance / 2) is meant. The KL in its
    loss is another distribution's; the bound that is reported is that of the distribution which was sampled from.
    """

    sampling_bug = False

    @abstractmethod
    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, *E) -> mean (B, Z), log-variance (B, Z) of the posterior."""

    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        mean, claimed = (output.float() for output in self.encode(y))
        log_variance = 2 * claimed if self.sampling_bug else claimed
        z = mean + (0.5 * log_variance).exp() * noise
        return Inferred(mean, log_variance, claimed, z, *self.decode(z))


class Dense(OneLevel):
    """The post's network: BatchNorm on the input, blocks of (Linear, BatchNorm, ReLU, Dropout) of one width.

    The encoder ends in a branch for the mean and one for the log-variance. The decoder's mean is linear in its last
    block; its other parameters come from one more block, as wide as y, so that a head without them (P = 1) has the
    same network but for that branch. At the post's sizes: 47,213,020 trainable numbers, and 1,276,000 in that branch.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        params_per_element: int,
        params_per_image: int,
        *,
        latent_dim: int,
        width: int,
        encoder_depth: int,
        posterior_depth: int,
        decoder_depth: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.latent_dim, self.event_shape = latent_dim, torch.Size(event_shape)
        size, num_raw = math.prod(event_shape), params_per_element - 1
        branch = [width] * (posterior_depth + 1)
        self.encoder = nn.Sequential(nn.BatchNorm1d(size), *dense_blocks([size, *[width] * encoder_depth], dropout))
        self.posterior_mean = nn.Sequential(*dense_blocks(branch, dropout), nn.Linear(width, latent_dim))
        self.posterior_log_variance = nn.Sequential(*dense_blocks(branch, dropout), nn.Linear(width, latent_dim))
        self.decoder = nn.Sequential(*dense_blocks([latent_dim, *[width] * decoder_depth], dropout))
        self.mean = nn.Linear(width, size)
        self.raw = (
            nn.Sequential(*dense_blocks([width, size], dropout), nn.Linear(size, num_raw * size)) if num_raw else None
        )
        self.image_params = zero_linear(width, params_per_image)

    def shrink(self, factor: float) -> None:
        with torch.no_grad():
            self.raw[-1].weight.mul_(factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(y.flatten(1))
        return self.posterior_mean(h), self.posterior_log_variance(h)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self.decoder(z)
        params = [self.mean(h)] if self.raw is None else [self.mean(h), self.raw(h)]
        return torch.cat(params, dim=1).view(len(z), -1, *self.event_shape), self.image_params(h)


class Conv(OneLevel):
    """Residual blocks (He et al. 2016, pre-activation) at four sizes, 32 to 4 pixels, GroupNorm and SiLU.

    Strided convolutions go down, nearest-neighbour upsampling and a convolution go up (no checkerboard). Each block's
    last convolution starts at zero, so that the network starts as its skeleton.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        params_per_element: int,
        params_per_image: int,
        *,
        latent_dim: int,
        width: int,
        num_blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if len(event_shape) != 3 or event_shape[1] % 8 or event_shape[1] != event_shape[2]:
            raise ValueError(
                f"model=conv needs image-shaped features (C, H, H) with H a multiple of 8, got {tuple(event_shape)}: "
                "use model=dense, or pca=none"
            )
        self.latent_dim, self.event_shape = latent_dim, torch.Size(event_shape)
        channels, height, _ = event_shape
        widths, size = [width, 2 * width, 4 * width, 4 * width], height // 8
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *down(widths, num_blocks, dropout),
            normalisation(widths[-1]), nn.SiLU(), nn.Flatten(),
        )  # fmt: skip
        self.posterior = nn.Linear(widths[-1] * size**2, 2 * latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, widths[-1] * size**2), nn.Unflatten(1, (widths[-1], size, size)),
            *up(widths[::-1], num_blocks, dropout),
            normalisation(width), nn.SiLU(), nn.Conv2d(width, params_per_element * channels, 3, padding=1),
        )  # fmt: skip
        self.image_params = zero_linear(latent_dim, params_per_image)

    def shrink(self, factor: float) -> None:
        with torch.no_grad():
            self.decoder[-1].weight[self.event_shape[0] :].mul_(factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.posterior(self.encoder(y)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder(z).view(len(z), -1, *self.event_shape), self.image_params(z)


class ResidualBlock(nn.Module):
    """x + f(x), at one resolution and width."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.f = nn.Sequential(
            normalisation(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            normalisation(width), nn.SiLU(), nn.Dropout(dropout), last,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def down(widths: Sequence[int], num_blocks: int, dropout: float) -> list[nn.Module]:
    """Residual blocks at widths[0], then for each further width half the resolution and blocks again."""
    layers = [ResidualBlock(widths[0], dropout) for _ in range(num_blocks)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1)]
        layers += [ResidualBlock(after, dropout) for _ in range(num_blocks)]
    return layers


def up(widths: Sequence[int], num_blocks: int, dropout: float) -> list[nn.Module]:
    """The mirror of `down`: residual blocks at widths[0], then twice the resolution for each further width."""
    layers = [ResidualBlock(widths[0], dropout) for _ in range(num_blocks)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
        layers += [ResidualBlock(after, dropout) for _ in range(num_blocks)]
    return layers


def normalisation(width: int) -> nn.GroupNorm:
    """Group normalisation: an image is treated alike alone, in a batch, in training and in evaluation."""
    return nn.GroupNorm(math.gcd(8, width), width)


def dense_blocks(widths: Sequence[int], dropout: float) -> list[nn.Module]:
    """(Linear, BatchNorm, ReLU, Dropout) from each width to the next."""
    return [
        layer
        for before, after in itertools.pairwise(widths)
        for layer in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout))
    ]


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
