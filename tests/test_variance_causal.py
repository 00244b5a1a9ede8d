"""The causal head: proof by gradients that no value's term sees itself or what comes later, and its probabilities."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from svhn_vae.model.coordinates import Features
from svhn_vae.model.variance import Causal
from svhn_vae.model.variance.causal import CausalNetwork

HEIGHT, WIDTH, NUM_FEATURES = 6, 7, 5


def network(reach: int = 2) -> CausalNetwork:
    """With a prediction of random weights, as none was fitted."""
    net = CausalNetwork((HEIGHT, WIDTH), NUM_FEATURES, reach=reach, width=8, depth=1, num_mixtures=3).double()
    for weights in net.predictor.buffers():
        weights.normal_(std=0.1)
    return net


def head(event_shape: tuple[int, int, int], num_levels: int, *, sees_z: bool = True) -> Causal:
    settings = {"num_features": 1, "rows_per_update": 2, "reach": 2, "width": 8, "depth": 1, "num_mixtures": 3}
    settings |= {"centre": 0.5, "unit": 0.25, "num_levels": num_levels, "log_scale_range": [-9, 6]}
    return Causal(event_shape, scale=False, sees_z=sees_z, **settings).eval()


@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize("colour", range(3))
def test_no_value_sees_itself_or_a_later_one(reach, colour):
    """At every pixel, those at the borders included: the gradient is 0 from the value itself on, in raster order."""
    net = network(reach)
    u = (2 * torch.rand(1, 3, HEIGHT, WIDTH, dtype=torch.float64) - 1).requires_grad_()
    found = net(u, torch.randn(1, NUM_FEATURES, HEIGHT, WIDTH, dtype=torch.float64), slice(0, HEIGHT))
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        total = sum(each[0, colour, row, column].square().sum() for each in found)
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
    for layer in law.network.last:
        torch.nn.init.constant_(layer.bias[-3:], 5.0)
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
        found = net(u, features, slice(0, HEIGHT))
    for index, (row, column, colour) in enumerate(itertools.product(range(HEIGHT), range(WIDTH), range(3))):
        for whole, alone in zip(found, mixtures[index], strict=True):
            torch.testing.assert_close(whole[:, colour, row, column], alone)


def test_it_starts_from_the_prediction_that_fits_the_images():
    """Images whose columns are light and dark by turns: fitted, the law is near their noise; before, far from it."""
    contrast = 0.3 * torch.rand(400, 1, 1, 1) * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    images = 0.5 + contrast + 0.02 * torch.rand(400, 3, 4, 5)
    law = head((3, 4, 5), num_levels=256)
    params = torch.zeros(400, law.params_per_element, 3, 4, 5)
    bits = [-law(params).log_prob(images).mean().item()]
    law.start([Features(images, *[torch.zeros(400)] * (len(Features._fields) - 1))])
    bits.append(-law(params).log_prob(images).mean().item())
    assert bits[1] < bits[0] - 60


def test_the_control_does_not_see_the_decoders_output():
    law = head((3, 4, 5), num_levels=256, sees_z=False)
    params = torch.randn(2, law.params_per_element, 3, 4, 5, requires_grad=True)
    assert not law(params).log_prob(torch.rand(2, 3, 4, 5)).sum().backward()
    assert params.grad is None


def test_training_takes_some_rows_whose_mean_is_the_whole():
    law, images = head((3, 4, 5), num_levels=256), torch.rand(2, 3, 4, 5)
    params = torch.randn(2, law.params_per_element, 3, 4, 5)
    whole = law(params).log_prob(images)
    drawn = {tuple(law.train()(params).log_prob(images).tolist()) for _ in range(20)}
    assert len(drawn) == 2  # halves
    torch.testing.assert_close(torch.tensor(list(drawn)).mean(0), whole)


def test_many_images_are_scored_as_one_by_one():
    """More than are taken at a time."""
    law, images = head((3, 1, 2), num_levels=256), torch.rand(120, 3, 1, 2)
    params = torch.randn(120, law.params_per_element, 3, 1, 2)
    alone = [law(params[i : i + 1]).log_prob(images[i : i + 1]) for i in (0, 49, 50, 119)]
    torch.testing.assert_close(law(params).log_prob(images)[[0, 49, 50, 119]], torch.cat(alone))
