"""Priors: the law p(z) of the latents. One class per file in conf/prior/.

    law.py      what a prior is, and N(0, I)
    learnt.py   learnt with the bound: a mixture of Gaussians, a mixture of posteriors
    fitted.py   fitted on q(z) when training has ended: a mixture of Gaussians, a normalizing flow, a second VAE

To add one: subclass Prior (or FittedPrior), write conf/prior/<name>.yaml. Nothing else changes.

Shapes: B images, Z latent dimensions, K components of a mixture. Units: log-densities in nats per image.
"""

from svhn_vae.model.prior.fitted import FittedPrior
from svhn_vae.model.prior.law import Prior, StandardNormal

__all__ = ["FittedPrior", "Prior", "StandardNormal"]
