"""Priors that are learnt with the bound, from the first update on.

Shapes: B images, Z latent dimensions, K components, E = event_shape of y. Units: nats per image.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import Features
from svhn_vae.model.networks import OneLevel
from svhn_vae.model.prior.law import Prior


class DiagonalMixture(Prior):
    """A mixture of K Gaussians with independent latents; a subclass says which."""

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights (K,), means and log-variances (K, Z)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        log_weights, mean, log_variance = self.components()
        # Differences of all pairs (B, K, Z): products of matrices would lose narrow components' digits in float32.
        terms = (z[:, None] - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
        return (log_weights - 0.5 * terms.sum(2)).logsumexp(1)

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        log_weights, mean, log_variance = self.components()
        chosen = torch.multinomial(log_weights.exp().cpu(), num, replacement=True, generator=generator).to(mean.device)
        noise = torch.randn(num, self.latent_dim, generator=generator).to(mean.device)
        return mean[chosen] + temperature * (0.5 * log_variance[chosen]).exp() * noise


class Mixture(DiagonalMixture):
    """K Gaussians with weights, means and variances of their own, all learnt (Dilokthanakul et al. 2016)."""

    def __init__(self, networks: OneLevel, *, num_components: int) -> None:
        super().__init__("mixture", networks, num_components=num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mean = nn.Parameter(torch.randn(num_components, self.latent_dim))  # alike, they would learn alike
        self.log_variance = nn.Parameter(torch.zeros(num_components, self.latent_dim))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits.log_softmax(0), self.mean, self.log_variance


class Vamp(DiagonalMixture):
    """The mixture of the posteriors of K learnt pseudo-inputs (Tomczak and Welling 2018), which begin as training
    images."""

    def __init__(self, networks: OneLevel, *, num_components: int) -> None:
        super().__init__("vamp", networks, num_components=num_components)
        if not isinstance(networks, OneLevel):
            raise UserError(
                "prior=vamp needs an encoder that sees images alone: with condition=digit use prior=mixture"
            )
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *networks.event_shape))
        self._networks = (networks,)  # in a tuple: they are the VAE's, and no part of this module's state

    @torch.no_grad()
    def start(self, batches: Iterable[Features]) -> None:
        y = next(iter(batches)).y
        evenly = torch.linspace(0, len(y) - 1, len(self.pseudo_inputs)).round().long()
        self.pseudo_inputs.copy_(y[evenly])

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        [networks] = self._networks
        was_training = networks.training
        networks.eval()  # p(z) has no dropout, and does not depend on which batch it is asked for
        mean, log_variance = (out.to(self.pseudo_inputs) for out in networks.encode(self.pseudo_inputs))
        networks.train(was_training)
        return mean.new_full((len(mean),), -math.log(len(mean))), mean, log_variance
