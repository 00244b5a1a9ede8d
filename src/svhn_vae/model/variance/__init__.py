"""Variance heads: from the decoder's output to p(y | z). One class per file in conf/variance/, or two files for one.

    head.py          what a head is
    gaussian.py      independent Gaussians: sigma fixed, learned or tracked; one per image or band, or per element
    heavy_tailed.py  Student-t, mixture of scales
    correlated.py    Gaussians with correlated elements: low rank; a variance per frequency and per place
    logistic.py      pixels in [0, 1): cross-entropy, and a probability of their levels
    neighbours.py    what the pixels before a value tell of it, by least squares
    causal.py        pixels in [0, 1): a probability of their levels, given the pixels before

To add one: subclass GaussianHead (or VarianceHead), write conf/variance/<name>.yaml. Nothing else changes.

Shapes: B images, E = event_shape of one image's features, D its number of elements, P = params_per_element.
Units: sigma in units of y, which has unit average variance; log_variance = log sigma^2; densities in nats per image.
"""

from svhn_vae.model.variance.causal import Causal
from svhn_vae.model.variance.gaussian import DiagonalNormal, Fixed, GaussianHead
from svhn_vae.model.variance.head import VarianceHead, soft_clip

__all__ = ["Causal", "DiagonalNormal", "Fixed", "GaussianHead", "VarianceHead", "soft_clip"]
