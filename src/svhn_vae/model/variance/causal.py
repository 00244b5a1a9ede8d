"""A likelihood that looks at neighbours: each colour value given the pixels before it, and z.

p(x | z) = product over pixels in raster order, and in a pixel over green, red, blue, of p(value | values before, z)
(the PixelVAE family: Gulrajani et al. 2017). The network is small and its window too, so that z stays in use.

Causality holds by construction: a value's law reads rows above, the pixels to the left, and the colours before it;
what lies beyond the border is a constant. The tests check this by gradients at every pixel.

Shapes: B images (3, H, W), P = params_per_element, M mixtures, R = reach.
Units: inside, a level is u = 2 level / (L - 1) - 1 in [-1, 1]; y = x in [0, 1) outside.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn
from torch.distributions import Distribution

from svhn_vae.errors import UserError
from svhn_vae.model.variance.head import PixelHead, low_high, soft_clip
from svhn_vae.model.variance.logistic import log_mass_of_level

ORDER = [1, 0, 2]  # green first: it is most like the brightness; its own inverse
MOMENTUM = 0.99  # of the tracked squared distance between pixels and the decoder's mean


class Causal(PixelHead):
    """A mixture of discretised logistics for each colour value, from its causal neighbourhood and the decoder's output.

    The decoder emits per element a mean, which is a picture on its own, and num_features further numbers; all of them
    are inputs of the network at their pixel. As a density of dequantised x: log p(x) = log P(levels) + D log L.
    `mean` is the decoder's picture and `variance` a tracked mean square around it: the law itself has no closed
    moments. A sample is drawn pixel by pixel.

    reach: rows above, and pixels to either side, that a value's law sees at each of two stages: a linear prediction,
    and the network that reads the values, the errors of the predictions and their logarithms.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        scale: bool,
        num_features: int,
        reach: int,
        width: int,
        depth: int,
        num_mixtures: int,
        num_levels: int,
        log_scale_range: Sequence[float],
    ) -> None:
        super().__init__(event_shape, scale=scale)
        counts = {"reach": reach, "width": width, "depth": depth, "num_mixtures": num_mixtures}
        for name, value, least in [*((*item, 1) for item in counts.items()), ("num_levels", num_levels, 2)]:
            if value < least:
                raise UserError(f"variance.{name} must be at least {least}, got {value}")
        if num_features < 0:
            raise UserError(f"variance.num_features must be 0 or more, got {num_features}")
        self.params_per_element, self.num_levels = 1 + num_features, num_levels
        self.log_scale_range = low_high("log_scale_range", log_scale_range)
        self.network = CausalNetwork(3 * self.params_per_element, reach, width, depth, num_mixtures)
        self.mean_square: Tensor
        self.register_buffer("mean_square", torch.tensor(0.1))

    def forward(self, params: Tensor) -> Distribution:
        return CausalLogistics(params.float(), self)

    @torch.no_grad()
    def observe(self, params: Tensor, y: Tensor) -> None:
        self.mean_square.lerp_((y - params[:, 0].float()).square().mean(), 1 - MOMENTUM)


