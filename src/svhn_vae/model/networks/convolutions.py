"""Networks of convolutions: a plain one of any depth, two that others published, a residual one. Shapes: as in
interface.py."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least, fraction, one_of
from svhn_vae.model.networks.interface import (
    ACTIVATIONS,
    LinearPath,
    OfImages,
    Sizes,
    group_norm,
    keras_weights,
    zero_linear,
)

IMAGE_NORMALISATIONS = {"batch": nn.BatchNorm2d, "group": group_norm, "none": nn.Identity}
VECTOR_NORMALISATIONS = {"batch": nn.BatchNorm1d, "group": group_norm, "none": nn.Identity}


class Conv(OfImages):
    """num_layers convolutions, num_dense dense layers, the latents, and the mirror image of it all.

    num_strided of the convolutions halve the resolution, spread evenly from the first on. The first has `width`
    channels, and each halving after it doubles them, up to max_width. Normalisation, activation and dropout follow each
    layer but the two that emit: the posterior's, and the decoder's last, with P * C channels.

    upsampling: nearest neighbours and a convolution, or a strided transposed convolution.
    linear_path: pixels a side of a coarse image that has a LinearPath beside all of this; what it adds to the mean is
    interpolated; 0: none. Convolutions alone learn an image's light first, and its colours after a thousand updates.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        latent_dim: int,
        linear_path: int,
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
        dense_normalisation: str,
        dropout: float,
        sampling_bug: bool,
    ) -> None:
        super().__init__("conv", sizes, latent_dim, sampling_bug, multiple=2)
        at_least("model", 1, num_layers=num_layers, width=width, dense_width=dense_width)
        at_least("model", 0, num_dense=num_dense, linear_path=linear_path)
        at_least("model", width, max_width=max_width)
        check_strides(sizes.event_shape[1], num_layers, num_strided)
        check_kernel(kernel_size, keeps_a_size=num_strided < num_layers or upsampling != "transposed")
        channels, height, _ = sizes.event_shape
        steps = plan(channels, width, max_width, num_layers, num_strided)
        smallest = (steps[-1].after, height // 2**num_strided, height // 2**num_strided)
        dense = [math.prod(smallest), *[dense_width] * num_dense]
        block = Block(kernel_size, upsampling, activation, normalisation, dense_normalisation, dropout)
        self.encoder = nn.Sequential(*block.down(steps), nn.Flatten(), *block.dense(dense))
        self.posterior = nn.Linear(dense[-1], 2 * latent_dim)
        self.decoder = nn.Sequential(
            *block.dense([latent_dim, *dense[::-1]]), nn.Unflatten(1, smallest), *block.up(steps[1:]),
            *block.mirrored(steps[0]._replace(before=sizes.params_per_element * channels)),
        )  # fmt: skip
        self.image_params = zero_linear(latent_dim, sizes.params_per_image)
        self.coarse_height = linear_path
        self.linear_path = LinearPath(channels * linear_path**2, latent_dim) if linear_path else None

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = super().encode(y)
        if self.linear_path is not None:
            mean = mean + self.linear_path.posterior_mean(F.adaptive_avg_pool2d(y, self.coarse_height).flatten(1))
        return mean, log_variance

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        params, image_params = super().decode(z)
        if self.linear_path is not None:
            channels, *size = self.event_shape
            coarse = self.linear_path.mean(z).view(-1, channels, self.coarse_height, self.coarse_height)
            mean = params[:, :1] + F.interpolate(coarse, size, mode="bilinear")[:, None]
            params = torch.cat([mean, params[:, 1:]], dim=1)
        return params, image_params


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
    at_least("model", 1, kernel_size=kernel_size)
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
    dense_normalisation: str
    dropout: float

    def __post_init__(self) -> None:
        one_of("model", ("nearest", "transposed"), upsampling=self.upsampling)
        one_of("model", ACTIVATIONS, activation=self.activation)
        one_of("model", IMAGE_NORMALISATIONS, normalisation=self.normalisation)
        one_of("model", VECTOR_NORMALISATIONS, dense_normalisation=self.dense_normalisation)
        fraction("model", dropout=self.dropout)

    def down(self, steps: Sequence[Step]) -> list[nn.Module]:
        """The encoder's side: (B, C, H, H) -> (B, steps[-1].after, H / 2**num_strided, H / 2**num_strided)."""
        k, normalise = self.kernel_size, IMAGE_NORMALISATIONS[self.normalisation]
        return [
            layer
            for before, after, stride in steps
            for layer in (nn.Conv2d(before, after, k, stride, padding=(k - 1) // 2), *self.finish(normalise(after)))
        ]

    def up(self, steps: Sequence[Step]) -> list[nn.Module]:
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
        normalise = VECTOR_NORMALISATIONS[self.dense_normalisation]
        return [
            layer
            for before, after in itertools.pairwise(widths)
            for layer in (nn.Linear(before, after), *self.finish(normalise(after)))
        ]

    def finish(self, normalisation: nn.Module) -> list[nn.Module]:
        return [normalisation, ACTIVATIONS[self.activation](), nn.Dropout(self.dropout)]


class DCGAN(OfImages):
    """DCGAN's generator as the decoder, its discriminator as the encoder (Radford et al. 2016), 32 to 4 pixels.

    Convolutions of 4 x 4 and stride 2, the width doubling as the size halves; batch normalisation but at the image and
    the latents, and no biases before it; LeakyReLU(0.2) in the encoder, ReLU in the decoder; weights from N(0, 0.02^2).
    The output is linear, without the paper's tanh: what it emits are the likelihood's parameters.
    """

    def __init__(self, sizes: Sizes, *, latent_dim: int, width: int, sampling_bug: bool) -> None:
        super().__init__("dcgan", sizes, latent_dim, sampling_bug, multiple=8)
        at_least("model", 1, width=width)
        channels, height, _ = sizes.event_shape
        smallest = (4 * width, height // 8, height // 8)
        size = math.prod(smallest)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2),
            nn.Flatten(),
        )  # fmt: skip
        self.posterior = nn.Linear(size, 2 * latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, size, bias=False), nn.Unflatten(1, smallest), nn.BatchNorm2d(4 * width), nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, sizes.params_per_element * channels, 4, 2, 1),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)
        self.image_params = zero_linear(latent_dim, sizes.params_per_image)


