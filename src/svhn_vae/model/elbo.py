"""The evidence lower bound and the numbers derived from it. Pure functions of tensors.

Shapes: B images, Z latent dimensions. Units: nats per image unless a name says otherwise. `elbo` is what is maximised.
"""

import math
from typing import NamedTuple, TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


class ElboTerms(NamedTuple):
    """The terms of log p(x) >= elbo, each (B,), in nats."""

    log_likelihood: Tensor  # log p(y | z), one sample of z
    residual: Tensor  # log p(r | z), of what the representation cut off
    log_det: Tensor  # log |dy/dx|, a constant of the representation
    kl: Tensor  # KL(q(z | y) || p(z)), closed form

    @property
    def elbo(self) -> Tensor:
        return self.log_likelihood + self.residual + self.log_det - self.kl


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent, (B, Z) (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def bits_per_dim(log_px: Number, num_dims: int, num_levels: int = 256) -> Number:
    """Log-density of x in [0, 1)^num_dims, in nats -> bits per dimension of the num_levels-valued image."""
    return math.log2(num_levels) - log_px / (num_dims * math.log(2))


def bits_of_parts(terms: ElboTerms, num_dims: int, num_modelled: int) -> dict[str, Tensor]:
    """Mean terms -> what each part adds to bits_per_dim: the num_modelled dimensions of y, the KL, and the residual.

    The Jacobian goes to y, and each part has the 8 bits of its own dimensions, so whitened and raw coordinates compare.
    """
    share, uniform = num_modelled / num_dims, bits_per_dim(0.0, num_dims)
    modelled = bits_per_dim(terms.log_likelihood + terms.log_det, num_dims) - uniform * (1 - share)
    residual = bits_per_dim(terms.residual, num_dims) - uniform * share
    return {"modelled": modelled, "kl": terms.kl / (num_dims * math.log(2)), "residual": residual}
