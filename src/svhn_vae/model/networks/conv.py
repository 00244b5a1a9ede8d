"""The plain convolutional network. Shapes: as in interface.py."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from svhn_vae.errors import UserError
from svhn_vae.model.networks.interface import OfImages
from svhn_vae.model.networks.layers import ACTIVATIONS, at_least, fraction, group_norm, one_of, zero_linear

IMAGE_NORMALISATIONS = {"batch": nn.BatchNorm2d, "group": group_norm, "none": nn.Identity}
VECTOR_NORMALISATIONS = {"batch": nn.BatchNorm1d, "group": group_norm, "none": nn.Identity}


class Conv(OfImages):
    """num_layers convolutions, num_dense dense layers, the latents, and the mirror image of it all.

    num_strided of the convolutions halve the resolution, spread evenly from the first on. The first has `width`
    channels, and each halving after it doubles them, up to max_width. Normalisation, activation and dropout follow each
    layer but the two that emit: the posterior's, and the decoder's last, with P * C channels.

    upsampling: nearest neighbours and a convolution, or a strided transposed convolution.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        params_per_element: int,
        params_per_image: int,
        *,
        latent_dim: int,
        num_layers: int,
        num_strided: int,
        width: int,
        max_width: int,
        kernel_size: int,
        num_dense: int,
        dense_width: int,
        upsampling: str,
        activation: str,
        normalisation: str,
        dropout: float,
        sampling_bug: bool,
    ) -> None:
        super().__init__("conv", event_shape, latent_dim, sampling_bug, multiple=2)
        at_least(1, num_layers=num_layers, width=width, dense_width=dense_width)
        at_least(0, num_dense=num_dense)
        at_least(width, max_width=max_width)
        check_strides(event_shape[1], num_layers, num_strided)
        check_kernel(kernel_size, keeps_a_size=num_strided < num_layers or upsampling != "transposed")
        channels, height, _ = event_shape
        steps = plan(channels, width, max_width, num_layers, num_strided)
        smallest = (steps[-1].after, height // 2**num_strided, height // 2**num_strided)
        dense = [math.prod(smallest), *[dense_width] * num_dense]
        block = Block(kernel_size, upsampling, activation, normalisation, dropout)
        self.encoder = nn.Sequential(*block.down(steps), nn.Flatten(), *block.dense(dense))
        self.posterior = nn.Linear(dense[-1], 2 * latent_dim)
        self.decoder = nn.Sequential(
            *block.dense([latent_dim, *dense[::-1]]), nn.Unflatten(1, smallest), *block.up(steps[1:]),
            *block.mirrored(steps[0]._replace(before=params_per_element * channels)),
        )  # fmt: skip
        self.image_params = zero_linear(latent_dim, params_per_image)


class Step(NamedTuple):
    """A convolution of the encoder, of which the decoder has the mirror image."""

    before: int  # channels
    after: int
    stride: int


def plan(channels: int, width: int, max_width: int, num_layers: int, num_strided: int) -> list[Step]:
    """The encoder's convolutions, from an image of so many channels on."""
    strided = {i * num_layers // num_strided for i in range(num_strided)}
    strides = [2 if layer in strided else 1 for layer in range(num_layers)]
    widths = [channels, width]
    for stride in strides[1:]:
        widths.append(min(stride * widths[-1], max_width))
    return [Step(*pair, stride) for pair, stride in zip(itertools.pairwise(widths), strides, strict=True)]


def check_strides(size: int, num_layers: int, num_strided: int) -> None:
    """Raises UserError if images of `size` pixels in a row cannot be halved that often."""
    most = max(num for num in range(num_layers + 1) if size % 2**num == 0 and size // 2**num >= 2)
    if not 0 <= num_strided <= most:
        raise UserError(
            f"model.num_strided must be in 0..{most}, as often as {num_layers} layers can halve {size} pixels with at "
            f"least 2 left, got {num_strided}"
        )


def check_kernel(kernel_size: int, *, keeps_a_size: bool) -> None:
    """Raises UserError if the kernel is even and a layer has to keep the size."""
    at_least(1, kernel_size=kernel_size)
    if keeps_a_size and kernel_size % 2 == 0:
        raise UserError(
            f"model.kernel_size must be odd, got {kernel_size}: an even one is for networks whose layers all halve the "
            "resolution, with model.upsampling=transposed"
        )


@dataclass(frozen=True)
class Block:
    """What the network is built of: a convolution or a dense layer, then normalisation, activation, Dropout."""

    kernel_size: int
    upsampling: str
    activation: str
    normalisation: str
    dropout: float

    def __post_init__(self) -> None:
        one_of(("nearest", "transposed"), upsampling=self.upsampling)
        one_of(ACTIVATIONS, activation=self.activation)
        one_of(IMAGE_NORMALISATIONS, normalisation=self.normalisation)
        fraction(dropout=self.dropout)

    def down(self, steps: Sequence[Step]) -> list[nn.Module]:
        """The encoder's side: (B, C, H, H) -> (B, steps[-1].after, H / 2**num_strided, H / 2**num_strided)."""
        k, normalise = self.kernel_size, IMAGE_NORMALISATIONS[self.normalisation]
        return [
            layer
            for before, after, stride in steps
            for layer in (nn.Conv2d(before, after, k, stride, padding=(k - 1) // 2), *self.finish(normalise(after)))
        ]

    def up(self, steps: Sequence[Step]) -> list[nn.Module]:
        """The decoder's side: the way back."""
        normalise = IMAGE_NORMALISATIONS[self.normalisation]
        return [
            layer for step in reversed(steps) for layer in (*self.mirrored(step), *self.finish(normalise(step.before)))
        ]

    def mirrored(self, step: Step) -> list[nn.Module]:
        """From step.after to step.before channels, and `stride` times the size."""
        k = self.kernel_size
        if self.upsampling == "transposed":
            padding, output_padding = (k - 1) // 2, (step.stride - k) % 2
            return [nn.ConvTranspose2d(step.after, step.before, k, step.stride, padding, output_padding)]
        upsample = [nn.Upsample(scale_factor=2)] if step.stride == 2 else []
        return [*upsample, nn.Conv2d(step.after, step.before, k, padding=k // 2)]

    def dense(self, widths: Sequence[int]) -> list[nn.Module]:
        normalise = VECTOR_NORMALISATIONS[self.normalisation]
        return [
            layer
            for before, after in itertools.pairwise(widths)
            for layer in (nn.Linear(before, after), *self.finish(normalise(after)))
        ]

    def finish(self, normalisation: nn.Module) -> list[nn.Module]:
        """What follows a layer."""
        return [normalisation, ACTIVATIONS[self.activation](), nn.Dropout(self.dropout)]
