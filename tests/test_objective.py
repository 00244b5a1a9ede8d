"""The training objective: the bound itself by default, and each modification against its formula."""

import math

import pytest
import torch
from hydra.utils import instantiate

from conftest import composed
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import Pass
from svhn_vae.training.module import LitVAE
from svhn_vae.training.objective import Objective
from test_lit import SMALL, features, fitted, fitted_module


@pytest.fixture
def passed() -> tuple[LitVAE, Features, Pass]:
    module = fitted_module("variance=logvar_l2", "model.sampling_bug=true")
    batch = features(module)
    return module, batch, module.vae(batch)


def objective(**changes: float) -> Objective:
    chosen = composed("objective=elbo", *(f"objective.{name}={value}" for name, value in changes.items()))
    return instantiate(chosen.objective)


def test_elbo_is_the_negative_bound():
    module = fitted_module()
    batch = features(module)
    result = module.vae(batch)
    torch.testing.assert_close(objective().loss(module.vae, result, batch.y, 0), -result.terms.elbo.mean())


def without_kl(module: LitVAE, result: Pass) -> torch.Tensor:
    terms = result.terms
    penalty = module.vae.variance.penalty(result.inferred.params)
    assert (penalty > 0).all()
    return (penalty - terms.log_likelihood - terms.residual - terms.log_det).mean()


@pytest.mark.parametrize(
    ("changes", "epoch", "weight"),
    [
        ({}, 0, 1.0),
        ({"beta": 0.25}, 7, 0.25),
        ({"kl_warmup_epochs": 10}, 0, 0.0),
        ({"kl_warmup_epochs": 10}, 4, 0.4),
        ({"kl_warmup_epochs": 10, "beta": 2.0}, 25, 2.0),
    ],
)
def test_the_weight_of_the_kl(passed, changes, epoch, weight):
    module, batch, result = passed
    expected = without_kl(module, result) + weight * result.kl_in_loss.mean()
    torch.testing.assert_close(objective(**changes).loss(module.vae, result, batch.y, epoch), expected)


def test_free_bits_are_free_for_each_latent_on_the_average_of_the_batch(passed):
    module, batch, result = passed
    per_latent = result.latents_kl.mean(0)
    free = per_latent.median().item()
    expected = without_kl(module, result) + sum(max(kl, free) for kl in per_latent.tolist())
    torch.testing.assert_close(objective(free_bits=free).loss(module.vae, result, batch.y, 0), expected)


COORDINATES = {
    "raw": (*SMALL,),
    "whitened": (*SMALL, "pca.whiten=true"),
    "unscaled": (*SMALL, "pca.scale=false"),
    "cosines": (*SMALL, "pca=dct"),
    "pixels": ("model=conv", "variance=shared"),
}


@pytest.mark.parametrize("overrides", COORDINATES.values(), ids=COORDINATES)
def test_the_second_likelihood_is_that_of_the_mean_at_a_sigma_of_pixels(overrides):
    """In any coordinates: with y and the mean brought back to pixels, along the directions that y has."""
    module, weight, sigma = fitted(*overrides), 0.5, 0.2
    batch, inverse = features(module), module.vae.representation.inverse
    result, plain, both = module.vae(batch), objective(), objective(mean_weight=weight, mean_sigma=sigma)
    found = plain.loss(module.vae, result, batch.y, 0) - both.loss(module.vae, result, batch.y, 0)
    errors = (inverse(batch.y) - inverse(result.likelihood.mean)).flatten(1)
    log_p = -0.5 * (errors / sigma).square().sum(1) - batch.y[0].numel() * math.log(sigma * math.sqrt(2 * math.pi))
    density_of_y = log_p - batch.log_det
    torch.testing.assert_close(found, weight * density_of_y.mean(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("variance", ["logvar", "relu_eps", "student_t", "low_rank", "banded"])
def test_beside_it_the_heads_likelihood_moves_all_but_the_mean(variance):
    """Without the second likelihood's weight, which is all but 0 here, the mean's own layer has no gradient."""
    module = fitted_module(f"variance={variance}")
    batch, gradients = features(module), {}
    for weight in (0.0, 1e-12):
        module.zero_grad()
        torch.manual_seed(0)
        _, loss = objective(mean_weight=weight)(module.vae, batch, 0)
        loss.backward()
        networks = module.vae.networks
        gradients[weight] = [layer.grad.abs().max().item() for layer in (networks.mean.weight, networks.raw[-1].weight)]
    (of_mean, of_raw), (held, same) = gradients.values()
    assert of_mean > 1e-3
    assert held < 1e-6
    assert of_raw > 0
    assert same == pytest.approx(of_raw, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "due"),
    [*((name, -1, "at least 0") for name in ("beta", "free_bits", "kl_warmup_epochs", "mean_weight")),
     ("mean_sigma", 0, "above 0")],
)  # fmt: skip
def test_bad_settings_say_what_was_expected(name, value, due):
    with pytest.raises(Exception, match=rf"objective\.{name} must be {due}, got {value}"):
        objective(**{name: value})
