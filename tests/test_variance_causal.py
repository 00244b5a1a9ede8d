"""The causal head: proof by gradients that no value's term sees itself or what comes later, and its probabilities."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from svhn_vae.model.variance import Causal
from svhn_vae.model.variance.causal import ORDER, CausalConvolution, CausalNetwork

HEIGHT, WIDTH, NUM_FEATURES = 6, 7, 5


def network(reach: int = 2) -> CausalNetwork:
    return CausalNetwork(NUM_FEATURES, reach=reach, width=8, depth=1, num_mixtures=3).double()


def head(event_shape: tuple[int, int, int], num_levels: int) -> Causal:
    settings = {"num_features": 1, "reach": 2, "width": 8, "depth": 1, "num_mixtures": 3}
    return Causal(event_shape, scale=False, **settings, num_levels=num_levels, log_scale_range=[-7.0, 1.0])


@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize("colour", range(3))
def test_no_value_sees_itself_or_a_later_one(reach, colour):
    """At every pixel, those at the borders included: the gradient is 0 from the value itself on, in raster order."""
    net = network(reach)
    u = (2 * torch.rand(1, 3, HEIGHT, WIDTH, dtype=torch.float64) - 1).requires_grad_()
    found = net(u, torch.randn(1, NUM_FEATURES, HEIGHT, WIDTH, dtype=torch.float64))
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        total = sum(each[0, colour, :, row, column].square().sum() for each in found)
        (gradient,) = torch.autograd.grad(total, u, retain_graph=True)
        seen = gradient[0].abs().permute(1, 2, 0).reshape(-1)  # raster order, a pixel's colours one after the other
        place = 3 * (row * WIDTH + column) + colour
        assert (seen[place:] == 0).all()
        if place:
            assert seen[place - 1] > 0 or column == 0  # it does look at its neighbours


def test_probabilities_of_all_images_sum_to_one():
    law = head((3, 1, 2), num_levels=3)
    params = torch.randn(1, law.params_per_element, 3, 1, 2).expand(3**6, -1, -1, -1, -1)
    levels = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 3, 1, 2)
    log_density = law(params).log_prob((levels + 0.5) / 3)
    assert (log_density - 6 * math.log(3)).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_samples_come_with_the_probabilities_that_log_prob_says():
    """A chi-squared test over all 64 images of two levels, under a law as wide as a level."""
    torch.manual_seed(0)
    law = head((3, 1, 2), num_levels=2)
    law.network.first_log_scale.fill_(5.0)
    params = torch.randn(1, law.params_per_element, 3, 1, 2)
    images = torch.tensor(list(itertools.product(range(2), repeat=6))).view(-1, 3, 1, 2)
    with torch.no_grad():
        said = (law(params.expand(64, -1, -1, -1, -1)).log_prob((images + 0.5) / 2) - 6 * math.log(2)).exp()
    drawn = (law(params).sample((40_000,))[:, 0] * 2).long().flatten(1)
    counts = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64)
    expected = said.double() / said.double().sum() * 40_000
    assert expected.min() > 5  # else the test says nothing
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_drawing_pixel_by_pixel_sees_what_one_pass_sees():
    """Drawn values are fed back: the mixtures of the pixelwise way are those of a single pass over the same image."""
    net, features = network(), torch.randn(2, NUM_FEATURES, HEIGHT, WIDTH, dtype=torch.float64)
    mixtures = []

    def draw(*mixture: torch.Tensor) -> torch.Tensor:
        mixtures.append(mixture)
        return 2 * torch.rand(2, dtype=torch.float64) - 1

    with torch.no_grad():
        u = net.drawn(features, draw)
        found = net(u, features)
    for index, (row, column, colour) in enumerate(itertools.product(range(HEIGHT), range(WIDTH), range(3))):
        for whole, alone in zip(found, mixtures[index], strict=True):
            torch.testing.assert_close(whole[:, colour, :, row, column], alone)


def test_the_linear_prediction_begins_as_left_plus_above_minus_above_left():
    net, u = network(), torch.rand(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    guess = net.prediction(net._padded(u)) - net.prediction.above.bias.view(1, 3, 1, 1)
    expected = u[:, :, 2, 3] + u[:, :, 1, 4] - u[:, :, 1, 3]
    torch.testing.assert_close(guess[:, :, 2, 4], expected)


def test_a_convolution_keeps_the_size():
    assert CausalConvolution(4, 3, reach=2)(torch.zeros(1, 4, 5 + 2, 6 + 4)).shape == (1, 3, 5, 6)


def test_colours_are_put_in_order_and_back():
    image = torch.arange(3)
    assert image[ORDER][ORDER].tolist() == [0, 1, 2]
