"""Convolutional networks as others published them. Shapes: as in interface.py."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from svhn_vae.model.networks.interface import OfImages
from svhn_vae.model.networks.layers import at_least, keras_weights, zero_linear


class DCGAN(OfImages):
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
        super().__init__("dcgan", event_shape, latent_dim, sampling_bug, multiple=8)
        at_least(1, width=width)
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


def dcgan_weights(module: nn.Module) -> None:
    """For `module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)


class KerasConv(OfImages):
    """examples/variational_autoencoder_deconv.py of Keras 2 (2017), which the post started from, for any even size.

    One halving, 32 to 16 pixels, and ReLU throughout, without normalisation. The decoder overshoots by a pixel, to 33,
    and its last convolution takes it away again. Linear where the example has a sigmoid: what it emits are the
    likelihood's parameters. Keras pads a 2 x 2 kernel on the right and below.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        params_per_element: int,
        params_per_image: int,
        *,
        latent_dim: int,
        width: int,
        dense_width: int,
        sampling_bug: bool,
    ) -> None:
        super().__init__("keras_conv", event_shape, latent_dim, sampling_bug, multiple=2)
        at_least(1, width=width, dense_width=dense_width)
        channels, height, _ = event_shape
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
            nn.Conv2d(width, params_per_element * channels, 2),
        )  # fmt: skip
        self.apply(keras_weights)
        self.image_params = zero_linear(latent_dim, params_per_image)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(y)
        return self.posterior_mean(h), self.posterior_log_variance(h)
