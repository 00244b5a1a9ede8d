"""Gaussians whose elements are correlated: by a few factors, or by a spectrum per image and a strength per place.

Shapes: B images, E = event_shape of one image's features, D its number of elements, R = rank.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from svhn_vae.errors import UserError, above_zero, at_least
from svhn_vae.model.coordinates import cosines, to_frequencies, to_places
from svhn_vae.model.variance.head import BoundedHead, Located, soft_clip


class LowRank(BoundedHead):
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
        super().__init__(event_shape, log_variance_range=log_variance_range)
        at_least("variance", 1, rank=rank)
        above_zero("variance", max_factor=max_factor, initial_factor=initial_factor)
        self.params_per_element = 2 + rank
        self.max_factor, self.initial_factor = max_factor, initial_factor

    def forward(self, params: Tensor) -> Distribution:
        params = params.float()
        factor = self.max_factor * torch.tanh(params[:, 2:] / self.max_factor)
        return LowRankNormal(params[:, 0], self.log_variance_of(params), factor)


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
        own = self.noise(sample_shape)
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


class SpectralNormal(Located):
    """y = mean + exp(spectrum / 2) * T(exp(place / 2) * noise), T the cosine transform, noise ~ N(0, I): a Gaussian
    that is stationary but for its strength, which differs from place to place.

    T is orthonormal, so the log-determinant is the sum of both log-variances. mean, spectrum, place: (B, C, H, H).
    """

    def __init__(self, mean: Tensor, spectrum: Tensor, place: Tensor, waves: Tensor) -> None:
        super().__init__(mean)
        self.spectrum, self.place, self.waves = spectrum, place, waves

    @property
    def variance(self) -> Tensor:
        """Of each coefficient by itself."""
        return self.spectrum.exp() * to_frequencies(self.place.exp(), self.waves.square())

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        errors = to_frequencies((0.5 * self.place).exp() * self.noise(sample_shape), self.waves)
        return self.loc + (0.5 * self.spectrum).exp() * errors

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, C, H, H) -> (B,), in nats."""
        errors = to_places((value - self.loc) * (-0.5 * self.spectrum).exp(), self.waves)
        terms = errors.square() * (-self.place).exp() + self.place + self.spectrum + math.log(2 * math.pi)
        return -0.5 * terms.flatten(1).sum(1)


class Spectral(BoundedHead):
    """log-variances of each frequency and of each place, from the decoder, for pca=frequencies.

    Where an independent Gaussian has to choose between the pixels, whose errors are correlated, and the frequencies,
    which are everywhere alike, this one has a variance in both.
    """

    params_per_element = 3
    waves: Tensor

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float]) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        if len(event_shape) != 3 or event_shape[1] != event_shape[2]:
            raise UserError(
                f"variance=spectral needs coefficients (C, H, H) of a cosine transform, got {tuple(event_shape)}: "
                "use pca=frequencies, which it chooses by itself"
            )
        self.register_buffer("waves", cosines(event_shape[1]).float(), persistent=False)

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(self, params: Tensor) -> SpectralNormal:
        mean, spectrum, place = params.float().unbind(1)
        spectrum, place = (soft_clip(raw, *self.log_variance_range) for raw in (spectrum, place))
        return SpectralNormal(mean, spectrum, place, self.waves)

    def log_variance_of(self, params: Tensor) -> Tensor:
        p = self.forward(params)
        return torch.stack([p.spectrum, p.place])
