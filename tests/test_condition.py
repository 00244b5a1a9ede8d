"""A VAE that is told the digit: its bound against brute force, what training minimises, what is refused."""

import re

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from conftest import composed, options
from svhn_vae.data.sources import known_labels, load_once
from svhn_vae.evaluation.bound import importance_weighted
from svhn_vae.experiment.build import build_vae, make
from svhn_vae.experiment.preflight import jobs_of
from svhn_vae.model.condition import DigitVAE, LabelledNetworks, LabelledPrior
from svhn_vae.model.coordinates import Features
from svhn_vae.model.networks import OneLevel
from svhn_vae.model.prior import StandardNormal
from svhn_vae.model.residual import Spectrum
from svhn_vae.model.variance import Fixed
from svhn_vae.pictures.gallery import Subject, draw, possible
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.checkpoints import save_representation, stored_shapes
from svhn_vae.training.objective import Objective
from test_prior import QUICK

SIGMA, L, Z, D = 0.5, 3, 2, 4
SMALL = ("condition=digit", "model=small_dense", "model.width=16", "model.latent_dim=2", "pca.n_components=20")
PLAIN = {"beta": 1.0, "free_bits": 0.0, "kl_warmup_epochs": 0, "mean_weight": 0.0, "mean_sigma": 0.1}


class Linear(OneLevel):
    """y = W z + b_c + sigma noise with orthogonal columns; the exact posterior but for a given error of its mean."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.latent_dim, self.event_shape, self.error = Z + L, torch.Size([D]), error
        self.norms = torch.tensor([2.0, 1.0])
        self.W, self.b = torch.linalg.qr(torch.randn(D, Z))[0] * self.norms, torch.randn(L, D)
        self.logits = nn.Parameter(torch.randn(D, L))

    def encode(self, y):
        variance = 1 / (1 + self.norms**2 / SIGMA**2)
        mean = y @ self.W / SIGMA**2 * variance + self.error
        log_variance = torch.cat([variance.log(), torch.zeros(L)]).expand(len(y), -1)
        return torch.cat([mean, y @ self.logits], dim=1), log_variance

    def decode(self, z):
        return (z[:, :Z] @ self.W.T + z[:, Z:] @ self.b).unsqueeze(1), z.new_empty(len(z), 0)

    def shrink(self, factor):
        raise NotImplementedError


class Identity(nn.Module):
    """y = x."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = Spectrum(0, 1).eval()
        self.residual.fit(torch.empty(0))
        self.mean = torch.zeros(())


def linear(*, error: float, labels: float = 1.0, alpha: float = 0.0) -> DigitVAE:
    inner = Linear(error)
    networks = LabelledNetworks(inner, L)
    with torch.no_grad():  # the posterior's mean moves by what the label adds to y
        variance = 1 / (1 + inner.norms**2 / SIGMA**2)
        networks.shift[:, :Z] = -inner.b @ inner.W / SIGMA**2 * variance
    prior = LabelledPrior([StandardNormal(networks) for _ in range(L)])
    prior.logits.data = torch.tensor([0.1, 0.6, 0.3]).log()
    return DigitVAE(Identity(), networks, Fixed((D,), sigma=SIGMA), prior, alpha=alpha, labels=labels)


def features(num: int, label: int = -1) -> Features:
    return Features(torch.randn(num, D), torch.zeros(num, 1), torch.zeros(num), torch.full((num,), label))


def log_px_of_each_label(vae: DigitVAE, y: torch.Tensor) -> torch.Tensor:
    """log p(c) + log p(y | c), (B, L), without any latents."""
    inner = vae.networks.inner
    covariance = inner.W @ inner.W.T + SIGMA**2 * torch.eye(D)
    laws = [MultivariateNormal(mean, covariance).log_prob(y) for mean in inner.b]
    return torch.stack(laws, dim=1) + torch.tensor([0.1, 0.6, 0.3]).log()


def repeated(batch: Features, num: int) -> Features:
    return Features(*(array.repeat_interleave(num, 0) for array in batch))


