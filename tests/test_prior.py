"""Laws of every prior, on two latents, where integrals can be taken; oracles; what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from conftest import composed, options
from svhn_vae.errors import Damaged
from svhn_vae.evaluation.bound import latent_noise, log_weight
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import kl_to_standard_normal
from svhn_vae.model.prior import FittedPrior, Prior
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.checkpoints import load_prior, save_prior
from test_lit import features, fitted

QUICK = {
    "flow": ("prior.num_steps=40", "prior.widths=[16]", "prior.num_transforms=1"),
    "gaussian_mixture": ("prior.num_components=4",),
    "two_stage": ("prior.num_steps=300", "prior.width=16", "prior.num_samples=32"),
}
NUM = 20_000
EDGE, STEP = 8.0, 0.1  # of the grid that integrals are sums over


def small(name: str, *overrides: str, latent_dim: int = 2) -> Prior:
    """The prior of a small network, with numbers that are not those it begins with."""
    chosen = (f"prior={name}", *QUICK.get(name, ()), "model=small_dense", f"model.latent_dim={latent_dim}")
    vae = build_vae(composed(*chosen, "model.width=16", "pca.n_components=20", *overrides))
    if isinstance(vae.prior, FittedPrior):
        vae.prior.fit(*codes(latent_dim), seed=1)
    for weights in vae.prior.parameters():
        weights.data.add_(0.3 * torch.randn_like(weights) if weights.requires_grad else 0)
    return vae.prior


def codes(latent_dim: int) -> tuple[Tensor, Tensor]:
    """Posteriors of two clusters of 300 images each."""
    mean = torch.randn(600, latent_dim) * 0.4 + torch.tensor([-1.0, 1.5]).repeat_interleave(300)[:, None]
    return mean, torch.full_like(mean, -2.0)


def grid() -> Tensor:
    axis = torch.arange(-EDGE, EDGE, STEP)
    return torch.cartesian_prod(axis, axis)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


every_prior = pytest.mark.parametrize("name", options("prior"))


@every_prior
@torch.no_grad()
def test_the_density_integrates_to_one_and_samples_are_of_it(name):
    prior, points = small(name), grid()
    density = prior.log_prob(points).double().exp() * STEP**2
    # That of a bound integrates to less, but for the error of the noise that it is taken at.
    assert density.sum().item() == pytest.approx(1, abs=2e-3) or (prior.is_bound and 0.9 < density.sum() < 1.02)
    density /= density.sum()
    z = prior.sample(NUM, generator(), 1.0)
    assert z.shape == (NUM, 2)
    mean, error = density @ points.double(), 4 / math.sqrt(NUM)
    spread = (density @ (points.double() - mean).square()).sqrt()
    torch.testing.assert_close(z.double().mean(0), mean, rtol=0, atol=error * spread.max().item())
    torch.testing.assert_close(z.double().std(0), spread, rtol=2 * error, atol=0)
    entropy = -(density * prior.log_prob(points).double().clamp(min=-1e3)).sum().item()
    assert -prior.log_prob(z).mean().item() == pytest.approx(entropy, abs=0.05)


@every_prior
@torch.no_grad()
def test_the_kl_is_that_of_the_integral(name):
    prior, points = small(name), grid()
    mean, log_variance = torch.tensor([[0.5, -0.7]]), torch.tensor([[-1.0, -0.2]])
    q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    log_q = q.log_prob(points).double()
    due = (log_q.exp() * (log_q - prior.log_prob(points).double()) * STEP**2).sum().item()
    assert due > 0
    many = [tensor.expand(NUM, 2) for tensor in (mean, log_variance)]
    parts = torch.cat([prior.kl(*many, q.sample((NUM,))[:, 0]) for _ in range(8)])
    assert parts.ndim == 2
    assert 5 * parts.sum(1).std().item() / math.sqrt(len(parts)) < 0.05  # a difference is no chance
    assert parts.sum(1).mean().item() == pytest.approx(due, abs=0.05)


@every_prior
@torch.no_grad()
def test_samples_have_the_moments_and_the_temperature_and_numbers_move_with_the_prior(name):
    """To another type, as to another device: what stayed behind would not fit."""
    prior, z = small(name), torch.randn(7, 2)
    drawn = prior.sample(NUM, generator(), 1.0)
    for found, due in zip(prior.moments(), (drawn.mean(0), drawn.std(0)), strict=True):
        torch.testing.assert_close(found, due, rtol=0.05, atol=0.05)
    sizes = [prior.sample(2000, generator(), temperature).var(0).sum() for temperature in (1.0, 0.5, 0.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert torch.equal(prior.sample(50, generator(), 1.0), prior.sample(50, generator(), 1.0))
    due = prior.log_prob(z)
    for network in getattr(prior, "_networks", ()):
        network.double()
    torch.testing.assert_close(prior.double().log_prob(z.double()), due.double(), rtol=1e-4, atol=1e-4)


@every_prior
def test_the_bound_and_the_importance_weights_take_the_runs_prior(name):
    """log w = log p(y, r | z) + log |dy/dx| + log p(z) - log q(z | y); its mean is the bound."""
    chosen = (f"prior={name}", *QUICK.get(name, ()), "model=small_dense", "model.latent_dim=3")
    module = fitted(*chosen, "pca.n_components=20")
    vae, batch = module.vae.eval(), features(module)
    if isinstance(vae.prior, FittedPrior):
        vae.prior.fit(*codes(3), seed=0)
    noise = latent_noise(vae, 8, 0, 1)
    with torch.no_grad():
        inferred = vae.networks(batch.y, noise)
        q = Independent(Normal(inferred.mean, (0.5 * inferred.log_variance).exp()), 1)
        ratio = vae.prior.log_prob(inferred.z) - q.log_prob(inferred.z)
        others = vae.variance(inferred.params).log_prob(batch.y) + batch.log_det
        residual = vae.representation.residual.log_prob(batch.residual, inferred.image_params)
        torch.testing.assert_close(
            log_weight(vae, batch, noise), (others + residual + ratio).double(), rtol=1e-5, atol=1e-2
        )
        many = Features(*(array.repeat(200, *[1] * (array.ndim - 1)) for array in batch))
        bounds = vae(many).terms.elbo.double().view(200, 8)
        weights = log_weight(vae, many, latent_noise(vae, 1600, 1, 1)).view(200, 8)
    error = (bounds.var(0) + weights.var(0)).sqrt() / math.sqrt(200)
    assert ((bounds.mean(0) - weights.mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("name", [name for name in options("prior") if name in QUICK])
def test_a_fitted_prior_is_n_0_i_before_that_the_same_after_every_fit_and_survives_its_file(name, tmp_path):
    vae = build_vae(composed(f"prior={name}", *QUICK[name], "model=small_dense", "model.latent_dim=4"))
    prior, (mean, log_variance), folder, read = vae.prior, codes(4), RunFolder(tmp_path), copy.deepcopy(vae)
    z = mean + torch.randn_like(mean)
    torch.testing.assert_close(prior.log_prob(z), Independent(Normal(torch.zeros(4), torch.ones(4)), 1).log_prob(z))
    torch.testing.assert_close(prior.kl(mean, log_variance, z), kl_to_standard_normal(mean, log_variance))
    assert not any(weights.requires_grad for weights in prior.parameters())
    before, again = copy.deepcopy(prior).sample(5, generator(), 1.0), copy.deepcopy(prior)
    for each in (prior, again):
        torch.rand(1)  # whatever else was drawn
        each.fit(mean, log_variance, seed=2)
    assert torch.equal(prior.log_prob(z), again.log_prob(z))
    assert not torch.allclose(before, prior.sample(5, generator(), 1.0))
    assert not any(weights.requires_grad for weights in prior.parameters())
    assert prior.log_prob(mean).mean() > Independent(Normal(torch.zeros(4), torch.ones(4)), 1).log_prob(mean).mean()
    save_prior(vae, folder)
    load_prior(read, folder)
    assert torch.equal(read.prior.log_prob(z), prior.log_prob(z))
    assert torch.equal(read.prior.sample(9, generator(), 1.0), prior.sample(9, generator(), 1.0))
    folder.prior.write_bytes(folder.prior.read_bytes()[:-1])
    with pytest.raises(Damaged):
        load_prior(read, folder)


@torch.no_grad()
def test_the_fitted_mixture_is_scikit_learns_and_the_learnt_one_torchs():
    prior = small("gaussian_mixture", latent_dim=3)
    oracle = SklearnMixture(4)
    oracle.weights_, oracle.means_ = prior.log_weights.double().exp().numpy(), prior.mean.double().numpy()
    oracle.precisions_cholesky_ = np.linalg.inv(prior.factor.double().numpy()).transpose(0, 2, 1)
    z = prior.sample(50, generator(), 1.0)
    due = torch.from_numpy(oracle.score_samples(z.double().numpy()))
    torch.testing.assert_close(prior.log_prob(z), due.float())
    prior, z = small("mixture", latent_dim=5), torch.randn(40, 5)
    components = Independent(Normal(prior.mean, (0.5 * prior.log_variance).exp()), 1)
    due = MixtureSameFamily(Categorical(logits=prior.logits), components).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), due, rtol=1e-4, atol=1e-4)


def test_few_images_have_few_components():
    chosen = composed("prior=gaussian_mixture", "model=small_dense", "pca.n_components=20")
    prior = build_vae(chosen).prior
    mean, log_variance = codes(64)
    prior.fit(mean[:200], log_variance[:200], seed=0)
    assert prior.log_weights.isfinite().sum() == 3
    assert prior.log_prob(mean).isfinite().all()
    assert prior.sample(100, generator(), 1.0).isfinite().all()


@torch.no_grad()
def test_a_vamp_begins_with_the_posteriors_of_training_images():
    module = fitted("prior=vamp", "prior.num_components=3", "model=small_dense", "pca.n_components=20")
    batch, prior = features(module, 5), module.vae.prior
    prior.start(iter([batch]))
    mean, log_variance = module.vae.eval().networks.encode(batch.y[[0, 2, 4]])
    _, means, log_variances = prior.components()
    torch.testing.assert_close((means, log_variances), (mean, log_variance))
    assert not any(name.startswith("prior._networks") for name, _ in module.vae.named_parameters())


OTHERS = [name for name in options("prior") if name != "standard"]


@pytest.mark.parametrize(
    ("name", "model"),
    [*((name, ("model=ladder",)) for name in OTHERS), ("mixture", ("variance=spectral",)),
     ("vamp", ("model=dense", "model.sampling_bug=true"))],
)  # fmt: skip
def test_networks_that_need_n_0_i_refuse_another_prior_in_a_line(name, model):
    with pytest.raises(Exception, match=rf"prior={name} needs one level of latents, .* use prior=standard") as caught:
        build_vae(composed(*model, f"prior={name}", "network_scale=0.03125"))
    assert "\n" not in str(caught.value.__cause__ or caught.value)


@pytest.mark.parametrize("name", OTHERS)
def test_bad_settings_say_what_was_expected(name):
    networks = build_vae(composed("model=small_dense", "model.width=4", "pca.n_components=5")).networks
    counts = [key for key, value in composed(f"prior={name}").prior.items() if key.startswith("num_")]
    assert counts
    for key in counts:
        with pytest.raises(Exception, match=rf"prior\.{key} must be at least 1, got 0"):
            instantiate(composed(f"prior={name}").prior, networks=networks, **{key: 0})
