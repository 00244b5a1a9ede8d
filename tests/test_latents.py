"""What the latents say, against closed forms."""

import math

import pytest
import torch

from svhn_vae.evaluation.latents import mutual_information, of_the_aggregate, readers
from svhn_vae.model.elbo import kl_to_standard_normal

NUM_IMAGES = 2000


def sampled(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def test_of_exact_posteriors_the_information_is_the_channels_and_the_aggregate_is_the_prior():
    variance = torch.tensor([0.2, 0.5, 0.9])  # of posteriors whose means vary by the rest, so that q(z) = N(0, I)
    mean = torch.randn(NUM_IMAGES, 3) * (1 - variance).sqrt()
    log_variance = variance.log().expand(NUM_IMAGES, 3)
    kl = kl_to_standard_normal(mean, log_variance).sum(1)
    found = of_the_aggregate(mean, log_variance, sampled(mean, log_variance), kl)
    assert found["mutual_information"] == pytest.approx(-0.5 * variance.log().sum().item(), abs=0.06)
    assert found["aggregate_kl"] == pytest.approx(0, abs=0.06)


def test_collapsed_posteriors_say_nothing_and_their_aggregate_is_as_far_off_as_each():
    mean, log_variance = torch.full((NUM_IMAGES, 2), 1.5), torch.full((NUM_IMAGES, 2), -0.3)
    kl = kl_to_standard_normal(mean, log_variance).sum(1)
    found = of_the_aggregate(mean, log_variance, sampled(mean, log_variance), kl)
    assert found["mutual_information"] == pytest.approx(0, abs=1e-9)
    assert found["aggregate_kl"] == pytest.approx(kl_to_standard_normal(mean[:1], log_variance[:1]).sum().item())


def test_the_chunks_are_all_pairs_and_posteriors_far_apart_say_which_image_it_is():
    mean, log_variance = torch.randn(1203, 4), torch.randn(1203, 4)
    z = sampled(mean, log_variance)
    posteriors = torch.distributions.Normal(mean.double(), (0.5 * log_variance.double()).exp())
    log_q = posteriors.log_prob(z.double()[:, None]).sum(2)
    expected = (log_q.diagonal() - log_q.logsumexp(1) + math.log(1203)).mean().item()
    assert mutual_information(mean, log_variance, z) == pytest.approx(expected)
    mean = 1000 * torch.arange(1203.0)[:, None].expand_as(mean)
    assert mutual_information(mean, log_variance, sampled(mean, log_variance)) == pytest.approx(math.log(1203))


def test_labels_are_read_from_codes_that_have_them():
    codes = torch.randn(600, 8)
    labels = (codes[:, 2] > 0).byte() + 2 * (codes[:, 5] > 0).byte()
    for place, right in (([2, 5], (0.8, 1)), ([0, 1], (0, 0.4))):
        for reader in readers(codes[:300, place].numpy(), labels[:300]).values():
            share = (reader.predict(codes[300:, place].numpy()) == labels[300:].numpy()).mean()
            assert right[0] <= share <= right[1]
