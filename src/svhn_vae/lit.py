"""The Lightning module: the loss, what is logged, the optimiser. It does not know which model it trains.

Loss and metrics are those of `elbo.py`: -elbo, in nats, averaged over the images of a batch. Metrics stay on the device
and are logged once an epoch: a `self.log` in each step costs more than a step of a small network.
"""

from collections.abc import Callable

import lightning as L  # noqa: N812  its usual name
import torch
from torch import Tensor

from svhn_vae.elbo import ElboTerms, bits_per_dim
from svhn_vae.objective import Objective
from svhn_vae.representation import Features
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.vae import VAE, Pass
from svhn_vae.whole_batch import mean_over_parts

NUM_DIMS = 3 * 32 * 32


class Diverged(ArithmeticError):
    """The loss or the weights are not finite. A result of the run, not a fault of the program.

    state: what is known of the moment: the last finite loss, and where the head stood.
    """

    def __init__(self, step: int, what: str, state: dict[str, object] | None = None) -> None:
        super().__init__(what)
        self.step, self.state = step, state or {}

    def __reduce__(self) -> tuple:
        return Diverged, (self.step, str(self), self.state)  # from one process of a run to another


class LitVAE(L.LightningModule):
    """Trains a VAE by its bound, and validates with the same bound."""

    def __init__(
        self, vae: VAE, optimizer: Callable[..., torch.optim.Optimizer], objective: Objective, *, seed: int
    ) -> None:
        super().__init__()
        self.vae, self.optimizer, self.objective, self.seed = vae, optimizer, objective, seed
        self._losses: list[Tensor] = []  # of this epoch, on the device
        self._terms: list[Tensor] = []
        self._evaluated: list[dict[str, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(parameter for parameter in self.vae.parameters() if parameter.requires_grad)

    def on_train_batch_start(self, batch: Features, batch_idx: int) -> None:
        torch.manual_seed(derive_seed(Stream.STEP, self.seed, self.global_step))  # latent noise and dropout

    def training_step(self, batch: Features, batch_idx: int) -> Tensor:
        result = self.vae(batch)
        loss = self.objective.loss(self.vae, result, batch.y, self.current_epoch)
        means = mean_over_parts(torch.stack([loss, *(term.mean() for term in per_image(result))]).detach())
        self._losses.append(means[0])
        self._terms.append(means[1:])
        return loss

    @property
    def latest_loss(self) -> Tensor:
        return self._losses[-1]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.is_last_batch:  # before it is clipped; of one step, because it costs a pass over all weights
            gradients = [weights.grad for weights in self.parameters() if weights.grad is not None]
            self._gradient_norm = torch.nn.utils.get_total_norm(gradients)

    def on_validation_epoch_start(self) -> None:
        if self._losses:
            self._check_finite()  # before a checkpoint is written

    def on_train_epoch_end(self) -> None:
        self._check_finite()
        losses, terms = torch.stack(self._losses), torch.stack(self._terms)
        finite = losses.isfinite()  # the updates of the others were left out
        terms, objective = terms[finite].mean(0), losses[finite].mean()
        self._losses.clear()
        self._terms.clear()
        bound = bound_metrics("train", terms, is_density=self.vae.variance.is_density)
        found = {"train/objective": objective, "train/gradient_norm": self._gradient_norm, **bound}
        self.log_dict(found, sync_dist=True)  # alike in all processes of a run, and Lightning wants to be told

    def validation_step(self, batch: Features, batch_idx: int) -> None:
        self._evaluated.append(evaluate(self.vae, evaluation_pass(self.vae, batch, batch_idx)))

    def on_validation_epoch_end(self) -> None:
        self.log_dict(summarise("val", self._evaluated, is_density=self.vae.variance.is_density), sync_dist=True)
        self._evaluated.clear()

    def _check_finite(self) -> None:
        """Raises Diverged if the weights are not finite; reads the device once."""
        if not torch.stack([weights.isfinite().all() for weights in self.parameters()]).all():
            raise Diverged(self.global_step, f"the weights were not finite after step {self.global_step}")


def per_image(result: Pass) -> tuple[Tensor, ...]:
    """The terms of the bound and the post's loss of each image, (B,) each."""
    return (*result.terms, result.kl_in_loss.sum(1) - result.terms.log_likelihood)


def evaluation_pass(vae: VAE, batch: Features, batch_idx: int) -> Pass:
    """With the same latent noise at every evaluation; training's is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(Stream.EVALUATION_LATENTS, batch_idx))
        return vae(batch)


def evaluate(vae: VAE, result: Pass) -> dict[str, Tensor]:
    """One batch's `per_image` (B, 5), posterior means (B, Z) and sigma's standing (B,)."""
    standing = vae.variance.standing(result.inferred.params)
    return {
        "per_image": torch.stack(per_image(result), dim=1),
        "posterior_mean": result.inferred.mean,
        **{name: value.expand(len(result.terms.kl)) for name, value in standing.items()},
    }


def bound_metrics(split: str, means: Tensor, *, is_density: bool) -> dict[str, Tensor]:
    """Means of `per_image` over a split -> its metrics: bits per dimension of a density, and nats per image."""
    terms, post_loss = ElboTerms(*means[:-1]), means[-1]
    named = {"elbo": terms.elbo, "negative_elbo": -terms.elbo, **terms._asdict(), "post_loss": post_loss}
    if is_density:
        named["bits_per_dim"] = bits_per_dim(terms.elbo, NUM_DIMS)
    return {f"{split}/{name}": value for name, value in named.items()}


def summarise(split: str, evaluated: list[dict[str, Tensor]], *, is_density: bool) -> dict[str, Tensor]:
    """What `evaluate` gave for the batches of a split -> the split's metrics."""
    whole = {name: torch.cat([batch[name] for batch in evaluated]) for name in evaluated[0]}
    bounds = bound_metrics(split, whole.pop("per_image").mean(0), is_density=is_density)
    # Active units: latents whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016).
    active = (whole.pop("posterior_mean").var(0, correction=0) > 0.01).sum().float()
    standing = {f"{split}/sigma/{name}": value.mean() for name, value in whole.items()}
    return {**bounds, f"{split}/active_units": active, **standing}
