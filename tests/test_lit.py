"""The module's loss and metrics: divergence, the metrics' meaning, and one golden loss."""

import math

import pytest
import torch

from conftest import composed, options
from svhn_vae.errors import Diverged
from svhn_vae.evaluation.bound import evaluate, split_metrics, summarise
from svhn_vae.experiment import run as job
from svhn_vae.experiment.build import build_module
from svhn_vae.model.coordinates import Features
from svhn_vae.model.covariance import Moments
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.seeds import Stream, derive_seed, seed_device
from svhn_vae.training.module import LitVAE
from svhn_vae.training.update import Record
from test_checkpoints import tiny_job
from test_variance import accepts

SMALL = ("network_scale=0.03125", "pca.n_components=20")


def fitted_module(*overrides: str) -> LitVAE:
    """A small module whose representation, a PCA, is fitted on uniform pixels."""
    return fitted(*SMALL, *overrides)


def fitted(*overrides: str) -> LitVAE:
    module = build_module(composed(*overrides))
    module.vae.representation.fit(MOMENTS)
    return module


# Of independent uniform pixels, exactly.
MOMENTS = Moments(
    torch.full((3072,), 0.5).double(),
    torch.eye(3072),
    torch.full((3072,), 1 / 12).double(),
    torch.tensor(math.inf),
    torch.tensor(256.0),  # 3072 / 12
)


def features(module: LitVAE, num: int = 8) -> Features:
    return module.vae.representation(torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(4)))


def loss_of(module: LitVAE, batch: Features) -> torch.Tensor:
    return module.objective(module.vae, batch, torch.zeros(()))[1]


CHOSEN = [
    *((f"variance={name}", *SMALL) for name in options("variance") if accepts(name, (20,))),
    *((f"variance={name}", "model=conv") for name in options("variance") if not accepts(name, (20,))),
    *(("variance=logvar", *SMALL, f"pca.residual={residual}") for residual in ("isotropic", "scaled")),
    ("variance=logvar", "model=conv"),
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=" ".join)
def test_the_loss_is_the_negative_elbo_and_its_gradients_are_finite(chosen):
    module = fitted("objective=elbo", *chosen)
    batch = features(module)
    torch.manual_seed(0)
    loss = loss_of(module, batch)
    torch.manual_seed(0)
    result = module.vae(batch)
    penalty = module.vae.variance.penalty(result.inferred.params)
    assert loss.item() == pytest.approx((penalty - result.terms.elbo).mean().item(), rel=1e-3)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_evaluation_scores_an_image_alone_as_in_a_batch():
    module = fitted_module("pca.residual=scaled").eval()
    module.vae.networks.posterior_log_variance[-1].bias.data.fill_(-60.0)  # z is the posterior's mean
    batch = features(module)
    together = evaluate(module.vae, module.vae(batch))["per_image"]
    images = [Features(*(array[i : i + 1] for array in batch)) for i in range(8)]
    alone = [evaluate(module.vae, module.vae(image))["per_image"] for image in images]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-2)


def test_summary_is_the_mean_over_images_whatever_the_batches():
    module = fitted_module().eval()
    batch = features(module)
    whole = evaluate(module.vae, module.vae(batch))
    parts = [{name: value[cut] for name, value in whole.items()} for cut in (slice(0, 3), slice(3, 8))]
    one, two = (summarise("val", batches, num_dims=3072) for batches in ([whole], parts))
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name])
    torch.testing.assert_close(one["val/bits_per_dim"], bits_per_dim(one["val/elbo"], 3072))


def test_active_units_counts_latents_whose_posterior_mean_varies():
    means = torch.zeros(100, 4)
    means[:, 1] = torch.linspace(-1, 1, 100)
    means[:, 2] = 3.0 + 0.05 * torch.linspace(-1, 1, 100)
    evaluated = [{"per_image": torch.zeros(100, 5), "posterior_mean": means}]
    assert summarise("val", evaluated, num_dims=3072)["val/active_units"] == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_splits_metrics_are_those_of_the_trainers_validation(precision, tmp_path):
    """In float32, whatever it is trained in."""
    whole = tiny_job(
        tmp_path / "run", "trainer.max_epochs=1", "objective=elbo", "prior=standard", f"trainer.precision={precision}"
    )
    job.train(whole)
    [due] = whole.trainer.validate(whole.module, datamodule=whole.data, verbose=False)
    del due["epoch"], due["step"]
    objective = due.pop("val/objective")
    assert split_metrics(whole.module.vae, whole.data.val_dataloader(), "val") == pytest.approx(due)
    assert objective == pytest.approx(due["val/negative_elbo"])


def test_a_splits_metrics_that_are_not_finite_are_none():
    module = fitted_module()
    torch.nn.init.constant_(next(module.vae.networks.parameters()), math.nan)
    found = split_metrics(module.vae, [features(module)], "seen")
    assert found["seen/elbo"] is found["seen/bits_per_dim"] is None
    assert found["seen/log_det"] == pytest.approx(features(module).log_det[0].item())
    assert not module.vae.training


def test_a_loss_that_is_not_finite_is_no_part_of_the_epochs_mean(monkeypatch):
    """Its update was left out."""
    module, logged = fitted_module(), {}
    monkeypatch.setattr(module, "log_dict", lambda found, **_: logged.update(found))
    losses = torch.tensor([1.0, math.nan, 3.0, math.inf])
    module._records = [Record((~losses.isfinite()).float(), losses, losses[:, None].expand(4, 6))]
    module.on_train_epoch_end()
    assert logged["train/objective"] == 2
    assert logged["train/kl"] == 2


def test_weights_that_are_not_finite_are_divergence(monkeypatch):
    module = fitted_module()
    monkeypatch.setattr(LitVAE, "global_step", 12)
    next(module.vae.networks.parameters()).data[0] = math.nan
    with pytest.raises(Diverged, match="the weights were not finite after step 12") as error:
        module.on_train_epoch_end()
    assert error.value.step == 12


GOLDEN_LOSS = 1078.822509765625


def test_golden_loss():
    """The loss of a fixed model on fixed features. It moves only if the bound, a head or a network changes; if that is
    meant, say so in the commit and take the new value."""
    module = fitted_module("seed=5", "objective=elbo")
    seed_device(torch.device("cpu"), derive_seed(Stream.STEP, 5, 0))
    assert loss_of(module, features(module)).item() == pytest.approx(GOLDEN_LOSS, rel=1e-5)
