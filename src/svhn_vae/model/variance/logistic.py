"""Heads of pixels in [0, 1): cross-entropy, and a discretised mixture of logistics, a probability of the levels of a
pixel, after PixelCNN++ (Salimans et al. 2017).

Shapes: B images (3, H, W), M mixtures, L levels.
Units: inside, a level is u = 2 level / (L - 1) - 1 in [-1, 1]: PixelCNN++'s own; y = x in [0, 1) outside.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from svhn_vae.errors import at_least
from svhn_vae.model.variance.head import PixelHead, low_high, soft_clip


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


class LogisticMixture(PixelHead):
    """P(level) = sum over m of w_m times a product over the three channels of a logistic's mass on the level's bin; the
    outer bins reach to infinity. w is shared by the channels of a pixel; the location of green is shifted by c0 red,
    that of blue by c1 red + c2 green, at their true values (Salimans et al. 2017, section 2.2).

    As a density of dequantised x: log p(x) = log P(floor(L x)) + D log L, so that it integrates to one over [0, 1)^D.
    Per mixture the decoder emits location, log scale (softly within log_scale_range), logit (averaged over the
    channels) and coefficient (c0, c1, c2 at the three channels, through tanh).
    """

    emits_mean = False

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        scale: bool,
        num_mixtures: int,
        num_levels: int,
        log_scale_range: Sequence[float],
    ) -> None:
        super().__init__(event_shape, scale=scale)
        at_least("variance", 1, num_mixtures=num_mixtures)
        at_least("variance", 2, num_levels=num_levels)
        self.params_per_element = 4 * num_mixtures
        self.num_levels = num_levels
        low, high = self.log_scale_range = low_high("log_scale_range", log_scale_range)
        self.log_variance_range = 2 * low, 2 * high

    def forward(self, params: Tensor) -> Distribution:
        location, raw_scale, logits, raw_coefficients = params.float().chunk(4, dim=1)  # (B, M, 3, H, W) each
        return PixelLogistics(
            location,
            soft_clip(raw_scale, *self.log_scale_range),
            logits.mean(2).log_softmax(1),
            raw_coefficients.tanh(),
            self.num_levels,
        )

    def log_variance_of(self, params: Tensor) -> Tensor:
        return 2 * soft_clip(params.float().chunk(4, dim=1)[1], *self.log_scale_range)


class PixelLogistics(Distribution):
    """LogisticMixture's law, by location, log_scale, coefficients (B, M, 3, H, W) and log_weights (B, M, H, W)."""

    arg_constraints: ClassVar[dict] = {}  # the check would synchronise the device

    def __init__(
        self, location: Tensor, log_scale: Tensor, log_weights: Tensor, coefficients: Tensor, num_levels: int
    ) -> None:
        self.location, self.log_scale = location, log_scale
        self.log_weights, self.coefficients, self.num_levels = log_weights, coefficients, num_levels
        super().__init__(location.shape[:1], location.shape[2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(B, 3, H, W), in units of x; green and blue with the earlier channels at their means."""
        per_mixture = self._expected(self._shifted(self._expected_of), self.log_scale)
        return self._in_x((self.log_weights.exp().unsqueeze(2) * per_mixture).sum(1))

    @property
    @torch.no_grad()
    def variance(self) -> Tensor:
        """(B, 3, H, W), in units of x^2. Exact for red; for green and blue an approximation, in which the earlier
        channels shift a logistic linearly, as they do away from black and white."""
        location = self._shifted(self._expected_of)
        expected, weights = self._expected(location, self.log_scale), self.log_weights.exp().unsqueeze(2)
        (c0, c1, c2), (red, green, blue) = self.coefficients.unbind(2), self._spread(location).unbind(2)
        spread = [red, green + c0**2 * red, blue + (c1 + c2 * c0) ** 2 * red + c2**2 * green]
        mean = (weights * expected).sum(1)
        of_u = (weights * (torch.stack(spread, dim=2) + expected.square())).sum(1) - mean.square()
        L, mean_of_x = self.num_levels, self._in_x(mean)
        of_x = of_u * ((L - 1) / (2 * L)) ** 2 + 1 / (12 * L**2)  # and that of the uniform noise within a level
        return of_x.minimum(mean_of_x * (1 - mean_of_x))  # no law on [0, 1] has more

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        """(*sample_shape, B, 3, H, W): the middle of a level plus uniform noise of its width."""
        mixtures = Categorical(logits=self.log_weights.movedim(1, -1), validate_args=False).sample(sample_shape)
        one_hot = F.one_hot(mixtures, self.log_weights.shape[1]).movedim(-1, -3).unsqueeze(-3)  # (..., B, M, 1, H, W)
        location, log_scale, coefficients = (
            (one_hot * of_each).sum(-4) for of_each in (self.location, self.log_scale, self.coefficients)
        )
        noise = torch.rand_like(location).logit(eps=1e-7) * log_scale.exp()
        steps = (self.num_levels - 1) / 2

        def value_of(u: Tensor, channel: int) -> Tensor:
            return ((u + noise.select(-3, channel) + 1) * steps).round().clamp(0, 2 * steps) / steps - 1

        location = shifted(location, coefficients, value_of)
        u = torch.stack([value_of(location.select(-3, channel), channel) for channel in range(3)], dim=-3)
        x = self._in_x(u) + (torch.rand_like(u) - 0.5) / self.num_levels
        return x.clamp(0, 1 - 2**-24)

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, 3, H, W) in [0, 1) -> (B,), in nats."""
        level = (value * self.num_levels).floor().clamp(0, self.num_levels - 1).unsqueeze(1)  # (B, 1, 3, H, W)
        u = 2 * level / (self.num_levels - 1) - 1
        location = self._shifted(lambda _, channel: u[:, :, channel])
        log_mass = log_mass_of_level(level, u - location, self.log_scale, self.num_levels)
        per_pixel = (self.log_weights + log_mass.sum(2)).logsumexp(1)  # (B, H, W)
        return per_pixel.flatten(1).sum(1) + self.event_shape.numel() * math.log(self.num_levels)

    def _shifted(self, value_of: Callable[[Tensor, int], Tensor]) -> Tensor:
        return shifted(self.location, self.coefficients, value_of)

    def _expected_of(self, location: Tensor, channel: int) -> Tensor:
        return self._expected(location, self.log_scale[:, :, channel])

    @staticmethod
    def _expected(location: Tensor, log_scale: Tensor) -> Tensor:
        """The mean of u: -1 and the integral over [-1, 1] of P(u > t), to within half a level."""
        scale = log_scale.exp()
        return scale * (F.softplus((location + 1) / scale) - F.softplus((location - 1) / scale)) - 1

    def _spread(self, location: Tensor) -> Tensor:
        """The variance of u of each logistic, by sums over the levels: E level = sum of P(>= level) over
        1.., E level^2 = sum of (2 level - 1) P(>= level)."""
        first, second = torch.zeros_like(location), torch.zeros_like(location)
        step, scale = 2 / (self.num_levels - 1), self.log_scale.exp()
        for level in range(1, self.num_levels):
            beyond = torch.sigmoid((location + 1 - (level - 0.5) * step) / scale)  # P(at least this level)
            first, second = first + beyond, second + (2 * level - 1) * beyond
        return (second - first.square()).clamp(min=0) * step**2

    def _in_x(self, u: Tensor) -> Tensor:
        """u -> x at the middle of its level."""
        return ((u + 1) * (self.num_levels - 1) + 1) / (2 * self.num_levels)


def log_mass_of_level(level: Tensor, distance: Tensor, log_scale: Tensor, num_levels: int) -> Tensor:
    """log P(level) of a logistic, the level's centre at `distance` from its location; the outer bins reach to infinity.

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) is exact in every tail, where PixelCNN++
    needs cases; a - b is the bin's width in units of the scale, no difference of large numbers.
    """
    precision, half = torch.exp(-log_scale), 1 / (num_levels - 1)
    below_end = F.logsigmoid(precision * (distance + half))
    above_begin = F.logsigmoid(-precision * (distance - half))
    width = torch.log(-torch.expm1(-2 * half * precision))
    is_first, is_last = level == 0, level == num_levels - 1
    log_mass = torch.where(is_last, 0, below_end) + torch.where(is_first, 0, above_begin)
    return log_mass + torch.where(is_first | is_last, 0, width)


def shifted(location: Tensor, coefficients: Tensor, value_of: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Locations (..., 3, H, W), moved by the channels before: value_of(location, channel) is what their u is taken to
    be, the true one, a sample, or its mean."""
    (red, green, blue), (c0, c1, c2) = location.unbind(-3), coefficients.unbind(-3)
    u_red = value_of(red, 0)
    green = green + c0 * u_red
    blue = blue + c1 * u_red + c2 * value_of(green, 1)
    return torch.stack([red.expand_as(green), green, blue], dim=-3)
