"""A likelihood that looks at neighbours: each colour value given the pixels before it, and z.

p(x | z) = product over pixels in raster order, and in a pixel over green, red, blue, of p(value | values before, z)
(the PixelVAE family: Gulrajani et al. 2017). The law begins as the least-squares prediction of neighbours.py.

Causality holds by construction: a value's law reads rows above, the pixels to the left, and the colours before it;
what lies beyond the border is a constant. The tests check this by gradients at every pixel.

Shapes: B images (3, H, W), P = params_per_element, M mixtures, R = reach, K neighbours.
Units: inside, a level is u = 2 level / (L - 1) - 1 in [-1, 1]; y = x in [0, 1) outside.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from svhn_vae.errors import UserError, above_zero, at_least
from svhn_vae.model.coordinates import Features
from svhn_vae.model.variance.head import PixelHead, low_high, soft_clip
from svhn_vae.model.variance.logistic import log_mass_of_level
from svhn_vae.model.variance.neighbours import (
    ORDER,
    Place,
    Predictor,
    log_size,
    neighbours,
    offsets,
    padded,
)

MOMENTUM = 0.99  # of the tracked squared distance between pixels and the decoder's mean
CHUNK = 50  # images at a time: bounds memory
Mixture = tuple[Tensor, Tensor, Tensor]  # logits, locations and log scales of logistics, (..., M) each


class Causal(PixelHead):
    """A mixture of discretised logistics for each colour value, from its causal neighbourhood and the decoder's output.

    The decoder emits per element a number for the mean, which is a picture on its own, and num_features more; all are
    inputs of the network at their pixel, unless `sees_z` is false: then the law is that of the neighbours alone. As a
    density of dequantised x: log p(x) = log P(levels) + D log L. `mean` is the decoder's picture and `variance` a
    tracked mean square around it: the law itself has no closed moments. A sample is drawn pixel by pixel.

    centre, unit: the mean is centre + unit * its number, so that the decoder learns pixels of about mean 0 and variance
    1, as it does under other heads.
    rows_per_update: in training, an image's log-likelihood is estimated from that many rows, drawn anew each time, so
    that more images are seen in the same time; what is evaluated is of all rows.
    reach: rows above, and pixels to either side, that a value's prediction sees, and the network again: values, errors
    of their predictions and the logarithms of these. depth: hidden layers for each colour, after two for all.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        scale: bool,
        centre: float,
        unit: float,
        sees_z: bool,
        num_features: int,
        rows_per_update: int,
        reach: int,
        width: int,
        depth: int,
        num_mixtures: int,
        num_levels: int,
        log_scale_range: Sequence[float],
    ) -> None:
        super().__init__(event_shape, scale=scale)
        at_least("variance", 1, rows_per_update=rows_per_update, reach=reach, width=width, depth=depth)
        at_least("variance", 1, num_mixtures=num_mixtures)
        at_least("variance", 2, num_levels=num_levels)
        at_least("variance", 0, num_features=num_features, centre=centre)
        above_zero("variance", unit=unit)
        if rows_per_update < event_shape[1] and event_shape[1] % rows_per_update:
            raise UserError(f"variance.rows_per_update must divide {event_shape[1]} rows, got {rows_per_update}")
        self.params_per_element, self.num_levels = 1 + num_features, num_levels
        self.rows_per_update, self.centre, self.unit = rows_per_update, centre, unit
        self.log_scale_range = low_high("log_scale_range", log_scale_range)
        num_inputs = 3 * self.params_per_element if sees_z else 0
        self.network = CausalNetwork(event_shape[1:], num_inputs, reach, width, depth, num_mixtures)
        self.mean_square: Tensor
        self.register_buffer("mean_square", torch.tensor(0.1))

    def start(self, batches: Iterable[Features]) -> None:
        """Fits the prediction of values by their neighbours, which no training changes."""
        self.network.predictor.fit([self.levels(part)[1] for batch in batches for part in batch.y.split(CHUNK)])

    def forward(self, params: Tensor) -> Distribution:
        return CausalLogistics(params.float(), self)

    @torch.no_grad()
    def observe(self, params: Tensor, y: Tensor) -> None:
        self.mean_square.lerp_((y - self(params).mean).square().mean(), 1 - MOMENTUM)

    def some_rows(self) -> slice:
        """Those that an update takes, every row as often as any other; all of them outside of training."""
        height, num = self.event_shape[1], self.rows_per_update
        if not self.training or num >= height:
            return slice(0, height)
        start = num * int(torch.randint(height // num, (), device=self.mean_square.device))  # seeded there
        return slice(start, start + num)

    def levels(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Levels 0 to L - 1, and as u."""
        level = (y * self.num_levels).floor().clamp(0, self.num_levels - 1)[:, ORDER]
        return level, 2 * level / (self.num_levels - 1) - 1


class CausalLogistics(Distribution):
    """Causal's law, given the decoder's output (B, P, 3, H, W)."""

    arg_constraints: ClassVar[dict] = {}  # the check would synchronise the device

    def __init__(self, params: Tensor, head: Causal) -> None:
        self.params, self.head = params, head
        super().__init__(params.shape[:1], params.shape[2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.head.centre + self.head.unit * self.params[:, 0]

    @property
    def variance(self) -> Tensor:
        return self.head.mean_square.expand_as(self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """value (B, 3, H, W) in [0, 1) -> (B,), in nats."""
        parts = zip(value.split(CHUNK), self.params.split(CHUNK), strict=True)
        return torch.cat([self._log_prob(*part) for part in parts])

    def _log_prob(self, value: Tensor, params: Tensor) -> Tensor:
        level, u = self.head.levels(value)
        rows = self.head.some_rows()
        logits, location, log_scale = self.head.network(u, params.flatten(1, 2), rows)
        level, u = level[:, :, rows], u[:, :, rows]
        with torch.autocast(value.device.type, enabled=False):
            log_scale = soft_clip(log_scale, *self.head.log_scale_range)
            distance = u.unsqueeze(-1) - location
            log_mass = log_mass_of_level(level.unsqueeze(-1), distance, log_scale, self.head.num_levels)
            per_value = (logits.log_softmax(-1) + log_mass).logsumexp(-1)  # (B, 3, rows, W)
        return self.event_shape.numel() * (per_value.flatten(1).mean(1) + math.log(self.head.num_levels))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        """(*sample_shape, B, 3, H, W): levels drawn one after the other, plus uniform noise of their width."""
        num = math.prod(sample_shape)
        params = self.params.expand(num, *self.params.shape).flatten(0, 1).flatten(1, 2)  # (num B, P * 3, H, W)
        u = torch.cat([self.head.network.drawn(part, self._draw) for part in params.split(1000)])[:, ORDER]
        x = ((u + 1) * (self.head.num_levels - 1) / 2 + torch.rand_like(u)) / self.head.num_levels
        return x.clamp(0, 1 - 2**-24).view(*sample_shape, *self.params.shape[:1], *self.event_shape)

    def _draw(self, logits: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """A mixture (N, M) for each of N values -> a level of each, as u (N,)."""
        steps = (self.head.num_levels - 1) / 2
        chosen = Categorical(logits=logits, validate_args=False).sample()[:, None]
        scale = soft_clip(log_scale.gather(1, chosen), *self.head.log_scale_range).exp()
        u = location.gather(1, chosen) + torch.rand_like(scale).logit(eps=1e-7) * scale
        return (((u + 1) * steps).round().clamp(0, 2 * steps) / steps - 1)[:, 0]


class CausalNetwork(nn.Module):
    """u (B, 3, H, W), colours in ORDER, and features of z (B, F, H, W) -> a mixture for each value of some rows,
    (B, 3, rows, W, M).

    Everything but the windows is pixelwise: an image whole and one pixel of it take the same way. All inputs are in
    units of the error that is expected at the pixel, so that rough and smooth images are one case.
    """

    def __init__(
        self, size: Sequence[int], num_features: int, reach: int, width: int, depth: int, num_mixtures: int
    ) -> None:
        super().__init__()
        self.reach = reach
        height, image_width = size
        self.predictor = Predictor(height, image_width, reach)
        self.window = nn.Linear(10 * len(offsets(reach)) + 7, width)
        self.features = nn.Linear(num_features, width, bias=False) if num_features else None
        self.shared = Residual(width)
        self.own = nn.ModuleList(nn.Linear(width + 2 + 3 * colour, width) for colour in range(3))
        self.hidden = nn.ModuleList(nn.Sequential(*[Residual(width) for _ in range(depth)]) for _ in range(3))
        last = [nn.Linear(width, 3 * num_mixtures) for _ in range(3)]
        zero, spread = torch.zeros(num_mixtures), torch.linspace(-1.5, 0.5, num_mixtures)
        with torch.no_grad():
            for layer in last:  # begins nearly as errors by the prediction alone
                layer.weight.mul_(0.01)
                layer.bias.copy_(torch.cat([zero, zero, spread]))
        self.last = nn.ModuleList(last)

    def forward(self, u: Tensor, features: Tensor, rows: slice) -> Mixture:
        seen = padded(self._seen(u, u - self.predictor.value(u)), self.reach)[:, :, rows.start : rows.stop + self.reach]
        place, u = (rows, slice(None)), u[:, :, rows]
        known = self._known(seen, features[:, :, rows], place)
        found = [self._mixture(colour, u, *known, place) for colour in range(3)]
        logits, location, log_scale = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
        return logits, location, log_scale

    def drawn(self, features: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        """Features (N, F, H, W) -> u (N, 3, H, W): `draw` gives a value (N,) of a mixture (N, M), in order."""
        num, _, height, width = features.shape
        reach = self.reach
        seen = padded(features.new_zeros(num, 10, height, width), reach)
        for row in range(height):
            for column in range(width):
                place = (slice(row, row + 1), slice(column, column + 1))
                window = seen[:, :, row : row + reach + 1, column : column + 2 * reach + 1]
                known = self._known(window, features[:, :, *place], place)
                u = features.new_zeros(num, 3, 1, 1)
                for colour in range(3):
                    mixture = self._mixture(colour, u, *known, place)
                    u[:, colour, 0, 0] = draw(*(each[:, 0, 0] for each in mixture))
                error = u - self.predictor.values.predict(known[1], u, place)
                seen[:, :, row + reach, column + reach] = self._seen(u, error)[:, :, 0, 0]
        return seen[:, :3, reach:, reach : reach + width]

    def _seen(self, u: Tensor, error: Tensor) -> Tensor:
        """(B, 10, H, W): values, errors, their sizes, and a 1 that tells the inside from what lies beyond a border."""
        return torch.cat([u, error, log_size(error), torch.ones_like(u[:, :1])], dim=1)

    def _known(self, seen: Tensor, features: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """What is seen, padded (B, 10, h + R, w + 2 R), and features (B, F, h, w) -> before any of its own colours is
        known, of each pixel: (B, h, w, width), and the neighbours' parts of predictions and sizes (B, 3, h, w)."""
        near = neighbours(seen, self.reach)  # (B, K, 10, h, w)
        values, sizes = self.predictor.values, self.predictor.sizes
        value, size = (part.from_neighbours(near[:, :, i : i + 3], place) for part, i in ((values, 0), (sizes, 6)))
        guess = values.predict(value, value, place)
        guess = values.predict(value, guess, place)  # with each colour before at its own guess
        log_unit, inside = size[:, None, :1], near[:, :, 9:]
        unit = log_unit.exp()
        inputs = [
            squashed((near[:, :, :3] - guess[:, None]) * inside / unit),
            squashed(near[:, :, 3:6] / unit),
            (near[:, :, 6:9] - log_unit) * inside,
            inside,
        ]
        of_pixel = [guess, (1 + guess).clamp(min=0).mul(100).log1p(), size[:, :1] + 4]
        flat = torch.cat([*(each.flatten(1, 2) for each in inputs), *of_pixel], dim=1)
        found = self.window(flat.movedim(1, -1))
        if self.features is not None:
            found = found + self.features(features.movedim(1, -1))
        return self.shared(F.silu(found)), value, size

    def _mixture(self, colour: int, u: Tensor, context: Tensor, value: Tensor, size: Tensor, place: Place) -> Mixture:
        """Of a colour (B, h, w, M), from u (B, 3, h, w), of which the colours before it are read, and _known."""
        predicted = self.predictor.values.predict(value, u, place)
        error = (u - predicted)[:, :colour]
        expected = self.predictor.sizes.predict(size, log_size(u - predicted), place)
        log_unit = expected[:, colour]
        own = [predicted[:, colour, None], log_unit[:, None] + 4]
        if colour:
            own += [squashed(error / size[:, :1].exp()), log_size(error) - expected[:, :colour], u[:, :colour]]
        inputs = torch.cat([context, torch.cat(own, dim=1).movedim(1, -1).to(context)], dim=-1)
        hidden = self.hidden[colour](F.silu(self.own[colour](inputs)))
        logits, offset, log_scale = self.last[colour](hidden).to(predicted).chunk(3, dim=-1)
        location = predicted[:, colour, ..., None] + offset * log_unit.exp()[..., None]
        return logits, location, log_unit[..., None] + log_scale


class Residual(nn.Module):
    """x + silu(linear(normalised x)), over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(self.norm(x)))


def squashed(x: Tensor) -> Tensor:
    """Linear near 0, logarithmic far out."""
    return x.sign() * x.abs().log1p()
