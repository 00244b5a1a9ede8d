"""What the neighbours of a colour value tell of it: a least-squares prediction, and how large its error will be.

A value is predicted from the values before it, in raster order and in a pixel by ORDER. Beyond a border lies a
constant, and each kind of border has weights of its own: a replicated border would tell a pixel its own value.

Shapes: B images, maps (B, 3, H, W) with colours in ORDER; R = reach, K neighbours of a pixel.
Units: a level is u = 2 level / 255 - 1 in [-1, 1]; sizes are logarithms of an error in u.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

ORDER = [1, 0, 2]  # green first: it is most like the brightness; its own inverse
HALF_A_LEVEL = 1 / 255
RIDGE = 1e-6  # times the mean square of the inputs
Place = tuple[slice, slice]  # rows and columns of an image
EVERYWHERE = (slice(None), slice(None))


class CausalRegression(nn.Module):
    """Each element of maps from the maps at the neighbours, a constant, and the maps before it at its own pixel."""

    def __init__(self, height: int, width: int, reach: int) -> None:
        super().__init__()
        self.reach, self.size = reach, (height, width)
        self.num_before = 3 * len(offsets(reach)) + 1
        self.weights: Tensor
        weights = torch.zeros(3, self.num_before + 2, height, width)
        for nearest in ((0, -1), (1, 0)):  # until it is fitted: between the values on the left and above
            first = 3 * offsets(reach).index(nearest)
            weights[range(3), range(first, first + 3)] = 0.5
        self.register_buffer("weights", weights)

    def fit(self, maps: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Of pairs of maps and their weights in the sum of squares, (B, 3, H, W) both."""
        kinds, size = self.kinds(), self.num_before + 3
        products = torch.zeros(int(kinds.max()) + 1, 3, size, size, dtype=torch.float64)
        for values, importance in maps:
            near = neighbours(padded(values, self.reach), self.reach).flatten(1, 2)
            inputs = torch.cat([near, torch.ones_like(values[:, :1]), values], dim=1)
            for kind in kinds.unique().tolist():
                x = inputs[:, :, kinds == kind].transpose(1, 2).flatten(0, 1)
                for colour, row in enumerate(importance[:, :, kinds == kind].unbind(1)):
                    products[kind, colour] += (x.T * row.flatten()) @ x
        for colour in range(3):
            num = self.num_before + colour
            gram, target = products[:, colour, :num, :num], products[:, colour, :num, num]
            ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-12  # no pixel has some kinds
            found = torch.linalg.solve(
                gram + ridge * torch.eye(num), target
            )  # (kinds, num); of what is 0 beyond a border, 0
            self.weights[colour, :num] = found.float().T[:, kinds]

    def kinds(self) -> Tensor:
        """(H, W): the number of each pixel's kind of border."""
        height, width = self.size
        rows, columns = torch.arange(height).clamp(max=self.reach), torch.arange(width)
        from_right = columns - width + 2 * self.reach + 1
        columns = torch.where(columns < width - self.reach, columns.clamp(max=self.reach), from_right)
        return rows[:, None] * (2 * self.reach + 1) + columns

    def from_neighbours(self, near: Tensor, place: Place = EVERYWHERE) -> Tensor:
        """Maps at the neighbours (B, K, 3, h, w) of the pixels at a place -> the neighbours' part (B, 3, h, w)."""
        weights = self.weights[:, : self.num_before, *place]
        with torch.autocast(near.device.type, enabled=False):  # most of the sum cancels
            return torch.einsum("bkhw,ckhw->bchw", near.flatten(1, 2), weights[:, :-1]) + weights[:, -1]

    def predict(self, part: Tensor, own: Tensor, place: Place = EVERYWHERE) -> Tensor:
        """The neighbours' part and the maps themselves, of which a colour's prediction takes those before it."""
        weights = self.weights[:, self.num_before :, *place]
        green, red, blue = part.unbind(1)
        red = red + weights[1, 0] * own[:, 0]
        blue = blue + weights[2, 0] * own[:, 0] + weights[2, 1] * own[:, 1]
        return torch.stack([green, red, blue], dim=1)


class Predictor(nn.Module):
    """What each value will be, and the logarithm of how wrong that will be, by the errors made nearby."""

    def __init__(self, height: int, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.values, self.sizes = (CausalRegression(height, width, reach) for _ in range(2))

    @torch.no_grad()
    def fit(self, parts: Sequence[Tensor]) -> None:
        """Of images u, some at a time."""
        self.values.fit((u, torch.ones_like(u)) for u in parts)
        self.sizes.fit((log_size(u - self.value(u)), torch.ones_like(u)) for u in parts)
        # Again, an error counting in units of its size: else the few rough images decide.
        self.values.fit([(u, (-2 * self.forward(u)[1]).exp()) for u in parts])
        self.sizes.fit((log_size(u - self.value(u)), torch.ones_like(u)) for u in parts)

    def value(self, u: Tensor) -> Tensor:
        near = neighbours(padded(u, self.reach), self.reach)
        return self.values.predict(self.values.from_neighbours(near), u)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u -> predicted values and sizes of their errors, (B, 3, H, W) each."""
        value = self.value(u)
        size = log_size(u - value)
        near = neighbours(padded(size, self.reach), self.reach)
        return value, self.sizes.predict(self.sizes.from_neighbours(near), size)


def offsets(reach: int) -> list[tuple[int, int]]:
    """(rows up, columns to the right) of the neighbours."""
    return [(up, right) for up in range(reach + 1) for right in range(-reach, reach + 1 if up else 0)]


def padded(maps: Tensor, reach: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + R, W + 2 R): zeros above and at the sides."""
    return F.pad(maps, (reach, reach, reach, 0))


def neighbours(padded_maps: Tensor, reach: int) -> Tensor:
    """(B, C, h + R, w + 2 R) -> (B, K, C, h, w), those of each pixel of the h rows and w columns inside."""
    height, width = padded_maps.shape[2] - reach, padded_maps.shape[3] - 2 * reach
    shifted = [
        padded_maps[:, :, reach - up : reach - up + height, reach + right : reach + right + width]
        for up, right in offsets(reach)
    ]
    return torch.stack(shifted, dim=1)


def log_size(error: Tensor) -> Tensor:
    """Half a level is added, which keeps it finite."""
    return (error.abs() + HALF_A_LEVEL).log()
