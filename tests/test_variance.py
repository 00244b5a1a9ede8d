"""Laws that every head in conf/variance/ keeps. A new YAML file is tested without a new test."""

import pytest
import torch
from hydra.utils import instantiate
from torch.distributions import Independent, Normal

from conftest import composed, options
from svhn_vae.variance import DiagonalNormal, GaussianHead, VarianceHead, soft_clip

HEADS = options("variance")


def make(name: str, event_shape: tuple[int, ...]) -> VarianceHead:
    return instantiate(composed(f"variance={name}").variance, event_shape=event_shape, _convert_="all").eval()


@pytest.fixture(params=[(name, shape) for name in HEADS for shape in [(5,), (3, 4, 4)]], ids=str)
def head(request) -> VarianceHead:
    return make(*request.param)


def params(head: VarianceHead, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, head.params_per_element, *head.event_shape)


def test_shapes(head):
    p = head(params(head))
    assert p.batch_shape == (4,)
    assert p.event_shape == head.event_shape
    assert p.mean.shape == p.sample().shape == p.variance.shape == (4, *head.event_shape)
    assert p.log_prob(p.sample()).shape == (4,)


@pytest.mark.parametrize("name", HEADS)
def test_density_integrates_to_one(name):
    head = make(name, (1,))
    grid = torch.linspace(-60, 60, 1_200_001).view(-1, 1)
    p = head(params(head, batch=1))
    assert torch.trapezoid(p.log_prob(grid).exp(), dx=1e-4).item() == pytest.approx(1, abs=1e-3)


def test_each_image_is_scored_alone(head):
    raw, y = params(head), torch.randn(4, *head.event_shape)
    together = head(raw).log_prob(y)
    alone = torch.cat([head(raw[i : i + 1]).log_prob(y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)


def test_samples_have_the_mean_and_variance_that_it_says(head):
    p = head(params(head, batch=2))
    samples = p.sample((20_000,))
    scale = p.stddev
    assert ((samples.mean(0) - p.mean).abs() / scale).max() < 0.05
    torch.testing.assert_close(samples.var(0) / p.variance, torch.ones_like(p.mean), rtol=0, atol=0.08)


@pytest.mark.parametrize("size", [1.0, 80.0, 1e4])
def test_gradients_are_finite_at_extremes(head, size):
    """Up to exp(80), float32's own limit, for every head; beyond it for those that bound their variance."""
    if not head.bounded:
        size = min(size, 80.0)  # the next test holds it to overflowing beyond
    signs = torch.randint(0, 2, (4, head.params_per_element, *head.event_shape)) * 2.0 - 1
    raw = torch.cat([signs[:, :1], size * signs[:, 1:]], dim=1).requires_grad_()
    loss = -head(raw).log_prob(torch.zeros(4, *head.event_shape)).sum()
    loss.backward()
    assert loss.isfinite()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in HEADS if not make(name, (1,)).bounded])
def test_an_unbounded_head_overflows_far_out(name):
    head = make(name, (5,))
    raw = torch.full((1, head.params_per_element, 5), -1e4)
    assert not head(raw).log_prob(torch.zeros(1, 5)).isfinite().all()


def test_half_precision_is_scored_in_float32(head):
    assert head(params(head).bfloat16()).log_prob(torch.zeros(4, *head.event_shape)).dtype == torch.float32


def test_standing_is_fractions(head):
    standing = head.standing(params(head))
    assert set(standing) <= {"floor_fraction", "ceiling_fraction", "dead_fraction"}
    assert all(0 <= value <= 1 for value in standing.values())


def test_settings_that_reach_the_decoder_have_a_gradient(head):
    """Each emitted number, and each of the head's own parameters, can be learnt: v = 1 is dead in no head."""
    raw = torch.ones(4, head.params_per_element, *head.event_shape, requires_grad=True)
    head(raw).log_prob(torch.randn(4, *head.event_shape)).sum().backward()
    assert (raw.grad != 0).all()
    assert all((parameter.grad != 0).all() for parameter in head.parameters())


def test_relu_eps_is_the_posts_formula():
    head = make("relu_eps", (3,))
    raw = torch.tensor([[[0.0, 0.0, 0.0], [-2.0, 0.5, 3.0]]])
    torch.testing.assert_close(head(raw).variance, torch.tensor([[0.01, 0.51, 3.01]]))
    standing = head.standing(raw)
    assert standing["dead_fraction"] == standing["floor_fraction"] == pytest.approx(1 / 3)


def test_logvar_is_kingmas_formula():
    raw = torch.tensor([[[0.0, 0.0], [-2.0, 3.0]]])
    torch.testing.assert_close(make("logvar", (2,))(raw).variance, torch.tensor([[-2.0, 3.0]]).exp())


def test_per_image_is_one_sigma_for_all_elements():
    variance = make("per_image", (3, 4, 4))(torch.randn(4, 2, 3, 4, 4)).variance.flatten(1)
    assert (variance == variance[:, :1]).all()
    assert len(variance[:, 0].unique()) == 4


@pytest.mark.parametrize("name", ["shared", "per_dimension", "fixed"])
def test_sigma_of_these_is_the_same_for_every_image(name):
    variance = make(name, (5,))(torch.randn(4, 1, 5)).variance
    assert (variance == variance[:1]).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variance=relu_eps variance.epsilon=0", "variance.epsilon must be above 0"),
        ("variance=fixed variance.sigma=-1", "variance.sigma must be above 0"),
        ("variance=shared variance.log_variance_range=[1,-1]", "low < high"),
    ],
)
def test_bad_settings_say_what_was_expected(override, message):
    with pytest.raises(Exception, match=message):
        instantiate(composed(*override.split()).variance, event_shape=(2,), _convert_="all")


def test_diagonal_normal_is_torchs():
    mean, log_variance, y = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    oracle = Independent(Normal(mean, (0.5 * log_variance).exp()), 2)
    torch.testing.assert_close(DiagonalNormal(mean, log_variance).log_prob(y), oracle.log_prob(y))


def test_gradient_in_the_log_variance_is_the_formula_where_torchs_normal_overflows():
    log_variance = torch.tensor([[-70.0]], requires_grad=True)
    DiagonalNormal(torch.zeros(1, 1), log_variance).log_prob(torch.ones(1, 1)).sum().backward()
    torch.testing.assert_close(log_variance.grad, -0.5 * (1 - torch.exp(torch.tensor([[70.0]]))))


def test_soft_clip_stays_inside_and_is_the_identity_well_inside():
    value = torch.linspace(-1e3, 1e3, 10_001)
    clipped = soft_clip(value, -12, 6)
    assert clipped.min() >= -12 - 1e-4
    assert clipped.max() <= 6 + 1e-4
    assert (clipped.diff() >= 0).all()
    torch.testing.assert_close(soft_clip(torch.tensor(-3.0), -12, 6), torch.tensor(-3.0), rtol=0, atol=1e-3)


def test_the_choices_are_all_gaussian_heads_or_say_how_they_differ():
    for name in HEADS:
        assert isinstance(make(name, (2,)), GaussianHead)
