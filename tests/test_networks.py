"""Laws of every network in conf/model/, and the published network's size."""

import pytest
import torch
from hydra.utils import instantiate

from conftest import composed, options
from svhn_vae.build import build_vae
from svhn_vae.networks import Conv, Dense, Networks
from svhn_vae.vae import VAE

SIZES = {"network_scale": 0.0625}  # the published proportions, small


def small_vae(model: str, *overrides: str) -> VAE:
    return build_vae(composed(f"model={model}", *(f"{k}={v}" for k, v in SIZES.items()), *overrides))


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.fixture(params=options("model"))
def vae(request) -> VAE:
    return small_vae(request.param).eval()


@pytest.mark.parametrize(
    ("variance", "expected"), [("relu_eps", 48_489_020), ("logvar", 48_489_020), ("fixed", 47_213_020)]
)
def test_the_posts_network_has_the_posts_number_of_parameters(variance, expected):
    """47,213,020 is what its notebook prints; the variance branch adds 1,276,000."""
    assert num_parameters(build_vae(composed(f"variance={variance}"))) == expected


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


@pytest.mark.parametrize("model", options("model"))
def test_every_parameter_learns(model):
    """After one step (zero-initialised layers pass nothing on in the first) each has a gradient."""
    vae = small_vae(model)
    optimizer = torch.optim.SGD(vae.networks.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        y, noise = torch.randn(8, *vae.representation.event_shape), torch.randn(8, vae.networks.latent_dim)
        inferred = vae.networks(y, noise)
        (inferred.params.square().mean() + inferred.log_variance.square().mean()).backward()
        optimizer.step()
    without = [name for name, parameter in vae.networks.named_parameters() if not (parameter.grad != 0).any()]
    assert without == []


def test_scaled_residual_gives_the_decoder_one_output_per_image_that_starts_at_the_spectrum():
    vae = small_vae("dense", "pca.residual=scaled").eval()
    _, image_params = vae.networks.decode(torch.randn(4, vae.networks.latent_dim))
    assert image_params.tolist() == [[0.0]] * 4


@pytest.mark.parametrize("event_shape", [(500,), (3, 30, 30), (3, 32, 16)])
def test_conv_refuses_what_is_no_image(event_shape):
    settings = {"latent_dim": 4, "width": 4, "num_blocks": 1, "dropout": 0.0}
    with pytest.raises(ValueError, match=r"model=conv needs image-shaped features .* use model=dense, or pca=none"):
        Conv(event_shape, 2, 0, **settings)


def test_conv_chooses_pixels_by_itself():
    cfg = composed("model=conv")
    assert cfg.hydra.runtime.choices.pca == "none"
    assert instantiate(cfg.pca, image_shape=(3, 32, 32)).event_shape == (3, 32, 32)


def test_conv_with_whitening_says_what_to_do():
    with pytest.raises(Exception, match=r"pca\.whiten=true needs a PCA.*drop pca\.whiten, or use model=dense"):
        build_vae(composed("model=conv", "pca.whiten=true"))


def test_conv_with_a_pca_says_what_to_do():
    with pytest.raises(Exception, match=r"model=conv needs image-shaped features.*pca=none"):
        build_vae(composed("model=conv", "pca=default"))


def test_dense_models_pixels_too():
    vae = small_vae("dense", "pca=none")
    assert isinstance(vae.networks, Dense)
    params, _ = vae.networks.decode(torch.randn(2, vae.networks.latent_dim))
    assert params.shape == (2, 2, 3, 32, 32)