class KerasConv(OfImages):
    """examples/variational_autoencoder_deconv.py of Keras 2 (2017), which the post started from, for any even size.

    One halving, 32 to 16 pixels, and ReLU throughout, without normalisation. The decoder overshoots by a pixel, to 33,
    and its last convolution takes it away again. Linear where the example has a sigmoid: what it emits are the
    likelihood's parameters. Keras pads a 2 x 2 kernel on the right and below.
    """

    def __init__(self, sizes: Sizes, *, latent_dim: int, width: int, dense_width: int, sampling_bug: bool) -> None:
        super().__init__("keras_conv", sizes, latent_dim, sampling_bug, multiple=2)
        at_least("model", 1, width=width, dense_width=dense_width)
        channels, height, _ = sizes.event_shape
        smallest = (width, height // 2, height // 2)
        size = math.prod(smallest)
        self.encoder = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 2), nn.ReLU(),
            nn.Conv2d(channels, width, 2, stride=2), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(size, dense_width), nn.ReLU(),
        )  # fmt: skip
        self.posterior_mean = nn.Linear(dense_width, latent_dim)
        self.posterior_log_variance = nn.Linear(dense_width, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, dense_width), nn.ReLU(),
            nn.Linear(dense_width, size), nn.ReLU(), nn.Unflatten(1, smallest),
            nn.ConvTranspose2d(width, width, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 3, stride=2), nn.ReLU(),
            nn.Conv2d(width, sizes.params_per_element * channels, 2),
        )  # fmt: skip
        self.apply(keras_weights)
        self.image_params = zero_linear(latent_dim, sizes.params_per_image)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(y)
        return self.posterior_mean(h), self.posterior_log_variance(h)


class ResNet(OfImages):
    """Residual blocks (He et al. 2016, pre-activation) at four sizes, 32 to 4 pixels, GroupNorm and SiLU.

    Strided convolutions go down, nearest-neighbour upsampling and a convolution go up (no checkerboard). Each block's
    last convolution starts at zero, so that the network starts as its skeleton.
    """

    def __init__(
        self, sizes: Sizes, *, latent_dim: int, width: int, num_blocks: int, dropout: float, sampling_bug: bool
    ) -> None:
        super().__init__("resnet", sizes, latent_dim, sampling_bug, multiple=8)
        at_least("model", 1, width=width)
        at_least("model", 0, num_blocks=num_blocks)
        fraction("model", dropout=dropout)
        channels, height, _ = sizes.event_shape
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
            group_norm(width), nn.SiLU(), nn.Conv2d(width, sizes.params_per_element * channels, 3, padding=1),
        )  # fmt: skip
        self.image_params = zero_linear(latent_dim, sizes.params_per_image)


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
