"""Gaussians whose elements are correlated.

Shapes: B images, E = event_shape of one image's features, D its number of elements, R = rank.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from svhn_vae.errors import UserError
from svhn_vae.model.variance.head import Located, VarianceHead, above_zero, low_high, soft_clip


class LowRank(VarianceHead):
    """y ~ N(mean, S (I + F F') S), S = diag(sigma), with mean, sigma and F (D, R) from the decoder: a low-rank plus a
    diagonal covariance over all elements (Monteiro et al. 2020).

    F is relative to sigma and kept smoothly within max_factor, so that I + F'F is well conditioned in float32.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        log_variance_range: Sequence[float],
        rank: int,
        max_factor: float,
        initial_factor: float,
    ) -> None:
        super().__init__(event_shape)
        if rank < 1:
            raise UserError(f"variance.rank must be at least 1, got {rank}")
        self.params_per_element = 2 + rank
        self.log_variance_range = low_high("log_variance_range", log_variance_range)
        self.max_factor = above_zero("max_factor", max_factor)
        self.initial_factor = above_zero("initial_factor", initial_factor)

    def forward(self, params: Tensor) -> Distribution:
        params = params.float()
        factor = self.max_factor * torch.tanh(params[:, 2:] / self.max_factor)
        return LowRankNormal(params[:, 0], self.log_variance_of(params), factor)

    def log_variance_of(self, params: Tensor) -> Tensor:
        return soft_clip(params[:, 1].float(), *self.log_variance_range)


class LowRankNormal(Located):
    """N(mean, S (I + F F') S) by mean (B, *E), the logarithm of S^2 (B, *E) and F' as factor (B, R, *E).

    Not torch's LowRankMultivariateNormal: its Cholesky decomposition synchronises the device, and its squared distance
    e'e - |L^-1 F'e|^2 is the difference of two large numbers, which float32 does not have.
    """

    def __init__(self, mean: Tensor, log_variance: Tensor, factor: Tensor) -> None:
        super().__init__(mean)
        self.log_variance, self.factor = log_variance, factor

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp() * (1 + self.factor.square().sum(1))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        B, R = self.factor.shape[:2]
        own = torch.randn(*sample_shape, *self.loc.shape, device=self.loc.device)
        joint = torch.randn(*sample_shape, B, R, device=self.loc.device)
        correlated = torch.einsum("...br,brd->...bd", joint, self.factor.flatten(2)).view_as(own)
        return self.loc + (0.5 * self.log_variance).exp() * (own + correlated)

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, *E) -> (B,), in nats.

        With e = S^-1 (y - mean): e'(I + F F')^-1 e = min over w of |e - F w|^2 + |w|^2, at w = (I + F'F)^-1 F'e.
        """
        error = ((value - self.loc) * torch.exp(-0.5 * self.log_variance)).flatten(1).unsqueeze(2)  # (B, D, 1)
        transposed = self.factor.flatten(2)  # (B, R, D)
        inner = transposed @ transposed.mT + torch.eye(transposed.shape[1], device=value.device)  # (B, R, R)
        cholesky = torch.linalg.cholesky_ex(inner).L  # no look at its info, which would synchronise the device
        w = torch.cholesky_solve(transposed @ error, cholesky)  # (B, R, 1)
        square = (error - transposed.mT @ w).square().sum((1, 2)) + w.square().sum((1, 2))
        log_det = self.log_variance.flatten(1).sum(1) + 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * (square + log_det + self.event_shape.numel() * math.log(2 * math.pi))
