"""What a prior is, and the standard normal one.

Shapes: B images, Z latent dimensions, G groups of them. Units: nats per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import kl_to_standard_normal
from svhn_vae.model.networks import Networks

NUM_DRAWS = 10_000  # for the moments of a prior that has none in closed form: their errors are near 1 %


class Prior(nn.Module, ABC):
    """The law p(z) of the latents z (B, Z) of some networks."""

    is_bound = False  # True: log_prob is a lower bound, on average over its noise
    is_fitted_last = False  # True: by `fit`, when all else is learnt
    is_fitted: bool

    def __init__(self, name: str, networks: Networks, **counts: int) -> None:
        """Raises UserError for networks whose latents are N(0, I) by construction, and for counts below 1."""
        super().__init__()
        if networks.needs_standard_prior and name != "standard":
            raise UserError(
                f"prior={name} needs one level of latents, sampled with their own standard deviation, got "
                f"{type(networks).__name__}: use prior=standard, or model=dense without model.sampling_bug"
            )
        for key, value in counts.items():
            if value < 1:
                raise UserError(f"prior.{key} must be at least 1, got {value}")
        self.latent_dim = networks.latent_dim

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """z (B, Z) -> log p(z) (B,)."""

    @abstractmethod
    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        """(num, Z), drawn with a generator of the CPU, alike on any device; `temperature` multiplies the standard
        deviation of the noise that they are made of: 1 gives samples of p(z), 0 its most typical points."""

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        """A posterior N(mean, exp(log_variance)) and its sample z, (B, Z) each -> (B, G), whose sum over G has the mean
        KL(q || p): here log q(z) - log p(z) of the sample, with G = 1."""
        log_q = -0.5 * ((z - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        return (log_q.sum(1) - self.log_prob(z))[:, None]

    def start(self, batches: Iterable[Features]) -> None:
        """Called once before training, with some training images: priors may begin from data."""

    @property
    def device(self) -> torch.device:
        return next(iter([*self.parameters(), *self.buffers()])).device

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each latent, (Z,) each."""
        z = self.sample(NUM_DRAWS, torch.Generator().manual_seed(0), 1.0)
        return z.mean(0), z.std(0)


class StandardNormal(Prior):
    """N(0, I), whose KL has a closed form, a number per latent: G = Z."""

    def __init__(self, networks: Networks) -> None:
        super().__init__("standard", networks)
        self.origin: Tensor
        self.register_buffer("origin", torch.zeros(self.latent_dim), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_log_prob(z)

    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        return temperature * torch.randn(num, self.latent_dim, generator=generator).to(self.device)

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        return kl_to_standard_normal(mean, log_variance)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.origin, torch.ones_like(self.origin)


def standard_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, Z) -> (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
