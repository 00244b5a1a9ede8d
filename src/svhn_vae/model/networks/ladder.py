"""A hierarchical VAE: latents at several resolutions, each level given the ones before. Shapes: as in interface.py."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least, fraction
from svhn_vae.model.networks.convolutions import ResidualBlock
from svhn_vae.model.networks.interface import (
    Inferred,
    Networks,
    Sizes,
    group_norm,
    shrink_channels,
    square_images,
    zero_linear,
)

SMALLEST = 4  # pixels: the resolution of the first level


class Ladder(Networks):
    """Very deep VAE (Child 2021) at SVHN's size: an encoder shrinks images to 4 x 4 pixels, a decoder comes back and
    draws latents in each of its blocks, from a prior that it computes itself.

    A block's latents are prior_mean + prior_sigma * e; the framework's z are the e of all blocks, in order, whose prior
    is N(0, I), and the posterior is one of e. All blocks start with a posterior equal to the prior.
    """

    def __init__(
        self, sizes: Sizes, *, width: int, latent_channels: int, num_levels: int, num_blocks: int, dropout: float
    ) -> None:
        super().__init__()
        at_least("model", 1, width=width, latent_channels=latent_channels, num_levels=num_levels, num_blocks=num_blocks)
        fraction("model", dropout=dropout)
        square_images("ladder", sizes.event_shape, multiple=SMALLEST)
        channels, size, _ = sizes.event_shape
        sides = [SMALLEST * 2**level for level in range(num_levels)]
        if sides[-1] > size:
            raise UserError(f"model.num_levels={num_levels} needs {sides[-1]} pixels in a row, got {size}: lower it")
        self.event_shape = sizes.event_shape
        self.latent_shapes = [(latent_channels, side, side) for side in sides for _ in range(num_blocks)]
        self.latent_dims = [math.prod(shape) for shape in self.latent_shapes]
        self.latent_dim = sum(self.latent_dims)
        halvings = (size // SMALLEST).bit_length() - 1
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.up = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, dropout) for _ in range(num_blocks))) for _ in range(halvings + 1)
        )
        self.down = nn.ModuleList(DrawingBlock(width, latent_channels, dropout) for _ in self.latent_shapes)
        self.start = nn.Parameter(torch.zeros(width, SMALLEST, SMALLEST))
        self.widen = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(halvings))
        last = nn.Conv2d(width, sizes.params_per_element * channels, 3, padding=1)
        self.decoder = nn.Sequential(ResidualBlock(width, dropout), group_norm(width), nn.SiLU(), last)
        self.image_params = zero_linear(width, sizes.params_per_image)

    def shrink(self, factor: float) -> None:
        shrink_channels(self.decoder[-1], self.event_shape[0], factor)

    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        seen = self._encode(y)
        noises = iter(noise.split(self.latent_dims, dim=1))
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []

        def infer(block: DrawingBlock, h: Tensor) -> Tensor:
            mean, log_variance = block.posterior(h, seen[h.shape[-1]])
            e = mean + (0.5 * log_variance).exp() * next(noises).view_as(mean)
            drawn.append((mean.flatten(1), log_variance.flatten(1), e.flatten(1)))
            return e

        params, image_params = self._descend(len(y), infer)
        mean, log_variance, z = (torch.cat(levels, dim=1) for levels in zip(*drawn, strict=True))
        return Inferred(mean, log_variance, log_variance, z, params, image_params)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        levels = zip(z.split(self.latent_dims, dim=1), self.latent_shapes, strict=True)
        drawn = iter([e.view(-1, *shape) for e, shape in levels])
        return self._descend(z.shape[0], lambda block, h: next(drawn))

    def _encode(self, y: Tensor) -> dict[int, Tensor]:
        """y (B, C, H, H) -> what the encoder sees at each resolution, by its pixels."""
        h, seen = self.stem(y), {}
        for index, blocks in enumerate(self.up):
            h = blocks(nn.functional.avg_pool2d(h, 2) if index else h)
            seen[h.shape[-1]] = h
        return seen

    def _descend(self, num: int, draw: Callable[["DrawingBlock", Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """`draw` gives the e of each block, in order, from what the decoder knows by then."""
        h = self.start.expand(num, -1, -1, -1)
        widen = iter(self.widen)
        for block, (_, size, _) in zip(self.down, self.latent_shapes, strict=True):
            assert isinstance(block, DrawingBlock)
            if size != h.shape[-1]:
                h = next(widen)(nn.functional.interpolate(h, scale_factor=2))
            h = block(h, draw(block, h))
        for layer in widen:  # the resolutions without latents
            h = layer(nn.functional.interpolate(h, scale_factor=2))
        params = self.decoder(h).view(num, -1, *self.event_shape)
        return params, self.image_params(h.mean((2, 3)))


class DrawingBlock(nn.Module):
    """Latents at one place of the decoder, and what they add to it."""

    def __init__(self, width: int, latent_channels: int, dropout: float) -> None:
        super().__init__()
        self.posterior_net = nn.Sequential(
            group_norm(2 * width), nn.SiLU(), nn.Conv2d(2 * width, width, 3, padding=1),
            group_norm(width), nn.SiLU(), zero_conv(width, 2 * latent_channels),
        )  # fmt: skip
        self.prior_net = nn.Sequential(group_norm(width), nn.SiLU(), zero_conv(width, 2 * latent_channels))
        self.project = nn.Conv2d(latent_channels, width, 1)
        self.block = ResidualBlock(width, dropout)

    def posterior(self, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder and encoder at this place (B, width, S, S) -> mean and log-variance of e, in float32."""
        mean, raw = self.posterior_net(torch.cat([h, seen], dim=1)).float().chunk(2, dim=1)
        return mean, -3 + 7 * torch.tanh((raw + 3.21) / 7)  # within -10..4, and 0 where raw is 0

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        mean, log_sigma = self.prior_net(h).chunk(2, dim=1)
        return self.block(h + self.project(mean + (2 * torch.tanh(log_sigma / 2)).exp() * e))


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer
