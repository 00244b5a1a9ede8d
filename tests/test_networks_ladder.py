"""Networks with several levels of latents: what their classes promise beyond the laws of every network."""

import pytest
import torch

from conftest import composed
from svhn_vae.experiment.build import build_vae
from svhn_vae.model.elbo import kl_to_standard_normal
from svhn_vae.model.networks import Networks

Y = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def ladder(*overrides: str) -> Networks:
    return build_vae(composed("model=ladder", "network_scale=0.125", *overrides)).networks.eval()


def spectral(*overrides: str) -> Networks:
    return build_vae(composed("variance=spectral", "network_scale=0.125", *overrides)).networks.eval()


@pytest.mark.parametrize(
    ("num_levels", "latents"), [(1, 16), (2, 16 + 64), (3, 16 + 64 + 256), (4, 16 + 64 + 256 + 1024)]
)
def test_a_ladder_has_latents_at_each_resolution(num_levels, latents):
    networks = ladder(f"model.num_levels={num_levels}", "model.latent_channels=3", "model.num_blocks=2")
    assert networks.latent_dim == 2 * 3 * latents
    assert networks(Y, torch.randn(4, networks.latent_dim)).params.shape == (4, 2, 3, 32, 32)


def test_a_ladder_starts_with_the_posterior_at_the_prior():
    networks = ladder()
    inferred = networks(Y, torch.randn(4, networks.latent_dim))
    kl = kl_to_standard_normal(inferred.mean, inferred.log_variance)
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-4)


@pytest.mark.parametrize("networks", [ladder(), spectral()], ids=["ladder", "spectral"])
def test_a_later_level_depends_on_what_was_drawn_before(networks):
    """Its posterior is one given the levels before: other noise there, another posterior here; not the other way."""
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
    ("build", "override", "message"),
    [
        (ladder, "model.num_levels=5", "model.num_levels=5 needs 64 pixels in a row, got 32: lower it"),
        (ladder, "model.width=0", "model.width must be at least 1, got 0"),
        (spectral, "model.grid=7", "model.grid must divide 32"),
        (ladder, "model=spectral", "use variance=spectral alone"),
    ],
)
def test_what_cannot_be_says_so_in_a_line(build, override, message):
    with pytest.raises(Exception, match=message):
        build(override)
