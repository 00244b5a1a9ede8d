"""The network of a convolutional GAN. Shapes: as in interface.py."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svhn_vae.model.networks.checks import at_least, square_images
from svhn_vae.model.networks.interface import OneLevel
from svhn_vae.model.networks.layers import shrink_channels, zero_linear


class DCGAN(OneLevel):
    """DCGAN's generator as the decoder, its discriminator as the encoder (Radford et al. 2016), 32 to 4 pixels.

    Convolutions of 4 x 4 and stride 2, the width doubling as the size halves; batch normalisation but at the image and
    the latents, and no biases before it; LeakyReLU(0.2) in the encoder, ReLU in the decoder; weights from N(0, 0.02^2).
    The output is linear, without the paper's tanh: what it emits are the likelihood's parameters.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        params_per_element: int,
        params_per_image: int,
        *,
        latent_dim: int,
        width: int,
        sampling_bug: bool,
    ) -> None:
        super().__init__()
        at_least(1, latent_dim=latent_dim, width=width)
        square_images("dcgan", event_shape, multiple=8)
        self.latent_dim, self.event_shape, self.sampling_bug = latent_dim, torch.Size(event_shape), sampling_bug
        channels, height, _ = event_shape
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
            nn.ConvTranspose2d(width, params_per_element * channels, 4, 2, 1),
        )  # fmt: skip
        self.apply(dcgan_weights)
        self.image_params = zero_linear(latent_dim, params_per_image)

    def shrink(self, factor: float) -> None:
        shrink_channels(self.decoder[-1], self.event_shape[0], factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(self.encoder(y)).chunk(2, dim=1)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder(z).view(z.shape[0], -1, *self.event_shape), self.image_params(z)


def dcgan_weights(module: nn.Module) -> None:
    """For `module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
