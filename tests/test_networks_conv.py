"""The convolutional networks: depth, strides, upsampling, and the published shapes."""

import math
import re

import pytest
import torch
from torch import nn

from conftest import composed
from svhn_vae.model.networks.conv import Conv, Step, plan
from svhn_vae.model.networks.published import DCGAN, KerasConv
from test_networks import without_gradient

SMALL = {"latent_dim": 4, "width": 4, "max_width": 8, "dense_width": 8}


def conv(event_shape: tuple[int, int, int] = (3, 16, 16), **settings) -> Conv:
    """conf/model/deep_conv.yaml, small, but for these settings."""
    published = {key: value for key, value in composed("model=deep_conv").model.items() if key != "_target_"}
    return Conv(event_shape, 2, 1, **{**published, **SMALL, **settings})


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("num_layers", range(3, 9))
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_every_depth_has_as_many_convolutions_on_each_side(num_layers, upsampling):
    networks = conv(num_layers=num_layers, upsampling=upsampling)
    kind = nn.Conv2d if upsampling == "nearest" else nn.ConvTranspose2d
    assert len(layers(networks.encoder, nn.Conv2d)) == len(layers(networks.decoder, kind)) == num_layers
    assert without_gradient(networks, (3, 16, 16)) == []


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "silu", "none"])
@pytest.mark.parametrize("normalisation", ["batch", "group", "none"])
def test_every_activation_and_normalisation_learns(activation, normalisation):
    assert without_gradient(conv(activation=activation, normalisation=normalisation), (3, 16, 16)) == []


@pytest.mark.parametrize("num_dense", [0, 1, 3])
def test_dense_layers_stand_on_both_sides_of_the_latents(num_dense):
    networks = conv(num_dense=num_dense)
    assert len(layers(networks.encoder, nn.Linear)) == num_dense
    assert len(layers(networks.decoder, nn.Linear)) == num_dense + 1
    assert without_gradient(networks, (3, 16, 16)) == []


def test_strides_are_spread_evenly_and_double_the_width_up_to_the_greatest():
    expected = [Step(3, 8, 2), Step(8, 8, 1), Step(8, 16, 2), Step(16, 16, 1), Step(16, 20, 2), Step(20, 20, 1)]
    assert plan(3, 8, 20, num_layers=6, num_strided=3) == expected
    assert [step.stride for step in plan(3, 8, 20, num_layers=4, num_strided=3)] == [2, 2, 2, 1]
    assert [step.stride for step in plan(3, 8, 20, num_layers=3, num_strided=0)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("event_shape", "num_strided"), [((3, 32, 32), 4), ((1, 28, 28), 2), ((3, 12, 12), 1), ((3, 6, 6), 0)]
)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_any_size_that_can_be_halved(event_shape, num_strided, kernel_size):
    for upsampling in ("nearest", "transposed"):
        networks = conv(event_shape, num_strided=num_strided, kernel_size=kernel_size, upsampling=upsampling)
        inferred = networks(torch.randn(2, *event_shape), torch.randn(2, 4))
        assert inferred.params.shape == (2, 2, *event_shape)


@pytest.mark.parametrize("kernel_size", [2, 4, 6])
def test_an_even_kernel_halves_and_doubles_where_every_layer_does(kernel_size):
    networks = conv(kernel_size=kernel_size, num_layers=3, upsampling="transposed")
    assert networks(torch.randn(2, 3, 16, 16), torch.randn(2, 4)).params.shape == (2, 2, 3, 16, 16)
    assert without_gradient(networks, (3, 16, 16)) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_strided": 4}, "model.num_strided must be in 0..3, as often as 5 layers can halve 16 pixels"),
        ({"num_strided": 3, "num_layers": 2}, "model.num_strided must be in 0..2, as often as 2 layers can"),
        ({"event_shape": (3, 12, 12), "num_strided": 3}, "model.num_strided must be in 0..2, as often as 5 layers can"),
        ({"num_strided": -1}, "model.num_strided must be in 0..3, as often as 5 layers can"),
        ({"num_layers": 0}, "model.num_layers must be at least 1, got 0"),
        ({"max_width": 3}, "model.max_width must be at least 4, got 3"),
        ({"kernel_size": 0}, "model.kernel_size must be at least 1, got 0"),
        ({"kernel_size": 4, "upsampling": "transposed"}, "model.kernel_size must be odd, got 4"),
        ({"kernel_size": 4, "num_layers": 3}, "model.kernel_size must be odd, got 4"),
        ({"upsampling": "bilinear"}, "model.upsampling must be one of nearest, transposed, got bilinear"),
        ({"normalisation": "layer"}, "model.normalisation must be one of batch, group, none, got layer"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(setting, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        conv(**setting)


def test_dcgan_has_the_papers_layers_and_weights():
    networks = DCGAN((3, 32, 32), 2, 0, latent_dim=8, width=16, sampling_bug=False)
    convolutions = layers(networks.encoder, nn.Conv2d) + layers(networks.decoder, nn.ConvTranspose2d)
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((4, 4), (2, 2))}
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 32, 16, 6]
    assert all(layer.weight.std().item() == pytest.approx(0.02, rel=0.1) for layer in convolutions)


@torch.no_grad()
def test_keras_conv_has_the_examples_layers():
    """For 28 x 28 x 1 and 2 latents, the numbers of weights that Keras prints for its example, layer by layer."""
    networks = KerasConv((1, 28, 28), 1, 0, latent_dim=2, width=64, dense_width=128, sampling_bug=False)
    weighted = [layer for layer in networks.modules() if len(list(layer.parameters(recurse=False))) == 2]
    counts = [sum(weights.numel() for weights in layer.parameters()) for layer in weighted]
    halved = 14 * 14 * 64
    encoder = [4 + 1, 4 * 64 + 64, 9 * 64 * 64 + 64, 9 * 64 * 64 + 64, halved * 128 + 128, 2 * 128 + 2, 2 * 128 + 2]
    decoder = [2 * 128 + 128, 128 * halved + halved, *[9 * 64 * 64 + 64] * 3, 4 * 64 + 1]
    assert counts == encoder + decoder
    sizes = []
    h = torch.zeros(1, 2)
    for layer in networks.decoder:
        h = layer(h)
        sizes += [h.shape[-1]] if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else []
    assert sizes == [14, 14, 29, 28]
    limit = math.sqrt(6 / (halved + 128))
    assert networks.decoder[2].weight.abs().max() <= limit
