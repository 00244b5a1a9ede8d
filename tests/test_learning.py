"""Every head learns: `python -m pytest tests/test_learning.py -v` trains each for a few steps.

What is drawn has a brightness of its own and noise of its own strength, so a head that says either gains.
"""

import pytest
import torch

from conftest import composed, options
from svhn_vae.experiment.build import build_module
from svhn_vae.model.coordinates import Features, unknown
from svhn_vae.training.module import LitVAE
from test_variance import accepts

NUM_STEPS = {"causal": 15, "logistic_mixture": 50}  # of the slow ones, which gain as much in fewer


def drawn(num: int, event_shape: torch.Size, *, in_unit_interval: bool) -> Features:
    """A pattern times one number per image, and noise whose size differs between images; unit average variance."""
    pattern = torch.linspace(-1.5, 1.5, event_shape.numel()).view(event_shape)
    factors = (num, *[1] * len(event_shape))
    y = torch.randn(factors) * pattern + torch.exp(0.5 * torch.randn(factors) - 1) * torch.randn(num, *event_shape)
    if in_unit_interval:
        y = (0.5 + 0.3 * y).clamp(0, 1 - 1e-6)
    return Features(y, torch.zeros(num, 1), torch.zeros(num), unknown(y))


def module_for(head: str) -> LitVAE:
    """The published network, small, on 20 components; where the head needs images, convolutions or its own networks."""
    flat = ["pca.n_components=20"] if accepts(head, (20,)) else []
    model = ["model=conv"] if not flat and head != "spectral" else []
    module = build_module(composed(f"variance={head}", "objective=elbo", "network_scale=0.0625", *flat, *model))
    module.vae.representation.residual.log_norm.zero_()  # no component is cut off in this test
    return module


@torch.no_grad()
def negative_bound(module: LitVAE, batch: Features) -> float:
    module.eval()
    torch.manual_seed(1)
    bound = module.vae(batch).terms.elbo.mean().item()
    module.train()
    return -bound


@pytest.mark.parametrize("head", options("variance"))
def test_head_learns(head):
    module = module_for(head)
    shape = module.vae.representation.event_shape
    in_unit_interval = getattr(module.vae.representation, "use_scale", True) is False
    size = 16 if head == "causal" else 100 if len(shape) == 1 else 40  # images of an update
    train, val = (drawn(num * size, shape, in_unit_interval=in_unit_interval) for num in (4, 2))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    before = negative_bound(module, val)
    for step in range(NUM_STEPS.get(head, 100)):
        batch = Features(*(array[step % 4 * size :][:size] for array in train))
        optimizer.zero_grad()
        _, loss = module.objective(module.vae, batch, 0)
        loss.backward()
        optimizer.step()
    after = negative_bound(module, val)
    gain = (before - after) / shape.numel()
    print(f"{head}: {before:.1f} -> {after:.1f} nats, {gain:.3f} per element")
    assert gain > 0.05
