"""Gaussians whose sigma has one factor per image, or per image and band of elements, from the decoder.

Pictures differ most in how smooth they are: on SVHN one scale per image is worth half a bit per dimension.

Shapes: B images, E = event_shape of one image's features, D its number of elements.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from svhn_vae.errors import UserError
from svhn_vae.model.variance.constant import Learned
from svhn_vae.model.variance.gaussian import BoundedGaussianHead


class PerImage(BoundedGaussianHead):
    """One sigma per image from the decoder, the same for all its elements: the mean of what it emits per element."""

    params_per_element = 2

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return raw[:, 0].flatten(1).mean(1).view(-1, *[1] * len(self.event_shape))


class Banded(BoundedGaussianHead):
    """log sigma_id^2 = a_d + s_ib of image i, element d in band b: a learned, s the mean of what the decoder emits for
    the band's elements. A Gaussian scale mixture (Wainwright and Simoncelli 2000) whose scales the latents tell.

    num_bands: contiguous runs of the flattened elements, equally long to within one; with 1 it is variance=scaled.
    gain: as in Learned.
    """

    params_per_element = 2

    def __init__(
        self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], gain: float, num_bands: int
    ) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        if num_bands < 1:
            raise UserError(f"variance.num_bands must be at least 1, got {num_bands}")
        self.num_bands = num_bands
        self.learned = Learned(self.event_shape, gain)

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        flat = raw[:, 0].flatten(1)  # (B, D)
        bands = flat.tensor_split(min(self.num_bands, flat.shape[1]), dim=1)
        scales = torch.cat([band.mean(1, keepdim=True).expand_as(band) for band in bands], dim=1)
        return self.learned() + scales.view(-1, *self.event_shape)
