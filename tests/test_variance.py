"""Laws that every head in conf/variance/ keeps. A new YAML file is tested without a new test."""

import functools
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from conftest import composed, options
from svhn_vae.model.variance import VarianceHead
from svhn_vae.model.variance.gaussian import LogVar

HEADS = options("variance")
FLAT, IMAGE = (5,), (3, 4, 4)
APPROXIMATE_MOMENTS = {"causal", "logistic_mixture"}  # not in closed form; near black and white


@functools.cache
def config(name: str) -> DictConfig:
    return composed(f"variance={name}").variance


def make(name: str, event_shape: tuple[int, ...], **settings: Any) -> VarianceHead:
    return instantiate(config(name), event_shape=event_shape, _convert_="all", **settings).eval()


def accepts(name: str, event_shape: tuple[int, ...]) -> bool:
    try:
        make(name, event_shape)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        return False
    return True


def params(head: VarianceHead, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, head.params_per_element, *head.event_shape)


@pytest.fixture(params=HEADS)
def head(request) -> VarianceHead:
    """Of flat features, or of images where it needs them."""
    return make(request.param, FLAT if accepts(request.param, FLAT) else IMAGE)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_models_images_and_flat_features_or_says_in_a_line_that_it_does_not(name):
    for shape in (IMAGE, FLAT) if accepts(name, FLAT) else (IMAGE,):
        head = make(name, shape)
        p = head(params(head))
        assert (p.batch_shape, p.event_shape) == ((4,), shape)
        assert p.mean.shape == p.sample().shape == p.variance.shape == p.stddev.shape == (4, *shape)
        assert p.sample((2,)).shape == (2, 4, *shape)
        assert p.log_prob(p.sample()).shape == head.penalty(params(head)).shape == (4,)
    if not accepts(name, FLAT):
        with pytest.raises(InstantiationException, match=r"needs .*, got .*: use ") as caught:
            make(name, FLAT)
        assert "\n" not in str(caught.value.__cause__)


def test_a_mean_that_is_emitted_can_be_held(head):
    """Its parameters stay what they are; no gradient comes through those of the mean."""
    given = params(head).requires_grad_()
    held = head.detach_mean(given)
    assert torch.equal(held, given)
    gradient = torch.autograd.grad(held.sum(), given)[0] if held.requires_grad else torch.zeros_like(given)
    if head.emits_mean:
        centre, unit = getattr(head, "centre", 0.0), getattr(head, "unit", 1.0)  # Causal's
        torch.testing.assert_close(head(given).mean, centre + unit * given[:, 0])
        assert not gradient[:, 0].any()
    assert (gradient[:, int(head.emits_mean) :] == 1).all()


@pytest.mark.parametrize("name", [name for name in HEADS if accepts(name, (1,)) or accepts(name, (1, 1, 1))])
def test_density_integrates_to_one(name):
    """In one dimension; a head of pixels has three of them, and a test of its own among the formulas."""
    head = make(name, (1,) if accepts(name, (1,)) else (1, 1, 1))
    assert head.is_density
    grid = torch.linspace(-60, 60, 120_001).view(-1, *head.event_shape)
    p = head(params(head, batch=1))
    assert torch.trapezoid(p.log_prob(grid).exp(), dx=1e-3).item() == pytest.approx(1, abs=1e-3)


def test_each_image_is_scored_alone(head):
    raw = params(head)
    y = head(raw).sample()
    together = head(raw).log_prob(y)
    alone = torch.cat([head(raw[i : i + 1]).log_prob(y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in APPROXIMATE_MOMENTS])
def test_samples_have_the_mean_and_variance_that_it_says(name):
    head = make(name, FLAT if accepts(name, FLAT) else IMAGE)
    p = head(params(head, batch=2))
    samples = p.sample((20_000,))
    assert ((samples.mean(0) - p.mean).abs() / p.stddev).max() < 0.05
    torch.testing.assert_close(samples.var(0) / p.variance, torch.ones_like(p.mean), rtol=0, atol=0.08)


@pytest.mark.parametrize("size", [80.0, 1e4])
def test_gradients_are_finite_at_extremes(head, size):
    """Up to exp(80), float32's own limit, for every head; beyond it for those that bound their variance."""
    signs = torch.randint(0, 2, (4, head.params_per_element, *head.event_shape)) * 2.0 - 1
    raw = torch.cat([signs[:, :1], size * signs[:, 1:]], dim=1).requires_grad_()
    loss = -head(raw).log_prob(torch.zeros(4, *head.event_shape)).sum()
    loss.backward()
    is_finite = bool(loss.isfinite() and raw.grad.isfinite().all())
    assert is_finite == (size < 100 or not isinstance(head, LogVar))  # which is unbounded by design


def test_half_precision_is_scored_in_float32(head):
    raw = params(head).bfloat16()
    y = head(raw).sample()
    assert head(raw).log_prob(y).dtype == head(raw).mean.dtype == head.penalty(raw.float()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(raw).log_prob(y), head(raw.float()).log_prob(y))


def test_settings_that_reach_the_decoder_have_a_gradient(head):
    """Each emitted number, and each of the head's own parameters, can be learnt: v = 1 is dead in no head."""
    raw = (0.5 + torch.rand(4, head.params_per_element, *head.event_shape)).requires_grad_()
    p = head(raw)
    p.log_prob(p.sample()).sum().backward()
    assert (raw.grad != 0).all()
    assert all((parameter.grad != 0).all() for parameter in head.parameters())


def test_nothing_is_estimated_on_a_batch_that_is_scored(head):
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    p = head(params(head))
    p.log_prob(p.sample())
    standing = head.standing(params(head))
    assert set(standing) <= {"floor_fraction", "ceiling_fraction", "dead_fraction"}
    assert all(0 <= value <= 1 for value in standing.values())
    assert all((buffer == before[name]).all() for name, buffer in head.named_buffers())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("relu_eps", {"epsilon": 0}, "variance.epsilon must be above 0"),
        ("fixed", {"sigma": -1}, "variance.sigma must be above 0"),
        ("shared", {"log_variance_range": [1, -1]}, "variance.log_variance_range must be .* low < high"),
        ("optimal", {"momentum": 1}, "variance.momentum must be in .*, got 1"),
        ("banded", {"num_bands": 0}, "variance.num_bands must be at least 1"),
        ("logvar_l2", {"l2": -1}, "variance.l2 must be above 0"),
        ("beta_nll", {"beta": 2}, "variance.beta must be in 0..1, got 2"),
        ("student_t", {"dof_range": [2, 50]}, "variance.dof_range must begin above 2"),
        ("scale_mixture", {"factors": [1, -1]}, "variance.factors must be two or more numbers above 0"),
        ("low_rank", {"rank": 0}, "variance.rank must be at least 1"),
        ("logistic_mixture", {"num_levels": 1}, "variance.num_levels must be at least 2"),
        ("logistic_mixture", {"scale": True}, "scaled: use pca=unit_pixels"),
        ("causal", {"num_features": -1}, "variance.num_features must be at least 0"),
        ("causal", {"rows_per_update": 3}, "variance.rows_per_update must divide 4 rows, got 3"),
    ],
)
def test_bad_settings_say_what_was_expected(name, settings, message):
    with pytest.raises(InstantiationException, match=message) as caught:
        make(name, IMAGE, **settings)
    assert "\n" not in str(caught.value.__cause__)
