"""Laws with heavier tails than a Gaussian: its variance is uncertain and integrated out.

Shapes: B images, E = event_shape of one image's features, M scales of a mixture.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Gamma, Independent, MixtureSameFamily, Normal

from svhn_vae.errors import UserError
from svhn_vae.model.variance.head import BoundedHead, Located, low_high


class StudentT(BoundedHead):
    """Location, scale and degrees of freedom per element from the decoder (Takahashi et al. 2018).

    A Gaussian whose precision is Gamma(dof / 2, rate dof / 2) / scale^2, integrated out. log_variance_range bounds
    log scale^2; dof_range is that of the degrees of freedom, above 2 so that there is a variance.
    """

    params_per_element = 3

    def __init__(
        self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], dof_range: Sequence[float]
    ) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        self.dof_range = low_high("dof_range", dof_range)
        if not self.dof_range[0] > 2:
            raise UserError(f"variance.dof_range must begin above 2, or there is no variance, got {dof_range[0]}")

    def forward(self, params: Tensor) -> Distribution:
        params = params.float()
        low, high = self.dof_range
        dof = low + (high - low) * torch.sigmoid(params[:, 2])
        return DiagonalStudentT(params[:, 0], self.log_variance_of(params), dof)


class DiagonalStudentT(Located):
    """Independent Student-t laws over the event's elements, by location, log scale^2 and degrees of freedom, (B, *E).

    torch's StudentT checks its Chi2's arguments at every construction, which synchronises the device.
    """

    def __init__(self, location: Tensor, log_square_scale: Tensor, dof: Tensor) -> None:
        super().__init__(location)
        self.log_square_scale, self.dof = log_square_scale, dof

    @property
    def variance(self) -> Tensor:
        return self.log_square_scale.exp() * self.dof / (self.dof - 2)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        precision = Gamma(self.dof / 2, self.dof / 2, validate_args=False).rsample(sample_shape)
        return self.loc + (0.5 * self.log_square_scale).exp() * torch.randn_like(precision) * precision.rsqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, *E) -> (B,), summed over the event, in nats."""
        square = (value - self.loc).square() * torch.exp(-self.log_square_scale)
        half = 0.5 * (self.dof + 1)
        log_norm = torch.lgamma(half) - torch.lgamma(0.5 * self.dof) - 0.5 * (math.pi * self.dof).log()
        density = log_norm - 0.5 * self.log_square_scale - half * torch.log1p(square / self.dof)
        return density.flatten(1).sum(1)


class ScaleMixture(BoundedHead):
    """p(y) = sum over m of w_m N(y; mean, sigma^2 factors_m^2), with mean, sigma and w per element from the decoder.

    A Gaussian scale mixture (Andrews and Mallows 1974) on a fixed ladder of scales.
    """

    def __init__(
        self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], factors: Sequence[float]
    ) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        if len(factors) < 2 or min(factors) <= 0:
            raise UserError(f"variance.factors must be two or more numbers above 0, got {list(factors)}")
        self.params_per_element = 2 + len(factors)
        self.log_square_factors: Tensor
        self.register_buffer("log_square_factors", 2 * torch.tensor(factors).log(), persistent=False)

    def forward(self, params: Tensor) -> Distribution:
        params = params.float()
        factors = self.log_square_factors.view(-1, *[1] * len(self.event_shape))
        sigma = (0.5 * (self.log_variance_of(params).unsqueeze(1) + factors)).exp().movedim(1, -1)  # (B, *E, M)
        scales = Normal(params[:, 0].unsqueeze(-1).expand_as(sigma), sigma, validate_args=False)
        weights = Categorical(logits=params[:, 2:].movedim(1, -1), validate_args=False)
        mixture = MixtureSameFamily(weights, scales, validate_args=False)
        return Independent(mixture, len(self.event_shape), validate_args=False)