class CausalLogistics(Distribution):
    """Causal's law, given the decoder's output (B, P, 3, H, W)."""

    arg_constraints: ClassVar[dict] = {}  # the check would synchronise the device

    def __init__(self, params: Tensor, head: Causal) -> None:
        self.params, self.head = params, head
        super().__init__(params.shape[:1], params.shape[2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.params[:, 0]

    @property
    def variance(self) -> Tensor:
        return self.head.mean_square.expand_as(self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, 3, H, W) in [0, 1) -> (B,), in nats."""
        num_levels = self.head.num_levels
        level = (value * num_levels).floor().clamp(0, num_levels - 1)[:, ORDER]
        with torch.autocast(value.device.type, enabled=False):
            u = 2 * level / (num_levels - 1) - 1
            logits, location, log_scale = self.head.network(u, self.params.flatten(1, 2))
            log_scale = soft_clip(log_scale, *self.head.log_scale_range)
            distance = u.unsqueeze(2) - location
            log_mass = log_mass_of_level(level.unsqueeze(2), distance, log_scale, num_levels)
            per_value = (logits.log_softmax(2) + log_mass).logsumexp(2)  # (B, 3, H, W)
        return per_value.flatten(1).sum(1) + self.event_shape.numel() * math.log(num_levels)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        """(*sample_shape, B, 3, H, W): levels drawn one after the other, plus uniform noise of their width."""
        num = math.prod(sample_shape)
        params = self.params.expand(num, *self.params.shape).flatten(0, 1).flatten(1, 2)  # (num B, P * 3, H, W)
        steps = self.head.num_levels - 1
        u = self.head.network.drawn(params, self._draw)[:, ORDER]
        x = ((u + 1) * steps / 2 + torch.rand_like(u)) / self.head.num_levels
        return x.clamp(0, 1 - 2**-24).view(*sample_shape, *self.params.shape[:1], *self.event_shape)

    def _draw(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """A mixture (N, M) for each of N values -> a level of each, as u (N,)."""
        steps = (self.head.num_levels - 1) / 2
        chosen = torch.distributions.Categorical(logits=logits, validate_args=False).sample()[:, None]
        scale = soft_clip(log_scale.gather(1, chosen), *self.head.log_scale_range).exp()
        u = location.gather(1, chosen) + torch.rand_like(scale).logit(eps=1e-7) * scale
        return (((u + 1) * steps).round().clamp(0, 2 * steps) / steps - 1)[:, 0]


class CausalNetwork(nn.Module):
    """u (B, 3, H, W), colours in ORDER, and features of z (B, F, H, W) -> logits, locations, log scales of M logistics
    for each value, (B, 3, M, H, W) each.

    A linear prediction of each value begins as left + above - above left, and colours as deviating together; its errors
    are the inputs of the network beside the values.
    """

    def __init__(self, num_features: int, reach: int, width: int, depth: int, num_mixtures: int) -> None:
        super().__init__()
        self.reach, self.num_mixtures = reach, num_mixtures
        self.prediction = CausalConvolution(4, 3, reach)
        self.within = nn.Parameter(torch.tensor([0.9, 0.45, 0.45]))  # of earlier colours' deviations: RG, BG, BR
        self.context = CausalConvolution(10, width, reach)
        self.features = nn.Conv2d(num_features, width, 1)
        self.known = nn.ModuleList(nn.Conv2d(2 * colour, width, 1, bias=False) for colour in (1, 2))
        self.mixtures = nn.ModuleList(nn.Sequential(*layers(width, depth, 3 * num_mixtures)) for _ in range(3))
        self.first_offset: Tensor
        self.first_log_scale: Tensor
        self.register_buffer("first_offset", torch.linspace(-0.01, 0.01, num_mixtures), persistent=False)
        self.register_buffer("first_log_scale", torch.linspace(-2.0, 1.0, num_mixtures), persistent=False)
        with torch.no_grad():
            for weights in self.prediction.parameters():
                weights.zero_()
            for colour in range(3):
                self.prediction.left.weight[colour, colour, 0, -1] = 1
                self.prediction.above.weight[colour, colour, -1, reach] = 1
                self.prediction.above.weight[colour, colour, -1, reach - 1] = -1

    def forward(self, u: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        padded = self._padded(u)
        guess = self.prediction(padded)
        predicted, error = self._within(u, guess)
        seen = self._padded(self._inputs(u, error))
        context = self.context(seen) + self.features(features)
        size = self._size_of_errors(seen)
        found = [self._mixture(colour, context, error, predicted, size) for colour in range(3)]
        logits, locations, log_scales = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
        return logits, locations, log_scales

    def drawn(self, features: Tensor, draw) -> Tensor:
        """Features (N, F, H, W) -> u (N, 3, H, W): `draw` gives a value (N,) of a mixture (N, M), in order."""
        num, _, height, width = features.shape
        reach, of_z = self.reach, self.features(features)
        padded = features.new_zeros(num, 10, height + reach, width + 2 * reach)  # u, error, log |error|, inside
        padded[:, 9, reach:, reach : reach + width] = 1
        for row in range(height):
            for column in range(width):
                window = padded[:, :, row : row + reach + 1, column : column + 2 * reach + 1]
                guess = self.prediction(window[:, [0, 1, 2, 9]])
                context = self.context(window) + of_z[:, :, row : row + 1, column : column + 1]
                size = self._size_of_errors(window)
                u, error = torch.zeros_like(guess), torch.zeros_like(guess)
                for colour in range(3):
                    predicted, _ = self._within(u, guess)
                    mixture = self._mixture(colour, context, error, predicted, size)
                    u[:, colour, 0, 0] = draw(*(each[:, :, 0, 0] for each in mixture))
                    error = self._within(u, guess)[1]
                padded[:, :9, row + reach, column + reach] = self._inputs(u, error)[:, :9, 0, 0]
        return padded[:, :3, reach:, reach : reach + width]

    def _padded(self, u: Tensor) -> Tensor:
        """With a channel that tells what lies inside, and zeros beyond the borders above and at the sides."""
        inside = u if u.shape[1] == 10 else torch.cat([u, torch.ones_like(u[:, :1])], dim=1)
        return F.pad(inside, (self.reach, self.reach, self.reach, 0))

    def _inputs(self, u: Tensor, error: Tensor) -> Tensor:
        return torch.cat([u, error, log_size(error) + 4, torch.ones_like(u[:, :1])], dim=1)

    def _within(self, u: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """Values and their guesses from other pixels (N, 3, H, W) -> predictions by the colours before, and errors."""
        (red_green, blue_green, blue_red), deviation = self.within, u - guess
        shift = torch.stack(
            [
                torch.zeros_like(deviation[:, 0]),
                red_green * deviation[:, 0],
                blue_green * deviation[:, 0] + blue_red * deviation[:, 1],
            ],
            dim=1,
        )
        return guess + shift, deviation - shift

    def _size_of_errors(self, seen: Tensor) -> Tensor:
        """Log of the mean size of the errors (N, 3, H, W) at the four nearest pixels before each, as far as they lie
        inside: where an image is smooth, the next error will be small, too."""
        R, height, width = self.reach, seen.shape[2] - self.reach, seen.shape[3] - 2 * self.reach
        corners = ((R, R - 1), (R - 1, R - 1), (R - 1, R), (R - 1, R + 1))
        nearest = [seen[:, :, row : row + height, column : column + width] for row, column in corners]
        num = torch.stack([each[:, 9:] for each in nearest]).sum(0).clamp(min=1)
        return log_size(sum(each[:, 3:6].abs() for each in nearest) / num)

    def _mixture(
        self, colour: int, context: Tensor, error: Tensor, predicted: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations, log scales (N, M, H, W) of a colour, from what is known before it."""
        if colour:
            known = torch.cat([error[:, :colour], log_size(error[:, :colour]) + 4], dim=1)
            context = context + self.known[colour - 1](known)
        logits, offset, log_scale = self.mixtures[colour](context).chunk(3, dim=1)
        first = (1, -1, 1, 1)
        location = predicted[:, colour, None] + 0.1 * offset + self.first_offset.view(first)
        return logits, location, size[:, colour, None] + log_scale + self.first_log_scale.view(first)


class CausalConvolution(nn.Module):
    """Padded maps (B, C, H + R, W + 2 R) -> (B, D, H, W): R rows above, 2 R + 1 wide, and R pixels to the left."""

    def __init__(self, inputs: int, outputs: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.above = nn.Conv2d(inputs, outputs, (reach, 2 * reach + 1))
        self.left = nn.Conv2d(inputs, outputs, (1, reach), bias=False)

    def forward(self, padded: Tensor) -> Tensor:
        right = padded.shape[3] - self.reach - 1  # the pixel's own column and those right of it are not seen
        return self.above(padded[:, :, :-1]) + self.left(padded[:, :, self.reach :, :right])


def log_size(error: Tensor) -> Tensor:
    """The logarithm of an error's size, in units of u; half a level is added, which keeps it finite."""
    return (error.abs() + 1 / 256).log()


def layers(width: int, depth: int, outputs: int) -> list[nn.Module]:
    """Pixelwise: an activation, `depth` hidden layers, a linear one that begins small."""
    hidden = [layer for _ in range(depth) for layer in (nn.Conv2d(width, width, 1), nn.SiLU())]
    last = nn.Conv2d(width, outputs, 1)
    with torch.no_grad():
        for weights in last.parameters():
            weights.mul_(0.1)
    return [nn.SiLU(), *hidden, last]
