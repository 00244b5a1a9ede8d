"""Laws of every network in conf/model/; what each promises beyond: depths, settings, published sizes and faults."""

import math
import re

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from conftest import composed, options
from svhn_vae.errors import UserError
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.elbo import kl_to_standard_normal
from svhn_vae.model.networks import Networks, Sizes
from svhn_vae.model.networks.convolutions import DCGAN, Conv, KerasConv, Step, plan
from svhn_vae.model.networks.dense import Dense
from svhn_vae.model.vae import VAE

SMALL = "network_scale=0.0625"  # the published proportions, small
IMAGE_MODELS = ("conv", "dcgan", "keras_conv", "resnet")
every_image_model = pytest.mark.parametrize("model", IMAGE_MODELS)


def small_vae(model: str, *overrides: str) -> VAE:
    head = ["variance=spectral"] if model == "spectral" else []
    return build_vae(composed(f"model={model}", *head, SMALL, *overrides))


@pytest.fixture(params=options("model"))
def vae(request) -> VAE:
    return small_vae(request.param).eval()


def test_shapes(vae):
    networks: Networks = vae.networks
    inferred = networks(torch.randn(4, *vae.representation.event_shape), torch.randn(4, networks.latent_dim))
    for latents in (inferred.mean, inferred.log_variance, inferred.claimed_log_variance, inferred.z):
        assert latents.shape == (4, networks.latent_dim)
    params, image_params = networks.decode(inferred.z)
    torch.testing.assert_close((params, image_params), (inferred.params, inferred.image_params))
    assert params.shape == (4, vae.variance.params_per_element, *vae.representation.event_shape)
    assert image_params.shape == (4, vae.representation.residual.params_per_image)


def test_an_image_is_treated_alike_alone_and_in_a_batch(vae):
    y, noise = torch.randn(4, *vae.representation.event_shape), torch.randn(4, vae.networks.latent_dim)
    together = vae.networks(y, noise)
    alone = zip(*(vae.networks(y[i : i + 1], noise[i : i + 1]) for i in range(4)), strict=True)
    for whole, parts in zip(together, alone, strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-4)


