"""Dropout by few random bits: beside torch's own, and beside the binomial law."""

import itertools

import pytest
import scipy.stats
import torch
from torch import nn

from svhn_vae.model.networks import layers
from svhn_vae.model.networks.layers import Dropout

RATES = (0.2, 0.5, 0.9, 1e-3)


@pytest.mark.parametrize("p", RATES)
def test_an_element_is_dropped_as_often_as_it_should_be(p):
    """Wherever it stands in the word that its bits come from."""
    dropped = (Dropout(p)(torch.ones(400, 1000)) == 0).view(-1, 4).sum(0)
    for number in dropped.tolist():
        assert scipy.stats.binomtest(number, 100_000, p).pvalue > 1e-5


def test_elements_are_dropped_one_by_one():
    """Neighbours, and the same places of two calls: each of the four cases as often as chance has it."""
    layer = Dropout(0.5)
    first, second = ((layer(torch.ones(100, 1000)) == 0).flatten() for _ in range(2))
    for one, other in ((first[:-1], first[1:]), (first[:-4], first[4:]), (first, second)):
        cases = [((one == a) & (other == b)).sum().item() for a, b in itertools.product((True, False), repeat=2)]
        assert scipy.stats.chisquare(cases).pvalue > 1e-5


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_grows_by_what_is_dropped(p, dtype):
    x = torch.randn(64, 33, 3).to(dtype).requires_grad_()
    y = Dropout(p)(x)
    y.sum().backward()
    kept = y != 0
    assert y.dtype == dtype
    torch.testing.assert_close(
        x.grad, torch.where(kept, 1 / (1 - p), 0).to(dtype), rtol=1e-2 if p > 0.5 else 4e-3, atol=0
    )
    torch.testing.assert_close(y, x.detach() * x.grad)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_otherwise_it_is_torchs(p):
    x, own, torchs = torch.randn(5, 7), Dropout(p), nn.Dropout(p)
    torch.testing.assert_close(own.eval()(x), torchs.eval()(x), rtol=0, atol=0)
    if p != 0.3:
        torch.testing.assert_close(own.train()(x), torchs.train()(x), rtol=0, atol=0)


@pytest.mark.parametrize("p", [1e-6, 1 - 1e-6])
def test_a_rate_that_16_bits_do_not_have(p):
    assert Dropout(p)(torch.ones(100)).isfinite().all()


def test_the_generator_alone_decides():
    x = torch.ones(10, 10)
    torch.manual_seed(1)
    first = Dropout(0.5)(x)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.5)(x), first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by its compiler
def test_a_compiler_takes_it():
    compiled = torch.compile(Dropout(0.5), backend="aot_eager", fullgraph=True)
    dropped = (compiled(torch.ones(100, 100)) == 0).sum().item()
    assert scipy.stats.binomtest(dropped, 10_000, 0.5).pvalue > 1e-5


@pytest.mark.parametrize("is_cheap", [False, True])
def test_of_several_processes_each_has_its_part_of_the_mask(monkeypatch, is_cheap):
    """By both generators: a GPU's, and a CPU's bits."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: is_cheap)
    monkeypatch.setattr(layers, "num_parts", lambda: 2)
    found = []
    for part in range(2):
        monkeypatch.setattr(layers, "own_rows", lambda whole, part=part: whole.chunk(2)[part])
        torch.manual_seed(1)
        found.append(Dropout(0.3)(torch.ones(500, 20)))
    torch.manual_seed(1)
    whole = torch.rand(1000, 20) >= 0.3 if is_cheap else layers.kept_by_bits((1000, 20), 0.3)[0]
    torch.testing.assert_close(torch.cat(found), whole / 0.7, rtol=1e-4, atol=0)
