"""Training images that are changed: moved as padding and cutting moves them, lit around their mean, some of them."""

import pytest
import torch
from torch.nn import functional

from svhn_vae.data.augmentation import Augmentation, moved

IMAGES = torch.randint(0, 256, (200, 3, 12, 10), generator=torch.Generator().manual_seed(0)).byte()


def test_an_image_is_moved_as_padding_and_cutting_moves_it():
    x = IMAGES[:25].double()
    by = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for image, (down, across), found in zip(padded, by.tolist(), moved(x, by), strict=True):
        assert found.equal(image[:, 2 + down : 14 + down, 2 + across : 12 + across])


def test_a_share_of_the_images_is_changed_and_the_seed_decides():
    changed = Augmentation(share=0.3, shift=0, light=0.2)(IMAGES, seed=1)
    assert changed.equal(Augmentation(share=0.3, shift=0, light=0.2)(IMAGES, seed=1))
    assert not changed.equal(Augmentation(share=0.3, shift=0, light=0.2)(IMAGES, seed=2))
    num = (changed != IMAGES).flatten(1).any(1).sum().item()
    assert 40 <= num <= 80  # 60, with a standard deviation of 6.5
    assert Augmentation(share=0.0, shift=2, light=0.2)(IMAGES, seed=1) is IMAGES


def test_light_is_a_line_of_each_colour_with_one_slope_per_image():
    """In the middle of the levels, where nothing is clipped; a rounded level is off by half of one."""
    images = 100 + IMAGES % 50
    lit = Augmentation(share=1.0, shift=0, light=0.1)(images, seed=3).double().flatten(2)
    x = images.double().flatten(2)
    x_off, lit_off = x - x.mean(2, keepdim=True), lit - lit.mean(2, keepdim=True)
    slope = (x_off * lit_off).sum(2) / x_off.square().sum(2)  # (N, C)
    assert (slope - slope.mean(1, keepdim=True)).abs().max() < 0.02
    assert (lit_off - slope[..., None] * x_off).abs().max() < 1
    assert slope.mean(1).std().item() == pytest.approx(0.1, rel=0.2)
    brightness = lit.mean(2) - slope * x.mean(2) - (1 - slope) * x.mean((1, 2))[:, None]
    assert brightness.std().item() == pytest.approx(255 * 0.05, rel=0.1)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"shift": 9}, {"shift": -1}, {"light": -0.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(wrong))} must be in 0"):
        Augmentation(**{"share": 0.5, "shift": 2, "light": 0.1} | wrong)
