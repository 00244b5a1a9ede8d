"""A Gaussian whose errors are correlated: a spectrum per image, then a strength per place.

Shapes: B images, E = (C, H, H) coefficients of a cosine transform.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import cosines, to_frequencies, to_places
from svhn_vae.model.variance.head import Located, VarianceHead, low_high, soft_clip


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
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        errors = to_frequencies((0.5 * self.place).exp() * noise, self.waves)
        return self.loc + (0.5 * self.spectrum).exp() * errors

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, C, H, H) -> (B,), in nats."""
        errors = to_places((value - self.loc) * (-0.5 * self.spectrum).exp(), self.waves)
        terms = errors.square() * (-self.place).exp() + self.place + self.spectrum + math.log(2 * math.pi)
        return -0.5 * terms.flatten(1).sum(1)


class Spectral(VarianceHead):
    """log-variances of each frequency and of each place, from the decoder, for pca=frequencies.

    Where an independent Gaussian has to choose between the pixels, whose errors are correlated, and the frequencies,
    which are everywhere alike, this one has a variance in both.
    """

    params_per_element = 3
    waves: Tensor

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float]) -> None:
        super().__init__(event_shape)
        if len(event_shape) != 3 or event_shape[1] != event_shape[2]:
            raise UserError(
                f"variance=spectral needs coefficients (C, H, H) of a cosine transform, got {tuple(event_shape)}: "
                "use pca=frequencies, which it chooses by itself"
            )
        self.log_variance_range = low_high("log_variance_range", log_variance_range)
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
