"""What the VAE asks of its networks, and what several of them are built of.

Shapes: B images, Z latent dimensions, E = event_shape of y, P = params_per_element and I = params_per_image of the
likelihood's parameters: P numbers for each element of y, the mean first, and I for the image as a whole.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least


class Sizes(NamedTuple):
    event_shape: torch.Size  # E
    params_per_element: int  # P
    params_per_image: int  # I


class Inferred(NamedTuple):
    """What the networks make of B images: q(z | y), a sample of it, and that sample decoded."""

    mean: Tensor  # (B, Z)
    log_variance: Tensor  # (B, Z): of the distribution that z is sampled from
    claimed_log_variance: Tensor  # (B, Z): what the loss's KL takes for it; the same but for `sampling_bug`
    z: Tensor  # (B, Z)
    params: Tensor  # (B, P, *E)
    image_params: Tensor  # (B, I)


class Networks(nn.Module, ABC):
    """The two networks of a VAE: y -> q(z | y), and z -> parameters of p(y, r | z).

    A hierarchy of latents fits in: its z is the noise that its levels are made of, in order, and its mean and
    log-variance are those of each number given the ones before, so that KL and densities are the same formulas. Its
    prior is N(0, I).
    """

    latent_dim: int
    needs_standard_prior = True

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
    event_shape: torch.Size  # of y

    @property
    def needs_standard_prior(self) -> bool:
        """The KL that the post's loss takes for the true one is that to N(0, I)."""
        return self.sampling_bug

    @abstractmethod
    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, *E) -> mean (B, Z), log-variance (B, Z) of the posterior."""

    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        mean, claimed = (output.float() for output in self.encode(y))
        log_variance = 2 * claimed if self.sampling_bug else claimed
        z = mean + (0.5 * log_variance).exp() * noise
        return Inferred(mean, log_variance, claimed, z, *self.decode(z))


class OfImages(OneLevel):
    """An encoder and a decoder of square images; a subclass makes the four modules. The decoder's last convolution
    emits the parameters of all elements.

    multiple: what the images' height must be divisible by.
    """

    encoder: nn.Module  # y -> a vector
    posterior: nn.Module  # that vector -> mean and log-variance (B, 2 Z)
    decoder: nn.Sequential  # z -> (B, P * C, H, H)
    image_params: nn.Module  # z -> (B, I)

    def __init__(self, name: str, sizes: Sizes, latent_dim: int, sampling_bug: bool, multiple: int) -> None:
        super().__init__()
        at_least("model", 1, latent_dim=latent_dim)
        square_images(name, sizes.event_shape, multiple=multiple)
        self.latent_dim, self.event_shape, self.sampling_bug = latent_dim, sizes.event_shape, sampling_bug

    def shrink(self, factor: float) -> None:
        shrink_channels(self.decoder[-1], self.event_shape[0], factor)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(self.encoder(y)).chunk(2, dim=1)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder(z).view(z.shape[0], -1, *self.event_shape), self.image_params(z)


class LinearPath(nn.Module):
    """A linear map beside the layers of each side: y, or what is seen of it (B, size) -> the posterior's mean (B, Z),
    and z (B, Z) -> the same of the mean (B, size).

    A linear VAE is probabilistic PCA (Tipping and Bishop 1999), which the layers need not learn then. Its posteriors
    have one variance; a log-variance that is linear in y explodes at outliers.
    """

    def __init__(self, size: int, latent_dim: int) -> None:
        super().__init__()
        self.posterior_mean = nn.Linear(size, latent_dim)
        self.mean = nn.Linear(latent_dim, size)


ACTIVATIONS = {  # of what no other layer sees
    "relu": functools.partial(nn.ReLU, inplace=True),  # 1 % of a small network's step on a CPU
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "none": nn.Identity,
}


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
        return h.new_empty(h.shape[0], 0)


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
    """Multiplies the weights of all outputs, a convolution's channels, but the `first`."""
    assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    layer.weight.movedim(int(isinstance(layer, nn.ConvTranspose2d)), 0)[first:].mul_(factor)


def square_images(model: str, event_shape: Sequence[int], *, multiple: int) -> None:
    if len(event_shape) != 3 or event_shape[1] != event_shape[2] or event_shape[1] % multiple:
        raise UserError(
            f"model={model} needs image-shaped features (C, H, H) with H a multiple of {multiple}, "
            f"got {tuple(event_shape)}: use model=dense, or pca=none"
        )
