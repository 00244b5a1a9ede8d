"""What training images are besides themselves: moved, and in another light. Scores are of the images as they are."""

import torch
from torch import Tensor

from svhn_vae.errors import UserError
from svhn_vae.model.covariance import NUM_LEVELS

WHITE = NUM_LEVELS - 1


class Augmentation:
    """Moves an image by whole pixels, its border repeated, and changes its contrast and each colour's brightness.

    share: of the images that are changed, drawn anew for each batch; of a projection, for each draw of the noise.
    shift: at most so many pixels, up or down, left or right.
    light: the standard deviation of the contrast's factor around 1; half of it, of a colour's brightness in [0, 1).
    """

    def __init__(self, *, share: float, shift: int, light: float) -> None:
        for name, value in (("share", share), ("light", light)):
            if not 0 <= value <= 1:
                raise UserError(f"augmentation.{name} must be in 0..1, got {value}")
        if not 0 <= shift <= 8:
            raise UserError(f"augmentation.shift must be in 0..8 pixels, got {shift}")
        self.share, self.shift, self.light = share, shift, light

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """uint8 (N, C, H, W) -> the same shape; the numbers are drawn on the images' device."""
        if not self.share:
            return images
        generator = torch.Generator(images.device).manual_seed(seed)
        num, channels = images.shape[:2]
        drawn = torch.rand(num, 1, 1, 1, generator=generator, device=images.device) < self.share
        by = torch.randint(-self.shift, self.shift + 1, (num, 2), generator=generator, device=images.device)
        factor, offset = (
            torch.randn(num, many, 1, 1, generator=generator, device=images.device) for many in (1, channels)
        )
        x = moved(images.float(), by * drawn[:, 0, 0])
        mean = x.mean((1, 2, 3), keepdim=True)
        lit = mean + (x - mean) * (1 + self.light * factor * drawn) + WHITE * self.light / 2 * offset * drawn
        return lit.round().clamp(0, WHITE).byte()


def moved(x: Tensor, by: Tensor) -> Tensor:
    """Images (N, C, H, W), each moved up and left by so many pixels (N, 2), its border repeated."""
    rows, columns = (
        (torch.arange(size, device=x.device) + step[:, None]).clamp(0, size - 1)
        for size, step in zip(x.shape[-2:], by.T, strict=True)
    )
    image, channel = (torch.arange(size, device=x.device) for size in x.shape[:2])
    return x[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]
