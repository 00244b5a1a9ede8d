"""The causal code: causality by gradients and by changed pixels, probabilities, least squares, a law that is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from svhn_vae.data.svhn import read_mat
from svhn_vae.evaluation import baselines as module
from svhn_vae.evaluation.baselines import REACH, CausalCode, bits_of_code, coloured
from svhn_vae.model.variance.logistic import log_mass_of_level
from svhn_vae.model.variance.neighbours import CausalRegression, neighbours, offsets, padded

REAL = Path(__file__).parents[2] / "shared" / "svhn"
HEIGHT, WIDTH = 6, 8  # every kind of border, and an interior


def images(num: int) -> Tensor:
    """Levels that go together with their neighbours, rough and smooth ones."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num, 3, HEIGHT, WIDTH, generator=generator).cumsum(2).cumsum(3)
    rough = torch.rand(num, 1, 1, 1, generator=generator) * 8
    return (
        (120 + 5 * noise + 5 * noise[:, :1] + rough * torch.randn(noise.shape, generator=generator))
        .clamp(0, 255)
        .byte()
    )


@pytest.fixture(scope="module")
def code() -> CausalCode:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_STEPS", 30)
        patch.setattr(module, "VALUES_PER_STEP", 5_000)
        found = CausalCode(torch.Size((3, HEIGHT, WIDTH)))
        found.fit(images(300))
    return found


def is_before() -> Tensor:
    """(3, H, W, 3, H, W): whether the second value comes before the first one, in raster order and then by colour."""
    place = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH) * 3 + torch.arange(3)[:, None, None]
    return place.view(1, 1, 1, 3, HEIGHT, WIDTH) < place.view(3, HEIGHT, WIDTH, 1, 1, 1)


def test_what_comes_later_changes_no_probability(code):
    """Exactly, wherever the change begins, borders included; and all but the very first value look back."""
    first, other = coloured(images(2))[:, None]
    before = masses(code, first)
    for row, column, colour in ((0, 0, 0), (0, 1, 2), (0, 7, 1), (2, 0, 0), (3, 4, 1), (5, 7, 2)):
        later = ~is_before().view(3, HEIGHT, WIDTH, 3, HEIGHT, WIDTH)[colour, row, column]
        changed = torch.where(later, other, first)
        torch.testing.assert_close(masses(code, changed)[~later], before[~later], rtol=0, atol=0)
        earlier = torch.where(later, first, other)
        assert (masses(code, earlier)[colour, row, column] != before[colour, row, column]) == bool((~later).any())


def masses(code: CausalCode, u: Tensor) -> Tensor:
    flat = (each.transpose(0, 1).flatten(1) for each in (u, *code.predictor(u)))
    return code.log_mass(*flat).view(3, HEIGHT, WIDTH)


def test_the_256_levels_of_a_value_have_probability_one(code):
    u = coloured(images(1))
    location, size = (each.transpose(0, 1).flatten(1) for each in code.predictor(u))
    levels = torch.arange(256).double() * 2 / 255 - 1
    each = [code.log_mass(torch.full_like(location, level), location, size) for level in levels.tolist()]
    assert torch.stack(each).double().logsumexp(0).abs().max() < 1e-4


def test_the_code_is_the_sum_over_values(code):
    shown = images(3)
    expected = [masses(code, u[None]).double().sum() for u in coloured(shown)]
    torch.testing.assert_close(code.log_prob(shown), torch.stack(expected))
    bits = -torch.stack(expected).mean().item() / math.log(2) / (3 * HEIGHT * WIDTH)
    assert bits_of_code(code, shown) == pytest.approx(bits)


def test_weights_are_numpys_least_squares_of_each_kind_of_border():
    u, found = coloured(images(400)), CausalRegression(HEIGHT, WIDTH, REACH)
    found.fit([(part, torch.ones_like(part)) for part in u.split(150)])
    near = neighbours(padded(u, REACH), REACH)
    predicted, kinds = found.predict(found.from_neighbours(near), u), found.kinds()
    assert len(kinds.unique()) == 4 * 7
    for row, column in ((0, 0), (0, 3), (1, 7), (5, 4)):
        alike = (kinds == kinds[row, column]).nonzero().tolist()
        inside = [(-up, across) for up, across in offsets(REACH) if row >= up and 0 <= column + across < WIDTH]
        for colour in range(3):
            x = np.concatenate([design(u, *place, inside, colour) for place in alike])
            y = np.concatenate([u[:, colour, r, c] for r, c in alike])
            due = design(u, row, column, inside, colour) @ np.linalg.lstsq(x, y, rcond=None)[0]
            np.testing.assert_allclose(predicted[:, colour, row, column], due, atol=2e-3)


def design(u: Tensor, row: int, column: int, inside: list[tuple[int, int]], colour: int) -> np.ndarray:
    columns = [u[:, other, row + down, column + across] for down, across in inside for other in range(3)]
    columns += [u[:, earlier, row, column] for earlier in range(colour)]
    return torch.stack([*columns, torch.ones(len(u))], dim=1).numpy()


def test_a_law_that_is_known_is_found():
    """Each value is its left neighbour's and a logistic step: the code is nearly that of the truth."""
    generator, log_scale = torch.Generator().manual_seed(0), torch.tensor(math.log(0.03))
    u = torch.zeros(600, 3, HEIGHT, WIDTH)
    for column in range(WIDTH):
        steps = torch.rand(600, 3, HEIGHT, generator=generator).logit(eps=1e-6) * log_scale.exp()
        left = u[..., column - 1] if column else torch.zeros(())
        u[..., column] = (((left + steps + 1) * 127.5).round().clamp(0, 255)) / 127.5 - 1
    levels = ((u + 1) * 127.5).round()
    left = torch.cat([torch.zeros_like(u[..., :1]), u[..., :-1]], dim=3)
    truth = -log_mass_of_level(levels, u - left, log_scale, 256).mean().item() / math.log(2)
    code = CausalCode(torch.Size((3, HEIGHT, WIDTH)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_STEPS", 60)
        patch.setattr(module, "VALUES_PER_STEP", 10_000)
        code.fit(levels[:500].byte())
    assert bits_of_code(code, levels[500:].byte()) == pytest.approx(truth, abs=0.12)
    assert bits_of_code(code, levels[500:].byte()) > truth - 0.02


@pytest.mark.skipif(not (REAL / "test_32x32.mat").is_file(), reason="real images not at hand")
def test_real_images():
    """Of 600 training images, half a minute: without a network below every other baseline, 2.48."""
    train, test = (read_mat(REAL / f"{split}_32x32.mat").images for split in ("train", "test"))
    code = CausalCode(train.shape[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_STEPS", 100)
        code.fit(train[::11][:600])
    assert 2.0 < bits_of_code(code, test[::7][:200]) < 2.2
