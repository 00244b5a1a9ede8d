"""The bound on log p(x): a split's metrics from one sample per image, and the importance-weighted bound.

The latter (Burda et al. 2016) comes nearer to log p(x) with more samples, and is on average never above it.

    log w = log p(y | z) + log p(r | z) + log |dy/dx| + log p(z) - log q(z | y),    z ~ q(z | y)
    log p(x) >= E log mean w_1..w_k, which is the elbo at k = 1 and log p(x) as k goes to infinity

Shapes: B images, Z latent dimensions. Units: nats per image unless a name says otherwise.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import ElboTerms, bits_per_dim
from svhn_vae.model.networks import Inferred
from svhn_vae.model.vae import VAE, Pass
from svhn_vae.seeds import Stream, derive_seed, seeded


def evaluation_pass(vae: VAE, batch: Features, batch_idx: int) -> Pass:
    """With the same latent noise at every evaluation; the noise of training is left alone."""
    with seeded(vae.device, derive_seed(Stream.EVALUATION_LATENTS, batch_idx)):
        return vae(batch)


def per_image(result: Pass) -> tuple[Tensor, ...]:
    """The terms of the bound and the post's loss of each image, (B,) each."""
    return (*result.terms, result.kl_in_loss - result.terms.log_likelihood)


def evaluate(vae: VAE, result: Pass) -> dict[str, Tensor]:
    """One batch's `per_image` (B, 5), posterior means (B, Z) and sigma's standing (B,)."""
    standing = vae.variance.standing(result.inferred.params)
    return {
        "per_image": torch.stack(per_image(result), dim=1),
        "posterior_mean": result.inferred.mean,
        **{name: value.expand(len(result.terms.kl)) for name, value in standing.items()},
    }


def bound_metrics(split: str, means: Tensor, *, num_dims: int | None) -> dict[str, Tensor]:
    """Means of `per_image` over a split -> its metrics: bits per dimension of a density, and nats per image.

    num_dims: `vae.num_dims`, None where the bound is of no density.
    """
    terms, post_loss = ElboTerms(*means[:-1]), means[-1]
    named = {"elbo": terms.elbo, "negative_elbo": -terms.elbo, **terms._asdict(), "post_loss": post_loss}
    if num_dims is not None:
        named["bits_per_dim"] = bits_per_dim(terms.elbo, num_dims)
    return {f"{split}/{name}": value for name, value in named.items()}


def summarise(
    split: str,
    evaluated: list[dict[str, Tensor]],
    *,
    num_dims: int | None,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, Tensor]:
    """What `evaluate` gave for the batches of a split -> the split's metrics.

    total: of sums over the images of a process -> those over the images of all.
    """
    whole = {name: torch.cat([batch[name] for batch in evaluated]).cpu().double() for name in evaluated[0]}
    whole["square"] = whole["posterior_mean"].square()
    columns = {name: each.view(len(each), each.shape[1:].numel()) for name, each in whole.items()}
    table = torch.cat(list(columns.values()), dim=1)
    num, sums = total(torch.cat([table.new_tensor([len(table)]), table.sum(0)])).split([1, table.shape[1]])
    means = dict(zip(columns, (sums / num).split([each.shape[1] for each in columns.values()]), strict=True))
    bounds = bound_metrics(split, means.pop("per_image"), num_dims=num_dims)
    # Active units: latents whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016).
    active = (means.pop("square") - means.pop("posterior_mean").square() > 0.01).sum()
    standing = {f"{split}/sigma/{name}": value.squeeze() for name, value in means.items()}
    return {name: value.float() for name, value in {**bounds, f"{split}/active_units": active, **standing}.items()}


@torch.no_grad()
def split_metrics(vae: VAE, batches: Iterable[Features], split: str) -> dict[str, float | None]:
    """A split's metrics as the Trainer's validation has them, of a model on the device of the batches; None for what
    is not finite."""
    vae.eval()
    evaluated = [evaluate(vae, evaluation_pass(vae, batch, index)) for index, batch in enumerate(batches)]
    metrics = summarise(split, evaluated, num_dims=vae.num_dims)
    return {name: or_none(value.item()) for name, value in metrics.items()}


def or_none(value: float) -> float | None:
    """JSON has no numbers that are not finite."""
    return value if math.isfinite(value) else None


class Estimate(NamedTuple):
    """Of log p(x) of B images, by k samples each."""

    log_px: Tensor  # (B,) float64: the log of the mean weight
    effective_sample_size: Tensor  # (B,) float64, 1..k: (sum of w)^2 / sum of w^2; near 1, one sample decides


@torch.no_grad()
def importance_weighted(vae: VAE, features: Features, num_samples: int, batch_index: int) -> dict[int, Estimate]:
    """k -> the estimate from the first k samples, k = 1, 2, 4, ... and num_samples.

    In the memory of a single pass, however many samples. The noise derives from the batch's index and the sample's.
    """
    zero_weight = as_double(torch.full_like(features.log_det, -torch.inf))
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
    """Features of B images, noise (B, Z) of N(0, I) -> log w (B,) float64 of one sample each; where p(x) is a sum over
    labels, of the sum of their weights."""
    weights = [of_inferred(vae, features, inferred, noise) for inferred in vae.inferences(features.y, noise)]
    return functools.reduce(torch.logaddexp, weights)


def of_inferred(vae: VAE, features: Features, inferred: Inferred, noise: Tensor) -> Tensor:
    # -log q(z | y), where z = mean + sigma * noise: nothing is divided by sigma.
    minus_log_q = as_double(0.5 * (noise.square() + inferred.log_variance + math.log(2 * math.pi))).sum(1)
    log_prior = vae.prior.log_prob(inferred.z)
    log_likelihood = vae.variance(inferred.params).log_prob(features.y)
    residual = vae.representation.residual.log_prob(features.residual, inferred.image_params)
    terms = (log_likelihood, residual, features.log_det, log_prior, minus_log_q)
    return functools.reduce(torch.add, map(as_double, terms))


def as_double(array: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none (MPS)."""
    return (array.cpu() if array.device.type == "mps" else array).double()


def latent_noise(vae: VAE, num_images: int, *place: int) -> Tensor:
    """(B, Z) of N(0, I), drawn on the CPU: alike on any machine."""
    generator = torch.Generator().manual_seed(derive_seed(Stream.IMPORTANCE_SAMPLES, *place))
    return torch.randn(num_images, vae.networks.latent_dim, generator=generator).to(vae.device)
