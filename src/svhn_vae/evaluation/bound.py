"""The bound's metrics of a split, from passes of its batches: of validation, of test, and of what training saw.

Shapes: B images, Z latent dimensions. Units: nats per image unless a name says otherwise.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import ElboTerms, bits_per_dim
from svhn_vae.model.vae import VAE, Pass
from svhn_vae.seeds import Stream, derive_seed, seeded


def evaluation_pass(vae: VAE, batch: Features, batch_idx: int) -> Pass:
    """With the same latent noise at every evaluation; training's is left alone."""
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


def summarise(split: str, evaluated: list[dict[str, Tensor]], *, num_dims: int | None) -> dict[str, Tensor]:
    """What `evaluate` gave for the batches of a split -> the split's metrics."""
    whole = {name: torch.cat([batch[name] for batch in evaluated]) for name in evaluated[0]}
    bounds = bound_metrics(split, whole.pop("per_image").mean(0), num_dims=num_dims)
    # Active units: latents whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016).
    active = (whole.pop("posterior_mean").var(0, correction=0) > 0.01).sum().float()
    standing = {f"{split}/sigma/{name}": value.mean() for name, value in whole.items()}
    return {**bounds, f"{split}/active_units": active, **standing}


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
