"""Laws of every network in conf/model/."""

import pytest
import torch
from hydra.utils import instantiate

from conftest import composed, options
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.networks import Networks
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
@pytest.mark.parametrize("event_shape", [(500,), (3, 31, 31), (3, 32, 16)])
def test_convolutions_refuse_what_is_no_image(model, event_shape):
    cfg = composed(f"model={model}", SMALL).model
    message = rf"model={model} needs image-shaped features .* use model=dense, or pca=none"
    with pytest.raises(Exception, match=message):
        instantiate(cfg, event_shape=event_shape, params_per_element=2, params_per_image=0)


@every_image_model
def test_convolutions_choose_pixels_by_themselves(model):
    cfg = composed(f"model={model}")
    assert cfg.hydra.runtime.choices.pca == "none"
    assert instantiate(cfg.pca, image_shape=(3, 32, 32)).event_shape == (3, 32, 32)


@every_image_model
def test_convolutions_model_pixels_as_they_are(model):
    vae = small_vae(model, "pca=unit_pixels").eval()
    assert vae.networks(torch.rand(2, 3, 32, 32), torch.zeros(2, vae.networks.latent_dim)).params.isfinite().all()


@every_image_model
def test_convolutions_with_whitening_say_what_to_do(model):
    with pytest.raises(Exception, match=r"pca\.whiten=true needs a PCA.*drop pca\.whiten, or use model=dense"):
        build_vae(composed(f"model={model}", "pca.whiten=true"))


@every_image_model
def test_convolutions_with_a_pca_say_what_to_do(model):
    with pytest.raises(Exception, match=rf"model={model} needs image-shaped features.*pca=none"):
        build_vae(composed(f"model={model}", "pca=default"))


def test_dense_models_pixels_too():
    vae = small_vae("dense", "pca=none")
    assert isinstance(vae.networks, Dense)
    params, _ = vae.networks.decode(torch.randn(2, vae.networks.latent_dim))
    assert params.shape == (2, 2, 3, 32, 32)


def test_scaled_residual_gives_the_decoder_one_output_per_image_that_starts_at_the_spectrum():
    vae = small_vae("dense", "pca.residual=scaled").eval()
    _, image_params = vae.networks.decode(torch.randn(4, vae.networks.latent_dim))
    assert image_params.tolist() == [[0.0]] * 4