@torch.no_grad()
def test_with_the_exact_posterior_the_bound_is_the_log_of_the_sum_over_the_labels():
    vae, batch, num = linear(error=0.0).eval(), features(20), 4000
    due, result = log_px_of_each_label(vae, batch.y), vae(repeated(batch, num))
    torch.testing.assert_close(result.terms.elbo.view(20, num).mean(1), due.logsumexp(1), atol=0.08, rtol=0)
    assert torch.equal(result.inferred.z[::num, Z:].argmax(1), due.argmax(1))
    torch.testing.assert_close(importance_weighted(vae, batch, 4, 0)[4].log_px.float(), due.logsumexp(1))


@torch.no_grad()
def test_the_bound_is_below_that_of_brute_force_and_below_the_likelihood():
    vae, batch, num = linear(error=0.15).eval(), features(20), 4000
    due, many = log_px_of_each_label(vae, batch.y).logsumexp(1), repeated(batch, num)
    each = [vae.bound(many, inferred).terms.elbo for inferred in vae.inferences(many.y, torch.randn(20 * num, Z))]
    conditional = torch.stack(each, dim=1).view(20, num, L).mean(1)  # log p(c) + elbo_c
    mean = vae(many).terms.elbo.view(20, num).mean(1)
    assert (mean < conditional.logsumexp(1) + 0.08).all()
    torch.testing.assert_close(mean, conditional.logsumexp(1), atol=0.15, rtol=0)  # and it loses little
    assert (conditional.logsumexp(1) < due).all()
    assert (mean < due - 0.05).all()  # what the wrong posterior costs
    torch.testing.assert_close(importance_weighted(vae, batch, 1024, 0)[1024].log_px.float(), due, atol=0.2, rtol=0)


