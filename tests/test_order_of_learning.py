"""Explained variance by component: known reconstructions, and a callback that survives a continuation."""

import io
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from scipy.stats import spearmanr

from svhn_vae.evaluation.order_of_learning import (
    MAX_GROUPS,
    component_groups,
    draw,
    explained_variance,
    rank_correlation,
)
from svhn_vae.training.callbacks import OrderOfLearning
from test_lit import features, fitted, fitted_module


def test_groups_are_few_and_in_order_and_the_first_components_stand_alone():
    """Of images they are rings of frequencies."""
    for size in (1, 2, 500, 3072):
        groups = component_groups(torch.Size([size]))
        assert groups[0] == 0
        assert set(groups.diff().tolist()) <= {0, 1}
        assert groups.max() < MAX_GROUPS
        assert (groups[: min(size, 3)] == torch.arange(min(size, 3))).all()
    groups = component_groups(torch.Size([3, 32, 32])).view(3, 32, 32)
    assert (groups == 0).sum() == 3
    assert groups[1, 0, 7] == groups[2, 7, 0] == 7
    assert groups[0, 3, 4] == 5
    assert groups.unique().tolist() == list(range(groups.max() + 1))


@pytest.mark.parametrize("overrides", [(), ("model=conv", "variance=shared", "network_scale=0.03125")])
def test_what_is_reconstructed_is_explained(overrides, monkeypatch):
    """From as well as possible to as well as by the mean; on components and, of pixels, on frequencies."""
    module = (fitted(*overrides) if overrides else fitted_module()).eval()
    batch = features(module, 50)
    mean = batch.y.mean(0)
    for share in (1.0, 0.5, 0.0):
        reconstruction = mean + share * (batch.y - mean)
        monkeypatch.setattr(module.vae.variance, "forward", lambda _, y=reconstruction: SimpleNamespace(mean=y))
        explained = explained_variance(module.vae, batch)
        torch.testing.assert_close(explained, torch.full_like(explained, 1 - (1 - share) ** 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("event_shape", "epochs"), [((1,), [1]), ((500,), [1, 2, 3, 5]), ((3, 32, 32), [20, 40])])
def test_the_plot_is_a_picture(event_shape, epochs):
    num_groups = int(component_groups(torch.Size(event_shape)).max()) + 1
    picture = draw(epochs, torch.rand(len(epochs), num_groups), torch.Size(event_shape), "caption")
    assert picture.shape[2] == 3
    assert picture.std() > 10


EPOCHS = torch.tensor([1, 2, 3, 5])


def test_the_correlation_is_scipys():
    """One for groups that are learnt in their order; the last one is not learnt and does not count."""
    explained = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.5, 0.0], [0.9, 0.8, 0.6, 0.05]])
    assert rank_correlation(EPOCHS, explained) == pytest.approx(1)
    assert rank_correlation(EPOCHS, explained.flip(1)) == pytest.approx(-1)
    shared = torch.tensor([[0.5, 0.6, 0.0, 0.0], [0.5, 0.6, 0.0, 0.7], [0.5, 0.6, 0.7, 0.7], [0.5, 0.6, 0.7, 0.7]])
    assert rank_correlation(EPOCHS, shared) == pytest.approx(spearmanr([0, 1, 2, 3], [1, 1, 3, 2]).statistic)
    for few in (torch.zeros(4, 5), torch.tensor([[0.9, 0.9, 0.0]] * 4), torch.ones(4, 5)):  # groups, or one epoch
        assert rank_correlation(EPOCHS, few) is None


class TestCallback:
    def setup_method(self) -> None:
        self.module = fitted_module().eval()
        self.batch = features(self.module)

    def validate(self, callback: OrderOfLearning, epochs: range, fn: TrainerFn = TrainerFn.FITTING) -> None:
        datamodule = SimpleNamespace(val_dataloader=lambda: [self.batch])
        for epoch in epochs:
            state = SimpleNamespace(fn=fn)
            trainer = SimpleNamespace(state=state, current_epoch=epoch, datamodule=datamodule, is_global_zero=True)
            callback.on_validation_end(trainer, self.module)

    def test_a_long_training_leaves_few_columns(self):
        callback = OrderOfLearning(times_per_doubling=6)
        self.validate(callback, range(300))
        epochs = callback.state_dict()["epochs"]
        assert epochs[:8] == list(range(1, 9))
        assert len(epochs) < 40
        assert max(epochs) > 260

    def test_a_continued_run_goes_on_where_it_was(self):
        alone, before, after = (OrderOfLearning(times_per_doubling=2) for _ in range(3))
        self.validate(alone, range(20))
        self.validate(before, range(9))
        file = io.BytesIO()
        torch.save(before.state_dict(), file)
        file.seek(0)
        after.load_state_dict(torch.load(file, weights_only=True))
        self.validate(after, range(9, 20))
        assert after.state_dict()["epochs"] == alone.state_dict()["epochs"]
        assert len(after.state_dict()["explained"]) == len(alone.state_dict()["epochs"])

    def test_only_training_counts(self):
        callback = OrderOfLearning(times_per_doubling=6)
        self.validate(callback, range(3), TrainerFn.VALIDATING)
        assert callback.state_dict()["epochs"] == []
