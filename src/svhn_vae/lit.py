"""The Lightning module: the loss, what is logged, the optimiser. It does not know which model it trains.

Loss and metrics are those of `elbo.py`: -elbo, in nats, averaged over the images of a batch. Metrics stay on the device
and are logged once an epoch: a `self.log` in each step costs more than a step of a small network.
"""

from collections.abc import Callable

import lightning as L  # noqa: N812  its usual name
import torch
from torch import Tensor

from svhn_vae.elbo import ElboTerms, bits_per_dim
from svhn_vae.representation import Features
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.vae import VAE, Pass

NUM_DIMS = 3 * 32 * 32


class Diverged(ArithmeticError):
    """The loss or the weights are not finite. A result of the run, not a fault of the program."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step = step


class LitVAE(L.LightningModule):
    """Trains a VAE by its bound; validates and tests with the same bound."""

    def __init__(self, vae: VAE, optimizer: Callable[..., torch.optim.Optimizer], *, seed: int) -> None:
        super().__init__()
        self.vae, self.optimizer, self.seed = vae, optimizer, seed
        self._losses: list[Tensor] = []  # of this epoch, on the device
        self._terms: list[Tensor] = []
        self._evaluated: list[dict[str, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.vae.parameters())

    def on_train_batch_start(self, batch: Features, batch_idx: int) -> None:
        torch.manual_seed(derive_seed(Stream.STEP, self.seed, self.global_step))  # latent noise and dropout

    def training_step(self, batch: Features, batch_idx: int) -> Tensor:
        terms = self.vae(batch).terms
        loss = -terms.elbo.mean()
        self._losses.append(loss.detach())
        self._terms.append(torch.stack([term.detach().mean() for term in terms]))
        return loss

    def on_validation_epoch_start(self) -> None:
        if self._losses:
            self._check_finite()  # before a checkpoint is written

    def on_train_epoch_end(self) -> None:
        self._check_finite()
        terms = ElboTerms(*torch.stack(self._terms).mean(0))
        self._losses.clear()
        self._terms.clear()
        self.log_dict(bound_metrics("train", terms))

    def validation_step(self, batch: Features, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def test_step(self, batch: Features, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._summary("val"))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._summary("test"))

    def _evaluate(self, batch: Features, batch_idx: int) -> None:
        with torch.random.fork_rng():  # the same latent noise at every evaluation, and training's is left alone
            torch.manual_seed(derive_seed(Stream.EVALUATION_LATENTS, batch_idx))
            self._evaluated.append(evaluate(self.vae, batch))

    def _summary(self, split: str) -> dict[str, Tensor]:
        metrics = summarise(split, self._evaluated)
        self._evaluated.clear()
        return metrics

    def _check_finite(self) -> None:
        """Raises Diverged at this epoch's first loss that is not finite, or if the weights are not; reads the device
        once or twice."""
        losses = torch.stack(self._losses)
        if not losses.isfinite().all():
            [first, *_] = (~losses.isfinite()).nonzero()[0].tolist()
            step = self.global_step - len(losses) + first
            before = f"; it was {losses[first - 1]:.1f} nats the step before" if first else ""
            raise Diverged(step, f"the loss was not finite at step {step}{before}")
        if not torch.stack([weights.isfinite().all() for weights in self.parameters()]).all():
            raise Diverged(self.global_step, f"the weights were not finite after step {self.global_step}")


def evaluate(vae: VAE, batch: Features) -> dict[str, Tensor]:
    """One batch's terms (B,), posterior means (B, Z) and sigma's standing (B,) for `summarise`."""
    result: Pass = vae(batch)
    standing = {name: value.expand(len(batch.y)) for name, value in vae.variance.standing(result.params).items()}
    return {"elbo_terms": torch.stack(result.terms, dim=1), "posterior_mean": result.posterior.mean, **standing}


def summarise(split: str, evaluated: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `evaluate` gave for the batches of a split -> the split's metrics."""
    whole = {name: torch.cat([batch[name] for batch in evaluated]) for name in evaluated[0]}
    metrics = bound_metrics(split, ElboTerms(*whole.pop("elbo_terms").mean(0)))
    # Active units: latents whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016).
    active = (whole.pop("posterior_mean").var(0, correction=0) > 0.01).sum().float()
    standing = {f"{split}/sigma/{name}": value.mean() for name, value in whole.items()}
    return {**metrics, f"{split}/active_units": active, **standing}


def bound_metrics(split: str, terms: ElboTerms) -> dict[str, Tensor]:
    """Mean terms of a split -> its metrics: bits per dimension, and the terms in nats per image."""
    named = {"bits_per_dim": bits_per_dim(terms.elbo, NUM_DIMS), "elbo": terms.elbo, **terms._asdict()}
    return {f"{split}/{name}": value for name, value in named.items()}
