"""What training minimises: the negative bound, and its usual modifications. All are off by default.

Validation and test never see this: they score the bound itself.

Shapes: B images, Z latent dimensions. Units: nats per image.
"""

import math

from torch import Tensor

from svhn_vae.errors import UserError
from svhn_vae.model.vae import VAE, Pass
from svhn_vae.model.variance import DiagonalNormal
from svhn_vae.model.whole_batch import mean_over_parts


class Objective:
    """beta: the weight of the KL (Higgins et al. 2017); 1 is the bound.
    free_bits: nats that each latent's KL, averaged over the batch, may take without cost (Kingma et al. 2016).
    kl_warmup_epochs: the KL's weight rises linearly from 0 over so many epochs (Bowman et al. 2016).
    mean_warmup_epochs: for so many epochs sigma = 1 in units of y, so that the mean is learnt before the variance.
    """

    def __init__(self, *, beta: float, free_bits: float, kl_warmup_epochs: int, mean_warmup_epochs: int) -> None:
        for name, value in {
            "beta": beta,
            "free_bits": free_bits,
            "kl_warmup_epochs": kl_warmup_epochs,
            "mean_warmup_epochs": mean_warmup_epochs,
        }.items():
            if not 0 <= value < math.inf:
                raise UserError(f"objective.{name} must be 0 or more, got {value}")
        self.beta, self.free_bits = beta, free_bits
        self.kl_warmup_epochs, self.mean_warmup_epochs = kl_warmup_epochs, mean_warmup_epochs

    def loss(self, vae: VAE, result: Pass, y: Tensor, epoch: int) -> Tensor:
        """A pass of images with features y (B, *E), in the epoch counted from 0 -> the mean loss, ()."""
        terms = result.terms
        log_likelihood = terms.log_likelihood
        if epoch < self.mean_warmup_epochs:
            mean = result.likelihood.mean
            log_likelihood = DiagonalNormal(mean, mean.new_zeros(())).log_prob(y)
        rate = self.beta * min(1.0, epoch / self.kl_warmup_epochs if self.kl_warmup_epochs else 1.0)
        kl = result.kl_in_loss
        if self.free_bits:
            kl = mean_over_parts(result.latents_kl.mean(0)).clamp(min=self.free_bits).sum()
        penalty = vae.variance.penalty(result.inferred.params)
        return (rate * kl + penalty - log_likelihood - terms.residual - terms.log_det).mean()
