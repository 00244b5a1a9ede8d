"""Gaussians whose sigma is the same for every image (fixed, learned or tracked), or but for a factor of the image's.

Shapes: B images, E = event_shape of one image's features, D its number of elements, P = params_per_element.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError
from svhn_vae.model.variance.gaussian import BoundedGaussianHead, GaussianHead
from svhn_vae.model.variance.head import above_zero


class Fixed(GaussianHead):
    """One constant sigma for every element of every image (Doersch 2016); sigma^2 = beta / 2 is a beta-VAE."""

    params_per_element = 1
    constant: Tensor

    def __init__(self, event_shape: Sequence[int], *, sigma: float) -> None:
        super().__init__(event_shape)
        self.register_buffer("constant", torch.tensor(2 * math.log(above_zero("sigma", sigma))))

    def log_variance(self, raw: Tensor) -> Tensor:
        return self.constant


class Optimal(GaussianHead):
    """One sigma^2 = the mean squared residual, which maximises the likelihood (Rybkin et al. 2021).

    It is tracked on training batches and frozen for evaluation: taken from the evaluated batch it is no likelihood.
    momentum: the weight in the running average of what was before; floor: the smallest sigma^2.
    """

    params_per_element = 1
    mean_square: Tensor
    has_observed: Tensor

    def __init__(self, event_shape: Sequence[int], *, momentum: float, floor: float) -> None:
        super().__init__(event_shape)
        if not 0 <= momentum < 1:
            raise UserError(f"variance.momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum
        self.log_variance_range = (math.log(above_zero("floor", floor)), math.inf)
        self.register_buffer("mean_square", torch.tensor(1.0))  # that of y itself, until something is observed
        self.register_buffer("has_observed", torch.tensor(False))

    @torch.no_grad()
    def observe(self, params: Tensor, y: Tensor) -> None:
        now = (y - params[:, 0].float()).square().mean()
        self.mean_square.copy_(torch.where(self.has_observed, now.lerp(self.mean_square, self.momentum), now))
        self.has_observed.fill_(True)

    def log_variance(self, raw: Tensor) -> Tensor:
        return self.mean_square.log().clamp(min=self.log_variance_range[0])


class LearnedScale(nn.Module):
    """A learned log sigma^2, 0 at the start.

    gain: log sigma^2 per unit of the parameter. Adam moves a parameter by about the learning rate a step, however far
    it is from its best; with a gain of 1 a learning rate of 1e-4 would need 50,000 steps for what the networks learn
    in hundreds.
    """

    def __init__(self, shape: Sequence[int], gain: float) -> None:
        super().__init__()
        self.gain = above_zero("gain", gain)
        self.value = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.gain * self.value


class Learned(BoundedGaussianHead):
    """One learned sigma for all elements that share it, the same for every image; a subclass says which do.
    gain: as in LearnedScale."""

    params_per_element = 1

    def __init__(self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], gain: float) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range)
        self.learned = LearnedScale(self.shape_of_sigma(), gain)

    @abstractmethod
    def shape_of_sigma(self) -> Sequence[int]:
        """Broadcasts to event_shape."""

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return self.learned()


class Shared(Learned):
    """One learned sigma for every element of every image (the sigma-VAE of Rybkin et al. 2021)."""

    def shape_of_sigma(self) -> Sequence[int]:
        return ()


class PerDimension(Learned):
    """One learned sigma for each element of y, the same for every image."""

    def shape_of_sigma(self) -> Sequence[int]:
        return self.event_shape


class PerChannel(Learned):
    """One learned sigma for each channel of y (C, H, W), the same for every image and place."""

    def shape_of_sigma(self) -> Sequence[int]:
        if len(self.event_shape) != 3:
            raise UserError(
                f"variance=per_channel needs image-shaped features (C, H, W), got {tuple(self.event_shape)}: "
                "use model=conv, or variance=per_dimension"
            )
        return (self.event_shape[0], 1, 1)


class PerImage(BoundedGaussianHead):
    """One sigma per image from the decoder, the same for all its elements: the mean of what it emits per element.

    Pictures differ most in how smooth they are: on SVHN one scale per image is worth half a bit per dimension.
    """

    params_per_element = 2

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        return raw[:, 0].flatten(1).mean(1).view(-1, *[1] * len(self.event_shape))


class Banded(PerDimension):
    """log sigma_id^2 = a_d + s_ib of image i, element d in band b: a learned, s the mean of what the decoder emits for
    the band's elements. A Gaussian scale mixture (Wainwright and Simoncelli 2000) whose scales the latents tell.

    num_bands: contiguous runs of the flattened elements, equally long to within one; with 1 it is variance=scaled.
    """

    params_per_element = 2

    def __init__(
        self, event_shape: Sequence[int], *, log_variance_range: Sequence[float], gain: float, num_bands: int
    ) -> None:
        super().__init__(event_shape, log_variance_range=log_variance_range, gain=gain)
        if num_bands < 1:
            raise UserError(f"variance.num_bands must be at least 1, got {num_bands}")
        self.num_bands = num_bands

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        flat = raw[:, 0].flatten(1)  # (B, D)
        bands = flat.tensor_split(min(self.num_bands, flat.shape[1]), dim=1)
        scales = torch.cat([band.mean(1, keepdim=True).expand_as(band) for band in bands], dim=1)
        return self.learned() + scales.view(-1, *self.event_shape)
