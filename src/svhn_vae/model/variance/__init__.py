"""Variance heads: from the decoder's output to p(y | z). One class per file in conf/variance/, or two files for one.

    head.py          what a head is
    gaussian.py      independent Gaussians, and the bounds of a log-variance
    constant.py      sigma is the same for every image: fixed, learned or tracked
    per_image.py     one scale per image, or per image and band of elements
    per_element.py   one sigma per element of each image
    heavy_tailed.py  Student-t, mixture of scales
    low_rank.py      correlated elements
    pixels.py        pixels in [0, 1): cross-entropy
    spectral.py      a variance per frequency and per place
    logistic.py      pixels in [0, 1): a probability of their levels
    causal.py        pixels in [0, 1): a probability of their levels, given the pixels before

To add one: subclass GaussianHead (or VarianceHead), name the class here, write conf/variance/<name>.yaml. Nothing else.

Shapes: B images, E = event_shape of one image's features, D its number of elements, P = params_per_element.
Units: sigma in units of y, which has unit average variance; log_variance = log sigma^2; densities in nats per image.
"""

from svhn_vae.model.variance.causal import Causal
from svhn_vae.model.variance.constant import Fixed, Optimal, PerChannel, PerDimension, Shared
from svhn_vae.model.variance.gaussian import BoundedGaussianHead, DiagonalNormal, GaussianHead, soft_clip
from svhn_vae.model.variance.head import VarianceHead
from svhn_vae.model.variance.heavy_tailed import ScaleMixture, StudentT
from svhn_vae.model.variance.logistic import LogisticMixture
from svhn_vae.model.variance.low_rank import LowRank
from svhn_vae.model.variance.per_element import (
    BetaNLL,
    BoundedLogVar,
    LogVar,
    LogVarL2,
    ReluEps,
    SoftplusEps,
    SoftplusLn2,
)
from svhn_vae.model.variance.per_image import Banded, PerImage
from svhn_vae.model.variance.pixels import Bernoulli
from svhn_vae.model.variance.spectral import Spectral, SpectralNormal

__all__ = [
    "Banded",
    "Bernoulli",
    "BetaNLL",
    "BoundedGaussianHead",
    "BoundedLogVar",
    "Causal",
    "DiagonalNormal",
    "Fixed",
    "GaussianHead",
    "LogVar",
    "LogVarL2",
    "LogisticMixture",
    "LowRank",
    "Optimal",
    "PerChannel",
    "PerDimension",
    "PerImage",
    "ReluEps",
    "ScaleMixture",
    "Shared",
    "SoftplusEps",
    "SoftplusLn2",
    "Spectral",
    "SpectralNormal",
    "StudentT",
    "VarianceHead",
    "soft_clip",
]
