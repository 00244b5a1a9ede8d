"""The importance-weighted bound (Burda et al. 2016): the nearer to log p(x) the more samples, on average never above.

    log w = log p(y | z) + log p(r | z) + log |dy/dx| + log p(z) - log q(z | y),    z ~ q(z | y)
    log p(x) >= E log mean w_1..w_k, which is the elbo at k = 1 and log p(x) as k goes to infinity

Shapes: B images, Z latent dimensions. Units: nats per image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.seeds import Stream, derive_seed


class Estimate(NamedTuple):
    """Of B images, by k samples each."""

    log_px: Tensor  # (B,) float64: the log of the mean weight
    effective_sample_size: Tensor  # (B,) float64, 1..k: (sum of w)^2 / sum of w^2; near 1, one sample decides


@torch.no_grad()
def importance_weighted(vae: VAE, features: Features, num_samples: int, batch_index: int) -> dict[int, Estimate]:
    """k -> the estimate from the first k samples, k = 1, 2, 4, ... and num_samples.

    In the memory of a single pass, however many samples. The noise derives from the batch's index and the sample's.
    """
    zero_weight = features.log_det.new_full((len(features.y),), -torch.inf, dtype=torch.float64)
    log_sum, log_sum_of_squares, curve = zero_weight, zero_weight, {}
    for num_drawn in range(1, num_samples + 1):
        log_w = log_weight(vae, features, latent_noise(vae, len(features.y), batch_index, num_drawn))
        log_sum = log_sum.logaddexp(log_w)
        log_sum_of_squares = log_sum_of_squares.logaddexp(2 * log_w)
        if num_drawn == num_samples or num_drawn.bit_count() == 1:  # a power of two
            log_count = torch.tensor(num_drawn, dtype=torch.float64).log().to(log_sum.device)
            curve[num_drawn] = Estimate(log_sum - log_count, (2 * log_sum - log_sum_of_squares).exp())
    return curve


def log_weight(vae: VAE, features: Features, noise: Tensor) -> Tensor:
    """Features of B images, noise (B, Z) of N(0, I) -> log w (B,) float64 of one sample each."""
    inferred = vae.networks(features.y, noise)
    # -log q(z | y), where z = mean + sigma * noise: nothing is divided by sigma.
    minus_log_q = 0.5 * (noise.square() + inferred.log_variance + math.log(2 * math.pi)).double().sum(1)
    log_ratio = vae.prior.log_prob(inferred.z).double() + minus_log_q
    log_likelihood = vae.variance(inferred.params).log_prob(features.y)
    residual = vae.representation.residual.log_prob(features.residual, inferred.image_params)
    return log_likelihood.double() + residual + features.log_det + log_ratio


def latent_noise(vae: VAE, num_images: int, *place: int) -> Tensor:
    """(B, Z) of N(0, I), drawn on the CPU: alike on any machine."""
    generator = torch.Generator().manual_seed(derive_seed(Stream.IMPORTANCE_SAMPLES, *place))
    return torch.randn(num_images, vae.networks.latent_dim, generator=generator).to(vae.device)
