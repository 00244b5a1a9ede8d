"""The training objective: the bound itself by default, and each modification against its formula."""

import pytest
import torch
from hydra.utils import instantiate

from conftest import composed
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import Pass
from svhn_vae.training.module import LitVAE
from svhn_vae.training.objective import Objective
from test_lit import features, fitted_module


@pytest.fixture
def passed() -> tuple[LitVAE, Features, Pass]:
    module = fitted_module("variance=logvar_l2", "model.sampling_bug=true")
    batch = features(module)
    return module, batch, module.vae(batch)


def objective(**changes: float) -> Objective:
    return instantiate(composed(*(f"objective.{name}={value}" for name, value in changes.items())).objective)


def test_by_default_it_is_the_negative_bound():
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


def test_before_the_variance_is_released_sigma_is_one(passed):
    module, batch, result = passed
    mean, warming = result.likelihood.mean, objective(mean_warmup_epochs=3)
    unit = torch.distributions.Normal(mean, 1.0).log_prob(batch.y).sum(1).mean()
    difference = warming.loss(module.vae, result, batch.y, 2) - warming.loss(module.vae, result, batch.y, 3)
    torch.testing.assert_close(difference, result.terms.log_likelihood.mean() - unit, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["beta", "free_bits", "kl_warmup_epochs", "mean_warmup_epochs"])
def test_bad_settings_say_what_was_expected(name):
    with pytest.raises(Exception, match=rf"objective\.{name} must be 0 or more, got -1"):
        objective(**{name: -1})
