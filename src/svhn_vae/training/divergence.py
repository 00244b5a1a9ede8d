"""What is left of a run that diverged: where its head stood, and its last finite checkpoint.

Shapes: B images, E = event_shape of y.
"""

import math
from pathlib import Path

import torch

from svhn_vae.errors import Damaged
from svhn_vae.evaluation.bound import evaluation_pass, or_none
from svhn_vae.model.coordinates import Features
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import load_weights


@torch.no_grad()
def head_state(vae: VAE, batch: Features) -> dict[str, float | None]:
    """Where sigma stands on a batch, with its range in units of y, over the elements where it is finite; None where
    there are none."""
    was_training = vae.training
    result = evaluation_pass(vae.eval(), batch, 0)
    vae.train(was_training)
    sigma = result.likelihood.stddev.flatten()
    finite = sigma[sigma.isfinite()]
    found = {
        **vae.variance.standing(result.inferred.params),
        "sigma_finite_fraction": sigma.isfinite().float().mean(),
        "sigma_min": finite.min() if len(finite) else sigma.new_tensor(math.nan),
        "sigma_max": finite.max() if len(finite) else sigma.new_tensor(math.nan),
    }
    return {name: or_none(value.float().mean().item()) for name, value in found.items()}


def load_last_finite(vae: VAE, folder: RunFolder) -> Path | None:
    """The best checkpoint's weights, or else the last one's; None if there is neither. All on disk are finite."""
    for path in (folder.best_checkpoint, folder.last_checkpoint):
        try:
            load_weights(vae, path)
        except (Damaged, FileNotFoundError):
            continue
        return path
    return None
