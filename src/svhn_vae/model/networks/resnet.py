"""The residual convolutional network. Shapes: as in interface.py."""

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from svhn_vae.model.networks.interface import OfImages
from svhn_vae.model.networks.layers import at_least, fraction, group_norm, zero_linear


class ResNet(OfImages):
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
        sampling_bug: bool,
    ) -> None:
        super().__init__("resnet", event_shape, latent_dim, sampling_bug, multiple=8)
        at_least(1, width=width)
        at_least(0, num_blocks=num_blocks)
        fraction(dropout=dropout)
        channels, height, _ = event_shape
        widths, size = [width, 2 * width, 4 * width, 4 * width], height // 8
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *stages(widths, num_blocks, dropout, halved),
            group_norm(widths[-1]), nn.SiLU(), nn.Flatten(),
        )  # fmt: skip
        self.posterior = nn.Linear(widths[-1] * size**2, 2 * latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, widths[-1] * size**2), nn.Unflatten(1, (widths[-1], size, size)),
            *stages(widths[::-1], num_blocks, dropout, doubled),
            group_norm(width), nn.SiLU(), nn.Conv2d(width, params_per_element * channels, 3, padding=1),
        )  # fmt: skip
        self.image_params = zero_linear(latent_dim, params_per_image)


class ResidualBlock(nn.Module):
    """x + f(x), at one resolution and width."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.f = nn.Sequential(
            group_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            group_norm(width), nn.SiLU(), nn.Dropout(dropout), last,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def halved(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride=2, padding=1)]


def doubled(before: int, after: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]


def stages(
    widths: Sequence[int], num_blocks: int, dropout: float, resized: Callable[[int, int], list[nn.Module]]
) -> list[nn.Module]:
    """Residual blocks at widths[0], then for each further width another resolution and blocks again."""
    layers: list[nn.Module] = [ResidualBlock(widths[0], dropout) for _ in range(num_blocks)]
    for before, after in itertools.pairwise(widths):
        layers += [*resized(before, after), *(ResidualBlock(after, dropout) for _ in range(num_blocks))]
    return layers
