"""The principal components, beside scikit-learn's automatic solver."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from svhn_vae.data.cache import fitted_moments
from svhn_vae.model.covariance import sample_moments

from .clock import seconds_of

NUM_PIXELS = 3072
NUM_COMPONENTS = 500
MAX_HELD = 100_000  # images that scikit-learn is given: in float64 they are 2.5 GB


def times(num: int, device: torch.device) -> dict[str, float]:
    """Seconds for the mean and whole spectrum of uint8 images, dequantised on the way, and for some components by
    scikit-learn's automatic choice of what it is given in float64."""
    images = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8)
    found = {"whole spectrum": seconds_of(lambda: fitted_moments(images, "sample", device))}
    if num <= MAX_HELD:
        x, automatic = images.flatten(1).double().numpy(), PCA(NUM_COMPONENTS, random_state=0)
        found[f"scikit-learn, automatic, {NUM_COMPONENTS} components"] = seconds_of(lambda: automatic.fit(x))
    return found


def disagreement(num: int) -> float:
    """The largest relative difference of an eigenvalue to scikit-learn's by the full decomposition, of x with a
    spectrum that falls off as that of pictures does."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, NUM_PIXELS)) * (10 / np.arange(1, NUM_PIXELS + 1))
    x = x @ np.linalg.qr(rng.standard_normal((NUM_PIXELS, NUM_PIXELS)))[0]
    due = PCA(svd_solver="full").fit(x).explained_variance_
    own = sample_moments(torch.from_numpy(x).split(1000)).eigenvalues.numpy()[: len(due)]
    return float(np.max(np.abs(own - due)[:-1] / due[:-1]))
