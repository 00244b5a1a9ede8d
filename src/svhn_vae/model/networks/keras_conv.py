"""The convolutional network of Keras's own example. Shapes: as in interface.py."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svhn_vae.model.networks.checks import at_least, square_images
from svhn_vae.model.networks.interface import OneLevel
from svhn_vae.model.networks.layers import keras_weights, shrink_channels, zero_linear


class KerasConv(OneLevel):
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
        super().__init__()
        at_least(1, latent_dim=latent_dim, width=width, dense_width=dense_width)
        square_images("keras_conv", event_shape, multiple=2)
        self.latent_dim, self.event_shape, self.sampling_bug = latent_dim, torch.Size(event_shape), sampling_bug
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

    def shrink(self, factor: float) -> None:
        shrink_channels(self.decoder[-1], self.event_shape[0], factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(y)
        return self.posterior_mean(h), self.posterior_log_variance(h)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder(z).view(z.shape[0], -1, *self.event_shape), self.image_params(z)
