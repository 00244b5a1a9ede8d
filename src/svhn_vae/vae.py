"""The VAE: a representation, two networks and a variance head, put together.

Shapes: B images, Z latent dimensions, E = event_shape of y. Units: nats per image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from svhn_vae.elbo import ElboTerms, kl_to_standard_normal
from svhn_vae.networks import Networks
from svhn_vae.representation import Features, Representation
from svhn_vae.variance import DiagonalNormal, VarianceHead


class Pass(NamedTuple):
    """One pass of B images through the model."""

    posterior: DiagonalNormal  # q(z | y)
    params: Tensor  # (B, P, *E): the decoder's output per element
    likelihood: Distribution  # p(y | z)
    terms: ElboTerms


class VAE(nn.Module):
    """z ~ N(0, I), y ~ head(decode(z)), r ~ representation.residual; x = representation.inverse(y, r)."""

    def __init__(self, representation: Representation, networks: Networks, variance: VarianceHead) -> None:
        super().__init__()
        self.representation = representation
        self.networks = networks
        self.variance = variance

    def posterior(self, y: Tensor) -> DiagonalNormal:
        """y (B, *E) -> q(z | y), event_shape (Z,)."""
        mean, log_variance = self.networks.encode(y)
        return DiagonalNormal(mean.float(), log_variance.float())

    def forward(self, features: Features) -> Pass:
        """Features of B images -> the terms of the bound on log p(x), with one sample of z, and what led there."""
        posterior = self.posterior(features.y)
        params, image_params = self.networks.decode(posterior.rsample())
        if self.training:
            self.variance.observe(params, features.y)
        likelihood = self.variance(params)
        terms = ElboTerms(
            log_likelihood=likelihood.log_prob(features.y),
            residual=self.representation.residual.log_prob(features.residual, image_params),
            log_det=features.log_det,
            kl=kl_to_standard_normal(posterior.mean, posterior.log_variance),
        )
        return Pass(posterior, params, likelihood, terms)

    @torch.no_grad()
    def reconstruct(self, features: Features) -> Tensor:
        """Features of B images -> their images (B, C, H, W) through the posterior's mean."""
        return self.decode_mean(self.posterior(features.y).mean)

    @torch.no_grad()
    def decode_mean(self, z: Tensor) -> Tensor:
        """z (B, Z) -> the mean image (B, C, H, W); may leave [0, 1)."""
        params, _ = self.networks.decode(z)
        return self.representation.inverse(self.variance(params).mean)