def test_training_takes_the_given_label_or_the_mean_over_what_the_encoder_recognises():
    """M2's loss (Kingma et al. 2014, equations 6 to 9), label by label."""
    alpha, share = 0.7, 0.5
    vae, batch = linear(error=0.2, labels=share, alpha=alpha).train(), features(6)
    batch.label[:2] = torch.tensor([2, 0])
    vae._noise = lambda num: torch.zeros(num, Z)
    found = Objective(**PLAIN).loss(vae, vae(batch), batch.y, 0)
    zero = torch.zeros(6, Z)
    joint = torch.stack([vae.bound(batch, inferred).terms.elbo for inferred in vae.inferences(batch.y, zero)], dim=1)
    log_q = vae.networks.see(batch.y).logits.log_softmax(1)
    unlabelled = (log_q.exp() * (joint - log_q)).sum(1)[2:]
    labelled = joint[[0, 1], [2, 0]]
    due = -(unlabelled.sum() + labelled.sum()) / 6 - alpha / share * log_q[[0, 1], [2, 0]].sum() / 6
    torch.testing.assert_close(found, due)
    weights = [vae.networks.inner.logits, vae.networks.shift, vae.prior.logits]
    for got, expected in zip(torch.autograd.grad(found, weights), torch.autograd.grad(due, weights), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    vae.labels, batch = 1.0, features(5, label=1)  # with all labels known, training is the bound given the label
    result = vae(batch)
    due = vae.bound(batch, [*vae.inferences(batch.y, torch.zeros(5, Z))][1]).terms.elbo
    torch.testing.assert_close(result.terms.elbo, due)
    assert len(result.inferred.z) == 5


def test_a_few_labels_and_clusters_are_enough_to_recognise_the_rest():
    centres, vae = 3 * torch.randn(L, D), linear(error=0.0, labels=0.02, alpha=30.0).train()
    vae.networks.inner.b = nn.Parameter(torch.zeros(L, D))
    label = torch.arange(300) % L
    y = centres[label] + 0.5 * torch.randn(300, D)
    told = torch.where(torch.arange(300) < 6, label, -1)
    batch, optimizer = (
        Features(y, torch.zeros(300, 1), torch.zeros(300), told),
        torch.optim.Adam(vae.parameters(), 0.05),
    )
    for _ in range(150):
        optimizer.zero_grad()
        Objective(**PLAIN).loss(vae, vae(batch), y, 0).backward()
        optimizer.step()
    assert (vae.eval().labels_of(y) == label).float().mean() > 0.95


SMALL_CONV = ("condition=digit", "model=conv", "model.width=4", "model.max_width=8", "model.latent_dim=2")


@pytest.mark.parametrize(
    ("prior", "chosen"),
    [*((name, SMALL) for name in options("prior") if name != "vamp"), ("standard", SMALL_CONV)],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
@torch.no_grad()
def test_every_network_and_prior_scores_an_image_alone_as_in_a_batch(prior, chosen):
    steps = ["prior.num_steps=5"] if prior in ("flow", "two_stage") else []
    vae = build_vae(composed(f"prior={prior}", *QUICK.get(prior, ()), *chosen, *steps)).eval()
    assert vae.num_labels == 10
    if vae.prior.is_fitted_last:
        z = torch.cat([torch.randn(300, 2), torch.eye(10).repeat(30, 1)], dim=1)
        vae.prior.fit(z, torch.full((300, 2), -2.0), seed=0)
        assert vae.prior.is_fitted
    for buffer in vae.representation.buffers():
        buffer.fill_(0.5)
    y = torch.rand(6, *vae.representation.event_shape)
    batch = Features(y, torch.rand(6, vae.representation.residual.num_bands), torch.zeros(6), torch.full((6,), -1))
    noise = torch.randn(6, 2)
    vae._noise = lambda num: noise[:num]
    together = vae(batch).terms.elbo
    assert together.isfinite().all()
    vae._noise = lambda num: noise[3:4]
    alone = vae(Features(*(array[3:4] for array in batch))).terms.elbo
    torch.testing.assert_close(alone, together[3:4], rtol=1e-4, atol=1e-2)
    z = vae.prior.sample(50, torch.Generator().manual_seed(0), 1.0)
    assert z.shape == (50, 12)
    assert (z[:, 2:].sum(1) == 1).all()
    assert vae.prior.log_prob(z).isfinite().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=ladder"], r"condition=digit needs one level of latents, .* got Ladder: use condition=none"),
        (["model=dense", "model.sampling_bug=true"], r"condition=digit needs .* without model\.sampling_bug"),
        (["prior=vamp"], r"prior=vamp .* with condition=digit use prior=mixture"),
        (["condition.alpha=-1"], r"condition\.alpha must be 0 or more, got -1"),
        (["labels=0"], r"labels must be .* above 0"),
    ],
)
def test_what_cannot_be_told_the_digit_is_refused_in_a_line(words, message):
    job = jobs_of(["condition=digit", "network_scale=0.03125", *words], is_sweep=False)[0]
    said = job.wrong or job.impossible
    assert "\n" not in said
    assert re.search(message, said), said


def test_a_share_of_the_labels_is_drawn_evenly_and_always_the_same():
    labels = torch.randint(0, 10, (2000,), dtype=torch.uint8)
    told = known_labels(labels, 0.02)
    assert torch.equal(told, known_labels(labels, 0.02))
    assert torch.equal(told[told >= 0], labels[told >= 0].long())
    assert torch.bincount(told[told >= 0]).tolist() == [4] * 10
    assert torch.equal(known_labels(labels, 1.0), labels.long())


@torch.no_grad()
def test_its_pictures_show_a_row_of_each_digit(tmp_path):
    cfg = composed(*SMALL, "data=synthetic", "data.num_train=300", "data.num_test=100")
    vae = build_vae(cfg).eval()
    for buffer in vae.representation.buffers():
        buffer.fill_(0.01)
    assert "digits" in possible(vae)
    save_representation(vae, RunFolder(tmp_path / "study" / "run"))
    assert stored_shapes(RunFolder(tmp_path / "study" / "run").representation) == ((3, 32, 32), 10)
    dataset = load_once(make("data", cfg.data))
    for name in ("digits", "samples", "interpolations", "traversals", "arithmetic", "analogies"):
        assert draw(Subject(vae, dataset, "a run", 0, 1.0), name).ndim == 3
