"""Priors: the law p(z) of the latents. One class per file in conf/prior/.

    law.py      what a prior is, and N(0, I)
    learnt.py   learnt with the bound: a mixture of Gaussians, a mixture of posteriors
    fitted.py   fitted on q(z) when training has ended: a mixture of Gaussians, a normalizing flow

To add one: subclass Prior (or FittedPrior), name the class here, write conf/prior/<name>.yaml. Nothing else.

Shapes: B images, Z latent dimensions, K components of a mixture. Units: log-densities in nats per image.
"""

from svhn_vae.model.prior.fitted import FittedPrior, Flow, GaussianMixture
from svhn_vae.model.prior.law import Prior, StandardNormal
from svhn_vae.model.prior.learnt import Mixture, Vamp

__all__ = ["FittedPrior", "Flow", "GaussianMixture", "Mixture", "Prior", "StandardNormal", "Vamp"]