def without_gradient(networks: Networks, event_shape: tuple[int, ...]) -> list[str]:
    """The trainable weights that no gradient reaches in a third step: a layer of zeros passes none on in the first."""
    optimizer = torch.optim.SGD(networks.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        inferred = networks(torch.randn(8, *event_shape), torch.randn(8, networks.latent_dim))
        loss = inferred.params.square().mean() + inferred.log_variance.square().mean() + inferred.image_params.sum()
        loss.backward()
        optimizer.step()
    trainable = ((name, weights) for name, weights in networks.named_parameters() if weights.requires_grad)
    return [name for name, weights in trainable if weights.grad is None or not (weights.grad != 0).any()]


@pytest.mark.parametrize("model", options("model"))
def test_every_parameter_learns(model):
    vae = small_vae(model)
    assert without_gradient(vae.networks, vae.representation.event_shape) == []


@torch.no_grad()
def test_shrink_takes_the_latents_out_of_all_parameters_but_the_mean(vae):
    """With factor 0 they are their biases, the same for every z; the mean does not notice."""
    z = torch.randn(4, vae.networks.latent_dim)
    before, _ = vae.networks.decode(z)
    vae.networks.shrink(0.0)
    after, _ = vae.networks.decode(z)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert not torch.allclose(before[:1, 1:], before[1:, 1:])
    torch.testing.assert_close(after[:1, 1:].expand_as(after[1:, 1:]), after[1:, 1:])


@pytest.mark.parametrize("model", ["dense", *IMAGE_MODELS])
def test_the_sampling_bug_samples_with_the_squared_variance(model):
    networks = small_vae(model, "model.sampling_bug=true").networks.eval()
    y, noise = torch.randn(4, *networks.event_shape), torch.randn(4, networks.latent_dim)
    inferred = networks(y, noise)
    _, claimed = networks.encode(y)
    torch.testing.assert_close(inferred.claimed_log_variance, claimed)
    torch.testing.assert_close(inferred.log_variance, 2 * claimed)
    torch.testing.assert_close(inferred.z - inferred.mean, claimed.exp() * noise)


@every_image_model
def test_convolutions_model_pixels_and_say_so_where_they_are_given_others(model):
    vae = small_vae(model, "pca=unit_pixels").eval()
    assert vae.networks(torch.rand(2, 3, 32, 32), torch.zeros(2, vae.networks.latent_dim)).params.isfinite().all()
    message = rf"model={model} needs image-shaped features .* use model=dense, or pca=none"
    cfg = composed(f"model={model}", SMALL)
    assert cfg.hydra.runtime.choices.pca == "none"
    for event_shape in [(500,), (3, 31, 31), (3, 32, 16)]:
        with pytest.raises(Exception, match=message):
            instantiate(cfg.model, sizes=Sizes(torch.Size(event_shape), 2, 0))
    with pytest.raises(Exception, match=r"pca\.whiten=true needs a PCA.*drop pca\.whiten, or use model=dense"):
        build_vae(composed(f"model={model}", "pca.whiten=true"))
    with pytest.raises(Exception, match=message):
        build_vae(composed(f"model={model}", "pca=default"))


def test_scaled_residual_gives_the_decoder_one_output_per_image_that_starts_at_the_spectrum():
    vae = small_vae("dense", "pca.residual=scaled").eval()
    _, image_params = vae.networks.decode(torch.randn(4, vae.networks.latent_dim))
    assert image_params.tolist() == [[0.0]] * 4


def published(choice: str) -> dict:
    """The settings of a file in conf/model/."""
    return {key: value for key, value in composed(f"model={choice}").model.items() if key != "_target_"}


# --- fully connected ------------------------------------------------------------------------------------------------

SIZE, P = 12, 3  # elements of y, parameters for each


def dense(**settings) -> Dense:
    """conf/model/dense.yaml, small, but for these settings."""
    sizes = Sizes(torch.Size([SIZE]), P, 1)
    return Dense(sizes, **{**published("dense"), "latent_dim": 4, "width": 16, **settings})


def num_trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
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


def test_keras_weights_are_glorot_uniform_and_its_biases_zero():
    networks = dense(initialisation="keras")
    linears = {name: layer for name, layer in networks.named_modules() if isinstance(layer, nn.Linear)}
    image_params = linears.pop("image_params")
    assert (image_params.weight == 0).all()
    for layer in linears.values():
        limit = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.8 * limit < layer.weight.abs().max() <= limit
        assert (layer.bias == 0).all()


def test_separate_trunks_share_no_weights():
    networks = dense(separate_trunks=True)
    params, _ = networks.decode(torch.randn(8, 4))
    of_the_mean = [*networks.decoder.parameters(), *networks.mean.parameters()]
    for part, others in ((params[:, 0], list(networks.raw.parameters())), (params[:, 1:], of_the_mean)):
        gradients = torch.autograd.grad(part.square().sum(), others, retain_graph=True, allow_unused=True)
        assert all(gradient is None or not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("separate_trunks", [False, True])
def test_a_frozen_variance_branch_stays_as_it_began(separate_trunks):
    """Its weights and running statistics, that is, while the rest is trained through it: it normalises by the batch in
    training and by nothing in evaluation."""
    networks = dense(frozen_variance=True, separate_trunks=separate_trunks, dropout=0.5)
    began = {name: value.clone() for name, value in networks.state_dict().items()}
    assert without_gradient(networks, (SIZE,)) == []  # three steps
    moved = {name for name, value in networks.state_dict().items() if not torch.equal(value, began[name])}
    counters = {name for name in moved if name.endswith("num_batches_tracked")}
    assert {name for name in moved - counters if name.startswith("raw.")} == set()
    weights = {name for name in began if name.endswith("weight") and not name.startswith("raw.")}
    assert weights <= moved  # a bias before a batch normalisation has no effect
    networks = dense(frozen_variance=True, separate_trunks=separate_trunks)
    networks.decode(torch.randn(8, 4))[0][:, 1:].square().sum().backward()
    assert all(weights.grad is None for weights in networks.raw.parameters())
    assert separate_trunks or all((weights.grad != 0).any() for weights in networks.decoder.parameters())
    with torch.no_grad():
        batch_norm = networks.raw[1]
        h = 3 * torch.randn(64, batch_norm.num_features)
        normalised = batch_norm.train()(h)
        torch.testing.assert_close(normalised.mean(0), torch.zeros(h.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(batch_norm.eval()(h), h / math.sqrt(1 + batch_norm.eps))


# --- convolutions ---------------------------------------------------------------------------------------------------


def conv(event_shape: tuple[int, int, int] = (3, 16, 16), **settings) -> Conv:
    """conf/model/deep_conv.yaml, small, but for these settings."""
    small = {"latent_dim": 4, "width": 4, "max_width": 8, "dense_width": 8}
    return Conv(Sizes(torch.Size(event_shape), 2, 1), **{**published("deep_conv"), **small, **settings})


@pytest.mark.parametrize(
    ("build", "event_shape", "settings"),
    [
        (dense, (SIZE,), {"activation": "relu", "normalisation": "layer"}),
        (dense, (SIZE,), {"activation": "softplus", "normalisation": "batch", "initialisation": "keras"}),
        (dense, (SIZE,), {"activation": "none", "normalisation": "none", "posterior_depth": 0, "variance_depth": 0}),
        (dense, (SIZE,), {"activation": "silu", "posterior_depth": 1, "variance_depth": 2}),
        (dense, (SIZE,), {"separate_trunks": True, "variance_depth": 0, "normalise_input": False}),
        (conv, (3, 16, 16), {"activation": "relu", "normalisation": "group", "dense_normalisation": "group"}),
        (conv, (3, 16, 16), {"activation": "tanh", "normalisation": "none", "num_dense": 3}),
        (conv, (3, 16, 16), {"dense_normalisation": "none", "num_dense": 0}),
        (conv, (3, 16, 16), {"kernel_size": 2, "num_layers": 3, "upsampling": "transposed"}),
        (conv, (3, 16, 16), {"kernel_size": 4, "num_layers": 3, "upsampling": "transposed"}),
        (dense, (SIZE,), {"linear_path": True}),
        (conv, (3, 16, 16), {"linear_path": 5}),
    ],
)
def test_every_setting_learns(build, event_shape, settings):
    assert without_gradient(build(**settings), event_shape) == []


@pytest.mark.parametrize(("build", "linear_path"), [(dense, True), (conv, 4), (conv, 5)])
def test_the_linear_path_is_linear_and_of_means_alone(build, linear_path):
    """Of q(z | y) and of p(y | z): what is left once all other weights are 0. A coarse image that is one value is one
    value at every pixel."""
    networks = build(linear_path=linear_path, normalisation="none").eval()
    with torch.no_grad():
        for name, weight in networks.named_parameters():
            if not name.startswith("linear_path."):
                weight.zero_()
        a, b = torch.randn(2, 3, networks.latent_dim)
        (at_a, _), (at_b, _), (at_0, _), (at_both, _) = (networks.decode(z) for z in (a, b, 0 * a, a + b))
        torch.testing.assert_close(at_a + at_b - at_0, at_both)
        assert at_a[:, 0].std() > 0
        assert not at_a[:, 1:].any()
        y, other = torch.randn(2, 3, *networks.event_shape)
        sums, log_variance = (networks.encode(y + other)[part] + networks.encode(0 * y)[part] for part in (0, 1))
        torch.testing.assert_close(networks.encode(y)[0] + networks.encode(other)[0], sums)
        assert sums.std() > 0
        assert not log_variance.any()
        if build is conv:
            networks.linear_path.mean.weight.zero_()
            networks.linear_path.mean.bias.fill_(0.3)
            torch.testing.assert_close(networks.decode(a)[0][:, 0], torch.full((3, 3, 16, 16), 0.3))
            y = torch.full((1, 3, 16, 16), 0.7)
            expected = networks.linear_path.posterior_mean(torch.full((1, 3 * linear_path**2), 0.7))
            torch.testing.assert_close(networks.encode(y)[0], expected)


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def test_strides_are_spread_evenly_and_double_the_width_up_to_the_greatest():
    expected = [Step(3, 8, 2), Step(8, 8, 1), Step(8, 16, 2), Step(16, 16, 1), Step(16, 20, 2), Step(20, 20, 1)]
    assert plan(3, 8, 20, num_layers=6, num_strided=3) == expected
    assert [step.stride for step in plan(3, 8, 20, num_layers=4, num_strided=3)] == [2, 2, 2, 1]
    assert [step.stride for step in plan(3, 8, 20, num_layers=3, num_strided=0)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("event_shape", "num_strided"), [((3, 32, 32), 4), ((1, 28, 28), 2), ((3, 12, 12), 1), ((3, 6, 6), 0)]
)
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_any_size_that_can_be_halved_by_as_many_convolutions_on_each_side(event_shape, num_strided, upsampling):
    for kernel_size, num_layers in ((1, 5), (5, 8)):
        networks = conv(event_shape, num_strided=num_strided, kernel_size=kernel_size, upsampling=upsampling,
                        num_layers=num_layers, num_dense=2)  # fmt: skip
        inferred = networks(torch.randn(2, *event_shape), torch.randn(2, 4))
        assert inferred.params.shape == (2, 2, *event_shape)
        kind = nn.Conv2d if upsampling == "nearest" else nn.ConvTranspose2d
        assert len(layers(networks.encoder, nn.Conv2d)) == len(layers(networks.decoder, kind)) == num_layers
        assert len(layers(networks.encoder, nn.Linear)) + 1 == len(layers(networks.decoder, nn.Linear)) == 3


def test_dcgan_has_the_papers_layers_and_weights():
    networks = DCGAN(Sizes(torch.Size([3, 32, 32]), 2, 0), latent_dim=8, width=16, sampling_bug=False)
    convolutions = layers(networks.encoder, nn.Conv2d) + layers(networks.decoder, nn.ConvTranspose2d)
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((4, 4), (2, 2))}
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 32, 16, 6]
    assert all(layer.weight.std().item() == pytest.approx(0.02, rel=0.1) for layer in convolutions)


@torch.no_grad()
def test_keras_conv_has_the_examples_layers():
    """For 28 x 28 x 1 and 2 latents, the numbers of weights that Keras prints for its example, layer by layer."""
    sizes = Sizes(torch.Size([1, 28, 28]), 1, 0)
    networks = KerasConv(sizes, latent_dim=2, width=64, dense_width=128, sampling_bug=False)
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


# --- several levels of latents --------------------------------------------------------------------------------------

Y = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def ladder(**settings: int) -> Networks:
    return of_levels("model=ladder", settings)


def spectral(**settings: int) -> Networks:
    return of_levels("variance=spectral", settings)


def of_levels(choice: str, settings: dict[str, int]) -> Networks:
    overrides = [f"model.{name}={value}" for name, value in settings.items()]
    return build_vae(composed(choice, "network_scale=0.125", *overrides)).networks.eval()


@pytest.mark.parametrize(("num_levels", "latents"), [(1, 16), (3, 16 + 64 + 256)])
def test_a_ladder_has_latents_at_each_resolution(num_levels, latents):
    networks = ladder(num_levels=num_levels, latent_channels=3, num_blocks=2)
    assert networks.latent_dim == 2 * 3 * latents
    assert networks(Y, torch.randn(4, networks.latent_dim)).params.shape == (4, 2, 3, 32, 32)


def test_a_ladder_starts_with_the_posterior_at_the_prior():
    networks = ladder()
    inferred = networks(Y, torch.randn(4, networks.latent_dim))
    kl = kl_to_standard_normal(inferred.mean, inferred.log_variance)
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-4)


@pytest.mark.parametrize("build", [ladder, spectral])
def test_a_later_level_depends_on_what_was_drawn_before(build):
    """Its posterior is one given the levels before: other noise there, another posterior here; not the other way."""
    networks = build()
    with torch.no_grad():
        for weights in networks.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    noise = torch.randn(4, networks.latent_dim)
    first, last = noise.clone(), noise.clone()
    first[:, 0] += 3
    last[:, -1] += 3
    before, after_first, after_last = (networks(Y, changed) for changed in (noise, first, last))
    assert not torch.equal(after_first.mean[:, -1], before.mean[:, -1])
    torch.testing.assert_close(after_last.mean, before.mean)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (dense, {"activation": "gelu"}, "model.activation must be one of relu, tanh, softplus, silu, none, got gelu"),
        (dense, {"encoder_depth": 0}, "model.encoder_depth must be at least 1, got 0"),
        (dense, {"dropout": 1.5}, "model.dropout must be in 0..1, got 1.5"),
        (dense, {"batch_norm_eps": 0.0}, "model.batch_norm_eps must be above 0, got 0.0"),
        (conv, {"num_strided": 4}, "model.num_strided must be in 0..3, as often as 5 layers can halve 16 pixels"),
        (conv, {"num_strided": 3, "num_layers": 2}, "model.num_strided must be in 0..2, as often as 2 layers can"),
        (conv, {"max_width": 3}, "model.max_width must be at least 4, got 3"),
        (conv, {"kernel_size": 4, "upsampling": "transposed"}, "model.kernel_size must be odd, got 4"),
        (ladder, {"num_levels": 5}, "model.num_levels=5 needs 64 pixels in a row, got 32: lower it"),
        (spectral, {"grid": 7}, "model.grid must divide 32"),
        (lambda: build_vae(composed("model=spectral")), {}, "model=spectral needs variance=spectral and its"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(build, settings, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build(**settings)
