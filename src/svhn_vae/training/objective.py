"""What training minimises: the negative bound, its usual modifications, and what keeps samples legible.

Validation and test never see this: they score the bound itself.

Shapes: B images, Z latent dimensions, E = event_shape of y. Units: nats per image.
"""

import torch
from torch import Tensor

from svhn_vae.errors import above_zero, at_least
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE, Pass
from svhn_vae.model.variance import DiagonalNormal


class Objective:
    """beta: the weight of the KL (Higgins et al. 2017); 1 is the bound.
    free_bits: nats that each latent's KL, averaged over the batch, may take without cost (Kingma et al. 2016); with a
    prior other than N(0, I), that the KL of all latents may take.
    kl_warmup_epochs: the KL's weight rises linearly from 0 over so many epochs (Bowman et al. 2016).
    mean_weight: the weight of a second log-likelihood, that of the decoder's mean alone at a constant sigma; 0: none.
    mean_sigma: that sigma, in units of pixels in [0, 1): the same in raw and in whitened coordinates.

    The mean learns from the second likelihood alone, the head's other parameters from the first. Where sigma is free
    for each element, a coordinate that is coded in z costs in KL what it saves in likelihood, so nothing pushes the
    mean to show more than grey; and where sigma has a floor, the head pushes more into z than pictures need.
    """

    def __init__(
        self, *, beta: float, free_bits: float, kl_warmup_epochs: int, mean_weight: float, mean_sigma: float
    ) -> None:
        weights = {"beta": beta, "free_bits": free_bits, "mean_weight": mean_weight}
        at_least("objective", 0, kl_warmup_epochs=kl_warmup_epochs, **weights)
        above_zero("objective", mean_sigma=mean_sigma)
        self.beta, self.free_bits, self.kl_warmup_epochs = beta, free_bits, kl_warmup_epochs
        self.mean_weight, self.mean_sigma = mean_weight, mean_sigma

    def __call__(self, vae: VAE, batch: Features, epoch: Tensor | int) -> tuple[Pass, Tensor]:
        """A training pass of a batch, whose gradients come as the class says, and its loss ()."""
        result = vae(batch, hold_mean=self.mean_weight > 0)
        return result, self.loss(vae, result, batch.y, epoch)

    def loss(self, vae: VAE, result: Pass, y: Tensor, epoch: Tensor | int) -> Tensor:
        """A pass of images with features y (B, *E), in the epoch () counted from 0 -> the mean loss, ()."""
        terms, y = result.terms, y.repeat_interleave(len(result.terms.kl) // len(y), 0)
        rate = self.beta
        if self.kl_warmup_epochs:
            rate = rate * torch.as_tensor(epoch / self.kl_warmup_epochs).clamp(max=1)
        kl = result.kl_in_loss
        if self.free_bits:
            kl = result.mean(result.latents_kl).clamp(min=self.free_bits).sum()
        log_likelihood = terms.log_likelihood
        if self.mean_weight:
            log_likelihood = log_likelihood + self.mean_weight * self.of_the_mean(vae, result, y)
        penalty = vae.variance.penalty(result.inferred.params)
        loss = rate * kl + penalty - log_likelihood - terms.residual - terms.log_det
        return result.mean(loss) + result.label_cost

    def of_the_mean(self, vae: VAE, result: Pass, y: Tensor) -> Tensor:
        """log N(y; the decoder's mean, mean_sigma^2) (B,), mean_sigma brought to the units of y."""
        log_variance = 2 * (self.mean_sigma / vae.representation.y_scale).log()
        mean = vae.variance(result.inferred.params).mean
        return DiagonalNormal(mean, log_variance.to(mean)).log_prob(y)
