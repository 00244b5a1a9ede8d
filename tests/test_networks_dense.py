"""The fully connected network: the post's size and faults, and each of its settings."""

import math
import re

import pytest
import torch
from torch import nn

from conftest import composed
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.networks.dense import Dense
from test_networks import without_gradient

SIZE, P = 12, 3  # elements of y, parameters for each
SMALL = {"latent_dim": 4, "width": 16}


def dense(**settings) -> Dense:
    """conf/model/dense.yaml, small, but for these settings."""
    published = {key: value for key, value in composed().model.items() if key != "_target_"}
    return Dense((SIZE,), P, 1, **{**published, **SMALL, **settings})


def num_trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["variance=relu_eps"], 48_489_020),
        (["variance=logvar"], 48_489_020),
        (["variance=fixed"], 47_213_020),
        (["variance=relu_eps", "model.frozen_variance=true"], 47_213_020),
    ],
)
def test_the_posts_network_has_the_posts_number_of_parameters(overrides, expected):
    """47,213,020 is what its notebook prints; the variance branch, which was not trained, adds 1,276,000."""
    assert num_trainable(build_vae(composed(*overrides))) == expected


def test_kingmas_network():
    """The code that the post followed: 600 coordinates, 500-500 softplus both ways, 300 latents, all else linear."""
    vae = build_vae(composed("experiment=kingma_2014"))
    weights = (600 * 500 + 500 * 500 + 500 * 2 * 300) + (300 * 500 + 500 * 500 + 500 * 2 * 600)
    assert num_trainable(vae) == weights + 4 * 500 + 2 * 300 + 2 * 600
    assert [type(layer) for layer in vae.networks.raw] == [nn.Linear]
    assert all((layer.bias == 0).all() for layer in vae.networks.modules() if isinstance(layer, nn.Linear))
    assert vae.networks.mean.weight.std().item() == pytest.approx(500**-0.5, rel=0.01)
    assert (vae.networks.posterior_log_variance[-1].weight == 0).all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "silu", "none"])
@pytest.mark.parametrize("normalisation", ["batch", "layer", "none"])
def test_every_activation_and_normalisation_learns(activation, normalisation):
    assert without_gradient(dense(activation=activation, normalisation=normalisation), (SIZE,)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"posterior_depth": 0, "variance_depth": 0},
        {"posterior_depth": 1, "variance_depth": 2},
        {"separate_trunks": True},
        {"separate_trunks": True, "variance_depth": 0},
        {"normalise_input": False, "encoder_depth": 1, "decoder_depth": 1},
        {"initialisation": "keras"},
        {"frozen_variance": True},
    ],
)
def test_every_depth_and_switch_learns(settings):
    assert without_gradient(dense(**settings), (SIZE,)) == []


def test_keras_weights_are_glorot_uniform_and_its_biases_zero():
    networks = dense(initialisation="keras")
    linears = {name: layer for name, layer in networks.named_modules() if isinstance(layer, nn.Linear)}
    image_params = linears.pop("image_params")
    assert (image_params.weight == 0).all()
    for layer in linears.values():
        limit = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.8 * limit < layer.weight.abs().max() <= limit
        assert (layer.bias == 0).all()


def test_batch_normalisation_takes_its_settings():
    networks = dense(batch_norm_momentum=0.01, batch_norm_eps=1e-3)
    layers = [layer for layer in networks.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert {(layer.momentum, layer.eps) for layer in layers} == {(0.01, 1e-3)}
    assert len(layers) == 1 + 3 + 2 * 2 + 5 + 1


def test_separate_trunks_share_no_weights():
    networks = dense(separate_trunks=True)
    params, _ = networks.decode(torch.randn(8, 4))
    params[:, 0].square().sum().backward(retain_graph=True)
    assert all(weights.grad is None or (weights.grad == 0).all() for weights in networks.raw.parameters())
    networks.zero_grad()
    params[:, 1:].square().sum().backward()
    of_the_mean = [*networks.decoder.parameters(), *networks.mean.parameters()]
    assert all(weights.grad is None or (weights.grad == 0).all() for weights in of_the_mean)


@pytest.mark.parametrize("separate_trunks", [False, True])
def test_a_frozen_variance_branch_stays_as_it_began(separate_trunks):
    """Its weights and running statistics, that is, while the rest is trained through it."""
    networks = dense(frozen_variance=True, separate_trunks=separate_trunks, dropout=0.5)
    began = {name: value.clone() for name, value in networks.state_dict().items()}
    assert without_gradient(networks, (SIZE,)) == []  # three steps
    moved = {name for name, value in networks.state_dict().items() if not torch.equal(value, began[name])}
    counters = {name for name in moved if name.endswith("num_batches_tracked")}
    assert {name for name in moved - counters if name.startswith("raw.")} == set()
    weights = {name for name in began if name.endswith("weight") and not name.startswith("raw.")}
    assert weights <= moved  # a bias before a batch normalisation has no effect


def test_gradients_pass_through_the_frozen_branch_to_the_decoder():
    networks = dense(frozen_variance=True)
    networks.decode(torch.randn(8, 4))[0][:, 1:].square().sum().backward()
    assert all((weights.grad != 0).any() for weights in networks.decoder.parameters())
    assert all(weights.grad is None for weights in networks.raw.parameters())


@torch.no_grad()
def test_the_frozen_branch_normalises_by_the_batch_in_training_and_by_nothing_in_evaluation():
    linear, batch_norm, *_ = dense(frozen_variance=True).raw
    h = linear(1 + 3 * torch.randn(64, 16))
    normalised = batch_norm.train()(h)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(SIZE), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(0, correction=0), torch.ones(SIZE), atol=1e-3, rtol=0)
    torch.testing.assert_close(batch_norm.eval()(h), h / math.sqrt(1 + batch_norm.eps))


def test_the_frozen_branch_keeps_its_dropout():
    networks = dense(frozen_variance=True, dropout=0.5).train()
    h = torch.randn(8, 16)
    assert not torch.equal(networks.raw(h), networks.raw(h))
    assert torch.equal(networks.eval().raw(h), networks.raw(h))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation": "gelu"}, "model.activation must be one of relu, tanh, softplus, silu, none, got gelu"),
        ({"normalisation": "group"}, "model.normalisation must be one of batch, layer, none, got group"),
        ({"initialisation": "xavier"}, "model.initialisation must be one of torch, keras, kingma, got xavier"),
        ({"encoder_depth": 0}, "model.encoder_depth must be at least 1, got 0"),
        ({"posterior_depth": -1}, "model.posterior_depth must be at least 0, got -1"),
        ({"dropout": 1.5}, "model.dropout must be in 0..1, got 1.5"),
        ({"batch_norm_momentum": -0.1}, "model.batch_norm_momentum must be in 0..1, got -0.1"),
        ({"batch_norm_eps": 0.0}, "model.batch_norm_eps must be above 0, got 0.0"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(setting, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dense(**setting)
