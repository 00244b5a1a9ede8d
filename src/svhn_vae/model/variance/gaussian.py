"""Independent Gaussians: sigma is the same for every image (fixed, learned or tracked), or but for a factor of the
image's, or there is one per element of each image, from the decoder's second number v.

Shapes: B images, E = event_shape of one image's features, D its number of elements, P = params_per_element.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from svhn_vae.errors import UserError, above_zero, at_least, fraction
from svhn_vae.model.variance.head import BoundedHead, Located, VarianceHead, soft_clip


class DiagonalNormal(Located):
    """Independent Gaussians over the event's elements, by mean and log-variance, each (B, *E).

    torch's Normal takes sigma, and its gradient holds sigma^-3: it overflows float32 where the loss as a function of
    the log-variance is still finite. Which parameterisation blows up is what is studied here, so the log is kept.
    """

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        super().__init__(mean)
        self.log_variance = log_variance.expand_as(mean)

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp()

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        return self.loc + (0.5 * self.log_variance).exp() * self.noise(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, *E) -> (B,), summed over the event, in nats."""
        return -0.5 * normal_deviance(value - self.loc, self.log_variance).flatten(1).sum(1)


class GaussianHead(VarianceHead):
    """A Gaussian with independent elements; a subclass says what their log-variance is."""

    @abstractmethod
    def log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2, broadcastable to (B, *E)."""

    def forward(self, params: Tensor) -> DiagonalNormal:
        params = params.float()  # a sum over 3,000 elements is not safe in bfloat16
        mean, raw = params.split([1, params.shape[1] - 1], dim=1)  # its gradient is joined once; a slice's is padded
        return DiagonalNormal(mean.squeeze(1), self.log_variance(raw))

    def log_variance_of(self, params: Tensor) -> Tensor:
        return self.forward(params).log_variance


class BoundedGaussianHead(GaussianHead, BoundedHead):
    """A GaussianHead whose log-variance is kept smoothly within bounds."""

    @abstractmethod
    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        """raw (B, P - 1, *E) -> log sigma^2 before the bounds, broadcastable to (B, *E)."""

    def log_variance(self, raw: Tensor) -> Tensor:
        return soft_clip(self.unbounded_log_variance(raw), *self.log_variance_range)


def normal_deviance(residual: Tensor, log_variance: Tensor) -> Tensor:
    """-2 log N(residual; 0, exp(log_variance)) of each element, in nats."""
    return residual.square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)


class Fixed(GaussianHead):
    """One constant sigma for every element of every image (Doersch 2016); sigma^2 = beta / 2 is a beta-VAE."""

    params_per_element = 1
    constant: Tensor

    def __init__(self, event_shape: Sequence[int], *, sigma: float) -> None:
        super().__init__(event_shape)
        above_zero("variance", sigma=sigma)
        self.register_buffer("constant", torch.tensor(2 * math.log(sigma)))

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
        above_zero("variance", floor=floor)
        self.momentum, self.log_variance_range = momentum, (math.log(floor), math.inf)
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
        above_zero("variance", gain=gain)
        self.gain = gain
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
        at_least("variance", 1, num_bands=num_bands)
        self.num_bands = num_bands

    def unbounded_log_variance(self, raw: Tensor) -> Tensor:
        flat = raw[:, 0].flatten(1)  # (B, D)
        bands = flat.tensor_split(min(self.num_bands, flat.shape[1]), dim=1)
        scales = torch.cat([band.mean(1, keepdim=True).expand_as(band) for band in bands], dim=1)
        return self.learned() + scales.view(-1, *self.event_shape)


class Floored(GaussianHead):
    """sigma^2 = positive(v) + epsilon; a subclass says what is positive."""

    params_per_element = 2

    def __init__(self, event_shape: Sequence[int], *, epsilon: float) -> None:
        super().__init__(event_shape)
        above_zero("variance", epsilon=epsilon)
        self.epsilon, self.log_variance_range = epsilon, (math.log(epsilon), math.inf)

    @abstractmethod
    def positive(self, v: Tensor) -> Tensor: ...

    def log_variance(self, raw: Tensor) -> Tensor:
        return (self.positive(raw.squeeze(1)) + self.epsilon).log()


class ReluEps(Floored):
    """sigma^2 = ReLU(v) + epsilon: the post's head.

    Where v < 0 its gradient is exactly 0 (dead); a floor above a residual variance s costs
    0.5 (log(epsilon / s) + s / epsilon - 1) nats per element.
    """

    def positive(self, v: Tensor) -> Tensor:
        return F.relu(v)

    def dead_fraction(self, params: Tensor) -> Tensor:
        return (params[:, 1] <= 0).float().mean()


class SoftplusEps(Floored):
    """sigma^2 = softplus(v) + epsilon: the post's floor without its dead elements (Lakshminarayanan et al. 2017)."""

    beta = 1.0  # of softplus(beta v) / beta

    def positive(self, v: Tensor) -> Tensor:
        return F.softplus(v, self.beta)


class SoftplusLn2(SoftplusEps):
    """sigma^2 = log2(1 + 2^v) + epsilon: it begins at 1, the variance of y (Hazami et al. 2022, there of sigma)."""

    beta = math.log(2)


class LogVar(GaussianHead):
    """log sigma^2 = v, without bounds: Kingma's head, and the one that blew up.

    d loss / dv = 0.5 (1 - r^2 exp(-v)) grows without limit where sigma is too small.
    """

    params_per_element = 2

    def log_variance(self, raw: Tensor) -> Tensor:
        return raw.squeeze(1)


class LogVarL2(LogVar):
    """LogVar with small initial weights and l2 * sum v^2 added to the training loss:
    what the post says can tame it. It pulls sigma to 1."""

    def __init__(self, event_shape: Sequence[int], *, initial_factor: float, l2: float) -> None:
        super().__init__(event_shape)
        above_zero("variance", initial_factor=initial_factor, l2=l2)
        self.initial_factor, self.l2 = initial_factor, l2

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
        fraction("variance", beta=beta)
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
