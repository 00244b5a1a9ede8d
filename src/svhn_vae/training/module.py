"""The Lightning module: the loss, what is logged, the optimiser. It does not know which model it trains.

Loss and metrics are those of `elbo.py`: -elbo, in nats, averaged over the images of a batch. Metrics stay on the device
and are logged once an epoch: a `self.log` in each step costs more than a step of a small network.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from svhn_vae.errors import Diverged
from svhn_vae.evaluation.bound import bound_metrics, evaluate, evaluation_pass, or_none, summarise
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.seeds import Stream, derive_seed, seed_device
from svhn_vae.training.objective import Objective
from svhn_vae.training.update import Record, Schedule, Skips, Update


class LitVAE(L.LightningModule):
    """Trains a VAE by its bound, and validates with the same bound.

    A training step is several updates of the weights, one for each batch that it is given: what Lightning does around
    a step takes longer than an update of a small network on a GPU, and so does a look at what came out.
    """

    automatic_optimization: bool = False

    def __init__(
        self,
        vae: VAE,
        optimizer: functools.partial,  # of a class of torch.optim
        objective: Objective,
        skips: Skips,
        schedule: Schedule,
        *,
        seed: int,
        clip: float | None,
        compile_mode: str | None,
    ) -> None:
        super().__init__()
        self.vae, self.optimizer, self.objective, self.seed = vae, optimizer, objective, seed
        self.skips, self.schedule = skips, schedule
        self._update_settings = {
            "clip": clip,
            "compile_mode": compile_mode,
            "max_gradient_norm": skips.max_gradient_norm,
        }
        self._update: Update | None = None  # of this fit
        self._records: list[Record] = []  # of this epoch, on the device
        self._evaluated: list[dict[str, Tensor]] = []  # of this validation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights = [parameter for parameter in self.vae.parameters() if parameter.requires_grad]
        return self.optimizer(weights, **as_fused(self.optimizer, weights[0].device))

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:  # the first process alone has fitted the basis
            for buffer in self.vae.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_train_start(self) -> None:
        optimizer: Any = self.optimizers()  # one
        self._update = Update(
            self.vae,
            self.objective,
            optimizer.optimizer,
            backward=self.manual_backward,
            step=optimizer.step,
            mean=functools.partial(self.trainer.strategy.reduce, reduce_op="mean"),
            **self._update_settings,
        )
        num_steps = self.trainer.max_epochs * updates_per_epoch(self.trainer)  # pyright: ignore[reportOptionalOperand]
        for group in optimizer.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # kept in the optimiser's state, so that a continuation has it
        self._rate = LambdaLR(
            optimizer.optimizer, lambda step: self.schedule.factor(step, num_steps), last_epoch=self.global_step - 1
        )

    def on_train_epoch_start(self) -> None:
        self.skips.begin_epoch()
        self._epoch = torch.tensor(float(self.current_epoch), device=self.device)  # a number would be compiled anew

    def training_step(self, batches: Sequence[Features], batch_idx: int) -> None:
        first, records = self.global_step, []
        # Latent noise and dropout. All at once: between updates, with other things in the caches, it takes 0.1 ms each.
        rank = self.global_rank  # of several processes each draws for its own rows
        seeds = [derive_seed(Stream.STEP, self.seed, first + index, rank) for index in range(len(batches))]
        for batch, seed in zip(batches, seeds, strict=True):
            seed_device(self.vae.device, seed)
            records.append(self._update(batch, self._epoch))  # pyright: ignore[reportOptionalCall]
            self._rate.step()
        self._records.append(Record(*map(torch.stack, zip(*records, strict=True))))
        self._note(first, self._records[-1])
        if self.skips.are_too_many:
            raise self._diverged(batches[-1])
        self._latest = batches[-1]

    def on_validation_epoch_start(self) -> None:
        self._share_statistics()
        if self._records:
            self._check_finite()  # before a checkpoint is written

    def on_train_epoch_end(self) -> None:
        self._share_statistics()
        self._check_finite()
        if self.skips.are_all_of_an_epoch:
            raise self._diverged(self._latest)
        epoch = Record(*map(torch.cat, zip(*self._records, strict=True)))
        self._records.clear()
        made = epoch.means[epoch.loss.isfinite()]  # the updates of the others were left out
        objective, *terms = made.T.contiguous().mean(1)
        bound = bound_metrics("train", torch.stack(terms), num_dims=self.vae.num_dims)
        found: dict[str, Any] = {"train/objective": objective, **bound}
        sizes = epoch.size[epoch.size.isfinite()]
        if len(sizes):
            found["train/gradient_norm"] = sizes[-1]
        if self.skips.max_gradient_norm is not None or self.skips.num_skipped:
            found["train/skipped_updates"] = float(self.skips.num_skipped)
        self._log(found)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skips"] = self.skips.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skips.load_state_dict(checkpoint["skips"])

    def validation_step(self, batch: Features, batch_idx: int) -> None:
        is_own = batch_idx % self.trainer.world_size == self.global_rank
        if not is_own:  # another process's: a pass of one image, of which nothing is counted
            batch = Features(*(array[:1] for array in batch))
        with torch.autocast(self.device.type, enabled=False):  # in float32, as the final score
            result = evaluation_pass(self.vae, batch, batch_idx)
            found = evaluate(self.vae, result)
            objective = self.objective.loss(self.vae, result, batch.y, self.trainer.max_epochs)  # after any warm-up  # pyright: ignore[reportArgumentType]
        found["objective"] = objective.expand(len(batch.y))
        self._evaluated.append(found if is_own else {name: value[:0] for name, value in found.items()})

    def on_validation_epoch_end(self) -> None:
        total = self._total if self.trainer.world_size > 1 else lambda sums: sums
        objectives = torch.cat([batch.pop("objective") for batch in self._evaluated]).cpu().double()
        num, objective = total(torch.stack([torch.ones_like(objectives).sum(), objectives.sum()]))
        found = summarise("val", self._evaluated, num_dims=self.vae.num_dims, total=total)
        self._log({**found, "val/objective": (objective / num).float()})
        self._evaluated.clear()

    def _total(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum").cpu()

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Gives all processes the mean of their running averages, which each has of its own images."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        for statistic in (*self.vae.networks.buffers(), *self.vae.variance.buffers()):
            if statistic.is_floating_point():
                statistic.copy_(self.trainer.strategy.reduce(statistic.clone(), reduce_op="mean"))

    def _log(self, metrics: dict[str, Any]) -> None:
        """At the last update, because Lightning counts training steps. All processes of a run log the same."""
        place = {"epoch": float(self.current_epoch), "step": float(self.global_step - 1)}
        self.log_dict(metrics | place, sync_dist=True)

    def _note(self, first: int, record: Record) -> None:
        """Reads the device, once for all updates of a step."""
        rows = torch.stack([record.is_left_out, record.loss, record.size], dim=1).tolist()
        for step, (is_left_out, loss, size) in enumerate(rows, first):
            self.skips.note(step, is_left_out=bool(is_left_out), loss=loss, size=size)

    def _diverged(self, batch: Features) -> Diverged:
        state = {
            "last_finite_loss": self.skips.last_finite_loss,
            "num_skipped": self.skips.num_skipped,
            "head": head_state(self.vae, batch),
        }
        return Diverged(self.skips.first_in_a_row, self.skips.in_words(), state)

    def _check_finite(self) -> None:
        """Raises Diverged if the weights are not finite; reads the device once."""
        if not torch.stack([weights.isfinite().all() for weights in self.parameters()]).all():
            raise Diverged(self.global_step, f"the weights were not finite after step {self.global_step}")


@torch.no_grad()
def head_state(vae: VAE, batch: Features) -> dict[str, float | None]:
    """Where sigma stands on a batch, with its range in units of y, over the elements where it is finite; None where
    there are none."""
    was_training = vae.training
    result = evaluation_pass(vae.eval(), batch, 0)
    vae.train(was_training)
    sigma = result.likelihood.stddev.flatten()
    finite = sigma[sigma.isfinite()]
    found = {
        **vae.variance.standing(result.inferred.params),
        "sigma_finite_fraction": sigma.isfinite().float().mean(),
        "sigma_min": finite.min() if len(finite) else sigma.new_tensor(math.nan),
        "sigma_max": finite.max() if len(finite) else sigma.new_tensor(math.nan),
    }
    return {name: or_none(value.float().mean().item()) for name, value in found.items()}


def as_fused(optimizer: functools.partial, device: torch.device) -> dict[str, bool]:
    """The setting of torch's Adam and AdamW for one kernel that makes a whole update, where the device has it; or {}.

    On a CPU it is several times faster than the usual one, a quarter of a small network's step. SGD's is left alone: if
    its very first update is left out, its momentum is memory that nobody has written (torch 2.13).
    """
    has_it = issubclass(optimizer.func, torch.optim.Adam | torch.optim.AdamW) and device.type in ("cpu", "cuda")  # pyright: ignore[reportArgumentType]
    return {"fused": True} if has_it else {}


def updates_per_epoch(trainer: L.Trainer) -> int:
    batches = trainer.train_dataloader
    return min(batches.num_batches, batches.per_step * trainer.num_training_batches)
