"""A batch in two parts, in two processes, has the loss, gradients and statistics of the whole: a law of every network
and every head, with dropout, and of the objectives that look at a batch."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from conftest import options
from svhn_vae.experiment.ranks import HERE, Place, run_on_ranks
from svhn_vae.model.coordinates import Features
from svhn_vae.model.whole_batch import mean_over_parts, own_rows
from svhn_vae.training.module import LitVAE
from svhn_vae.training.update import Update
from svhn_vae.training.whole_batch_layers import WholeBatchLayers
from test_lit import features, fitted
from test_variance import accepts

NUM_PARTS = 2
DROPOUT = "model.dropout=0.3"
HAVE_DROPOUT = ("conv", "dense", "ladder", "resnet", "spectral")
DENSE = ("pca.n_components=20", DROPOUT)
CASES = {
    **{f"model={name}": (f"model={name}", *([DROPOUT] if name in HAVE_DROPOUT else [])) for name in options("model")},
    **{f"variance={name}": (*DENSE, f"variance={name}") for name in options("variance") if accepts(name, (20,))},
    "free bits": (*DENSE, "objective.free_bits=0.01"),
    "bound alone": (*DENSE, "objective=elbo"),
    "learnt prior": (*DENSE, "prior=vamp"),
}


def module_of(case: str) -> LitVAE:
    head = {"model=spectral": ["variance=spectral"]}.get(case, ["variance=shared"] if "model" in case else [])
    return fitted("network_scale=0.03125", *head, *CASES[case]).train()


def after_a_pass(module: LitVAE, batch: Features) -> dict[str, torch.Tensor]:
    """The loss and the means that are logged, the gradients by name, and statistics."""
    torch.manual_seed(3)
    settings = {"max_gradient_norm": None, "clip": None, "compile_mode": None}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    update = Update(module.vae, module.objective, optimizer, backward=torch.Tensor.backward, **settings)
    record = update(batch, 0)._asdict()
    logged = {name: value for name, value in record.items() if name != "size"}  # DDP sums gradients up before it
    gradients = {name: mean_over_parts(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    statistics = {name: value.float() for name, value in module.state_dict().items() if name not in gradients}
    return {**logged, **gradients, **statistics}


def in_parts(folder: Path, place: Place) -> None:
    """All cases in one of the processes; the first writes what it found."""
    warnings.simplefilter("error")
    meeting = f"tcp://{HERE}:{place.main_port}"
    dist.init_process_group("gloo", init_method=meeting, rank=place.rank, world_size=place.num)
    found = {}
    for case in CASES:
        module = module_of(case)
        WholeBatchLayers().apply(module)
        part = Features(*(own_rows(array) for array in features(module)))
        found[case] = after_a_pass(module, part)
    if not place.rank:
        torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("parts")
    run_on_ranks(partial(in_parts, folder), NUM_PARTS)
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_parts_are_the_whole(case, found):
    module = module_of(case)
    expected = after_a_pass(module, features(module))
    assert set(found[case]) == set(expected)
    largest = max(p.grad.norm() for p in module.parameters() if p.grad is not None)
    for name, value in expected.items():
        scale = largest if name in dict(module.named_parameters()) else value.norm()
        assert (found[case][name] - value).norm() <= 1e-4 * scale, name


def test_layers_are_what_they_were_afterwards():
    module, layers = module_of("model=dense"), WholeBatchLayers()
    before = str(module)
    assert str(layers.apply(module)) != before
    assert str(layers.revert(module)) == before


def test_an_error_in_a_process_is_raised_here_with_its_traceback():
    with pytest.raises(OSError, match="no such place") as caught:
        run_on_ranks(fails, NUM_PARTS)
    assert "in fails" in caught.value.__notes__[0]


def fails(place: Place) -> None:
    if place.rank == 1:
        raise OSError("no such place")
    dist.init_process_group("gloo", init_method=f"tcp://{HERE}:{place.main_port}", rank=0, world_size=2)  # waits
