"""Gaussians with one sigma per element of each image, from the decoder's second number v.

Shapes: B images, E = event_shape of one image's features, P = params_per_element = 2.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor

from svhn_vae.errors import UserError
from svhn_vae.model.variance.gaussian import BoundedGaussianHead, DiagonalNormal, GaussianHead, normal_deviance
from svhn_vae.model.variance.head import above_zero


class ReluEps(GaussianHead):
    """sigma^2 = ReLU(v) + epsilon: the post's head.

    Where v < 0 its gradient is exactly 0 (dead); a floor above a residual variance s costs
    0.5 (log(epsilon / s) + s / epsilon - 1) nats per element.
    """

    params_per_element = 2

    def __init__(self, event_shape: Sequence[int], *, epsilon: float) -> None:
        super().__init__(event_shape)
        self.epsilon = above_zero("epsilon", epsilon)
        self.log_variance_range = (math.log(epsilon), math.inf)

    def log_variance(self, raw: Tensor) -> Tensor:
        return (F.relu(raw.squeeze(1)) + self.epsilon).log()

    def dead(self, raw: Tensor) -> Tensor:
        return raw.squeeze(1) <= 0


class SoftplusEps(GaussianHead):
    """sigma^2 = softplus(v) + epsilon: the post's floor without its dead elements (Lakshminarayanan et al. 2017)."""

    params_per_element = 2
    beta = 1.0  # of softplus(beta v) / beta

    def __init__(self, event_shape: Sequence[int], *, epsilon: float) -> None:
        super().__init__(event_shape)
        self.epsilon = above_zero("epsilon", epsilon)
        self.log_variance_range = (math.log(epsilon), math.inf)

    def log_variance(self, raw: Tensor) -> Tensor:
        return (F.softplus(raw.squeeze(1), self.beta) + self.epsilon).log()


class SoftplusLn2(SoftplusEps):
    """sigma^2 = log2(1 + 2^v) + epsilon: it begins at 1, the variance of y (Hazami et al. 2022, there of sigma)."""

    beta = math.log(2)


class LogVar(GaussianHead):
    """log sigma^2 = v, without bounds: Kingma's head, and the one that blew up.

    d loss / dv = 0.5 (1 - r^2 exp(-v)) grows without limit where sigma is too small.
    """

    params_per_element = 2
    bounded = False

    def log_variance(self, raw: Tensor) -> Tensor:
        return raw.squeeze(1)


class LogVarL2(LogVar):
    """LogVar with small initial weights and l2 * sum v^2 added to the training loss:
    what the post says can tame it. It pulls sigma to 1."""

    def __init__(self, event_shape: Sequence[int], *, initial_factor: float, l2: float) -> None:
        super().__init__(event_shape)
        self.initial_factor = above_zero("initial_factor", initial_factor)
        self.l2 = above_zero("l2", l2)

    def penalty(self, params: Tensor) -> Tensor:
        return self.l2 * params[:, 1].float().square().flatten(1).sum(1)


class BoundedLogVar(BoundedGaussianHead):
    """log sigma^2 = v, kept smoothly within two bounds (after Chua et al. 2018, appendix A.1)."""

    params_per_element = 2

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return raw.squeeze(1)


class BetaNLL(BoundedLogVar):
    """BoundedLogVar, whose gradient has each element weighted with sigma^(2 beta) (Seitzer et al. 2022).

    Elements with a small sigma no longer own the gradient of the mean. Only the gradient is changed: the value of
    log_prob is the exact Gaussian log-density.
    """

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], beta: float) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        if not 0 <= beta <= 1:
            raise UserError(f"variance.beta must be in [0, 1], got {beta}")
        self.beta = beta

    def forward(self, params: Tensor) -> DiagonalNormal:
        p = super().forward(params)
        return WeightedGradientNormal(p.mean, p.log_variance, self.beta)


class WeightedGradientNormal(DiagonalNormal):
    """A DiagonalNormal with the gradient of each element's log-density times stop_gradient(sigma^(2 beta))."""

    def __init__(self, mean: Tensor, log_variance: Tensor, beta: float) -> None:
        super().__init__(mean, log_variance)
        self.beta = beta

    def log_prob(self, value: Tensor) -> Tensor:
        density = -0.5 * normal_deviance(value - self.loc, self.log_variance)
        weight = torch.exp(self.beta * self.log_variance).detach()
        weighted = density.detach() + weight * (density - density.detach())  # the second term is exactly 0
        return weighted.flatten(1).sum(1)
