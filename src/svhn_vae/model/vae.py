"""The VAE: a representation, two networks, a variance head and a prior, put together.

Shapes: B images, Z latent dimensions, G groups of them, E = event_shape of y. Units: nats per image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from svhn_vae.model.coordinates import Features, Representation
from svhn_vae.model.elbo import ElboTerms, kl_to_standard_normal
from svhn_vae.model.networks import Inferred, Networks
from svhn_vae.model.prior import Prior
from svhn_vae.model.variance import VarianceHead


class Pass(NamedTuple):
    inferred: Inferred  # q(z | y), its sample z, and the decoder's output
    likelihood: Distribution  # p(y | z)
    terms: ElboTerms
    latents_kl: Tensor  # (B, G): the KL of each group of latents as the loss takes it; of N(0, I), of each latent
    kl_in_loss: Tensor  # (B,): their sum; terms.kl but for `sampling_bug`
    # Where training passes each image n times, once for each label that it may have: B is n times as many, and
    weight: Tensor | None = None  # (B,): the share of a pass in its image; they sum to one
    label_cost: Tensor | float = 0.0  # (): what training adds to the loss, so that labels are recognised

    def mean(self, of_passes: Tensor) -> Tensor:
        """(B, ...) -> the mean over the images (...)."""
        if self.weight is None:
            return of_passes.mean(0)
        weight = self.weight.view(-1, *[1] * (of_passes.ndim - 1))
        return (weight * of_passes).sum(0) / self.weight.detach().sum()


class VAE(nn.Module):
    """z ~ prior, y ~ head(decode(z)), r ~ representation.residual; x = representation.inverse(y, r)."""

    needs_labels = False
    num_labels = 0  # that the networks are told of

    def __init__(
        self, representation: Representation, networks: Networks, variance: VarianceHead, prior: Prior
    ) -> None:
        super().__init__()
        self.representation = representation
        self.networks = networks
        self.variance = variance
        self.prior = prior
        if variance.initial_factor != 1:
            networks.shrink(variance.initial_factor)

    def forward(self, features: Features, *, hold_mean: bool = False) -> Pass:
        """Features of B images -> the terms of the bound on log p(x), with one sample of z, and what led there.

        hold_mean: the head's mean gets no gradient from the likelihood; its value is the same.
        """
        inferred = self.networks(features.y, self._noise(len(features.y)))
        if self.training:
            self.variance.observe(inferred.params, features.y)
        return self.bound(features, inferred, hold_mean)

    def at_mean(self, y: Tensor) -> Inferred:
        """What the networks make of y (B, *E) where z is the posterior's mean."""
        return self.networks(y, torch.zeros(len(y), self.networks.latent_dim, device=self.device))

    def inferences(self, y: Tensor, noise: Tensor) -> Iterator[Inferred]:
        """All that p(x) is the sum over: here what the networks make of y."""
        yield self.networks(y, noise)

    def labels_of(self, y: Tensor) -> Tensor | None:
        """The labels (B,) that the encoder recognises; None: it was told of none."""

    def bound(self, features: Features, inferred: Inferred, hold_mean: bool = False) -> Pass:
        held = self.variance.detach_mean(inferred.params) if hold_mean else inferred.params
        likelihood = self.variance(held)
        kl = self.prior.kl(inferred.mean, inferred.log_variance, inferred.z)
        terms = ElboTerms(
            log_likelihood=likelihood.log_prob(features.y),
            residual=self.representation.residual.log_prob(features.residual, inferred.image_params),
            log_det=features.log_det,
            kl=kl.sum(1),
        )
        if inferred.claimed_log_variance is inferred.log_variance:
            return Pass(inferred, likelihood, terms, kl, terms.kl)
        claimed = kl_to_standard_normal(inferred.mean, inferred.claimed_log_variance)
        return Pass(inferred, likelihood, terms, claimed, claimed.sum(1))

    @torch.no_grad()
    def reconstruct(self, features: Features) -> Tensor:
        """Features of B images -> their images (B, C, H, W) through the posterior's mean."""
        return self.representation.inverse(self.variance(self.at_mean(features.y).params).mean)

    @torch.no_grad()
    def decode_mean(self, z: Tensor) -> Tensor:
        """z (B, Z) -> the mean image (B, C, H, W); may leave [0, 1)."""
        params, _ = self.networks.decode(z)
        return self.representation.inverse(self.variance(params).mean)

    def _noise(self, num: int) -> Tensor:
        return torch.randn(num, self.networks.latent_dim, device=self.device)

    @property
    def num_dims(self) -> int | None:
        """Pixels of an image, by which its bits are divided; None where the bound is of no density of pixels."""
        return self.representation.image_shape.numel() if self.variance.is_density else None

    @property
    def device(self) -> torch.device:
        return self.representation.mean.device
