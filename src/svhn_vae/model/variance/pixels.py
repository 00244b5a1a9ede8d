"""Heads of pixels: y = x in [0, 1).

Shapes: B images (3, H, W).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from svhn_vae.errors import UserError
from svhn_vae.model.variance.head import VarianceHead


class PixelHead(VarianceHead):
    """A head of pixels y = x (3, H, W) in [0, 1). scale: whether the representation scales them, which it must not."""

    def __init__(self, event_shape: Sequence[int], *, scale: bool) -> None:
        super().__init__(event_shape)
        if scale or len(event_shape) != 3 or event_shape[0] != 3:
            got = f"features {tuple(event_shape)}, {'scaled' if scale else 'not scaled'}"
            raise UserError(
                f"this variance needs y = x, pixels (3, H, W) in [0, 1), got {got}: use pca=unit_pixels, as it does "
                "where no pca is given"
            )


class Bernoulli(PixelHead):
    """log_prob = sum of y log p + (1 - y) log(1 - p), logit p from the decoder: the post's equation 3, a cross-entropy.

    No density of y in [0, 1): it does not integrate to one (Loaiza-Ganem and Cunningham 2019).
    """

    params_per_element = 1
    emits_mean = False
    is_density = False

    def forward(self, params: Tensor) -> Distribution:
        p = torch.distributions.Bernoulli(logits=params[:, 0].float(), validate_args=False)
        return Independent(p, len(self.event_shape), validate_args=False)
