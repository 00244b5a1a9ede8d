"""One update of the weights: which are left out, and that nothing stays of those; several in a step are the same."""

import functools
import math
from itertools import pairwise

import pytest
import torch

from svhn_vae.training.update import Record, Update, gradient_norm
from test_checkpoints import assert_same, left, train
from test_lit import features, fitted_module

HEADS = ["relu_eps", "optimal"]  # batch normalisation's averages; the head's own
OPTIMIZERS = ["adam", "rmsprop"]  # one that leaves updates out by itself, and one that does not
BAD = [{"spoil": math.nan}, {"factor": math.inf}]


class Small:
    """A small VAE under an optimiser, and updates of it."""

    def __init__(self, module, **settings) -> None:
        batch = features(module)
        self.module, self.batch = module, batch._replace(y=batch.y.contiguous())  # as `update` gives it: same rounding
        self.optimizer, self.factor = module.configure_optimizers(), 1.0
        ways = {"backward": self.backward, "step": self.optimizer.step, "mean": lambda values: values}
        whole = {"max_gradient_norm": None, "clip": None, "compile_mode": None, **settings}
        self.made = Update(module.vae, module.objective, self.optimizer, **ways, **whole)

    def backward(self, loss) -> None:
        (self.factor * loss).backward()

    def update(self, *, spoil: float = 0.0, factor: float = 1.0, epoch: float = 0.0) -> Record:
        """spoil: added to what is modelled; factor: on the gradient."""
        self.factor = factor
        torch.manual_seed(3)
        return self.made(self.batch._replace(y=self.batch.y + spoil), torch.tensor(epoch))

    def state(self) -> list[torch.Tensor]:
        averages = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value.clone() for value in (*self.module.state_dict().values(), *averages)]


@pytest.mark.parametrize(("head", "optimizer"), [*((head, "adam") for head in HEADS), ("optimal", "rmsprop")])
@pytest.mark.parametrize("bad", BAD)
def test_a_batch_whose_update_is_left_out_has_not_been(bad, head, optimizer):
    """Nor in running averages, which would carry it into every later pass."""
    small = Small(fitted_module(f"variance={head}", f"optimizer={optimizer}"))
    assert small.update().is_left_out == 0
    before = small.state()
    assert small.update(**bad).is_left_out == 1
    torch.testing.assert_close(small.state(), before, rtol=0, atol=0)
    assert small.update().is_left_out == 0
    assert not torch.equal(small.state()[0], before[0])
    assert all(value.isfinite().all() for value in small.state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_very_first_batch_may_be_bad(optimizer):
    small = Small(fitted_module("variance=optimal", f"optimizer={optimizer}"))
    other = Small(fitted_module("variance=optimal", f"optimizer={optimizer}"))
    small.update(spoil=math.nan)
    assert not small.module.vae.variance.has_observed
    small.update()
    other.update()
    torch.testing.assert_close(small.state(), other.state(), rtol=0, atol=0)


def test_an_update_is_the_optimisers_step_by_the_losss_gradient():
    small = Small(fitted_module("objective=elbo", "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=1e-3"))
    other = fitted_module("objective=elbo")
    record = small.update()
    torch.manual_seed(3)
    result, loss = other.objective(other.vae, small.batch, torch.zeros(()))
    loss.backward()
    torch.testing.assert_close(record.loss, loss.detach())
    due = [term.mean().detach() for term in (*result.terms, result.kl_in_loss - result.terms.log_likelihood)]
    torch.testing.assert_close(record.means[1:], torch.stack(due))
    pairs = list(zip(small.module.vae.parameters(), other.vae.parameters(), strict=True))
    steps = torch.cat([(1e-3 * its.grad).flatten() for _, its in pairs if its.grad is not None])
    errors = torch.cat([(its - 1e-3 * its.grad - ours).flatten() for ours, its in pairs if its.grad is not None])
    assert errors.norm() < 1e-6 * steps.norm()
    assert all((ours == its).all() for ours, its in pairs if its.grad is None)


def test_a_gradient_that_is_too_long_is_left_out_too():
    small = Small(fitted_module(), max_gradient_norm=1e4)
    assert small.update(factor=1e-6).is_left_out == 0
    before = small.state()
    assert small.update(factor=1e6).is_left_out == 1
    torch.testing.assert_close(small.state(), before, rtol=0, atol=0)


def test_a_long_gradient_is_clipped_and_its_length_known():
    small = Small(fitted_module(), clip=1.0)
    record = small.update()
    assert record.size > 10
    assert gradient_norm(small.module.vae) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("precision", "numbers"), [("32-true", (1, 50)), ("bf16-mixed", (1, 2))])
def test_several_updates_in_a_step_are_the_same_as_one(precision, numbers, tmp_path):
    """To the last bit: weights, the optimiser's averages, learning curves and their places. Three updates an epoch."""
    lefts, short = [], (f"trainer.precision={precision}", "trainer.max_epochs=2")
    for per_step in numbers:
        train(tmp_path / f"{per_step}", f"updates_per_step={per_step}", *short)
        lefts.append(left(tmp_path / f"{per_step}"))
    for one, other in pairwise(lefts):
        assert_same(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by its compiler
def test_a_compiled_update_is_the_same(monkeypatch):
    """Traced as a whole and differentiated ahead of time, as before code is generated, but with torch's own kernels."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    ours, compiled = Small(fitted_module()), Small(fitted_module(), compile_mode="default")
    for _ in range(3):
        torch.testing.assert_close(ours.update(), compiled.update(), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by its compiler
def test_a_warm_up_is_compiled_once(monkeypatch):
    """Also where the weight of the KL is another in each epoch."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    small = Small(fitted_module("objective.kl_warmup_epochs=4"), compile_mode="default")
    records = [small.update(epoch=float(epoch)) for epoch in range(4)]
    assert len(graphs) == 1
    assert len({record.loss.item() for record in records}) == 4
