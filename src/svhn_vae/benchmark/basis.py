"""The principal components, beside scikit-learn's automatic solver."""

import numpy as np
from sklearn.decomposition import PCA

from svhn_vae.benchmark.clock import seconds_of
from svhn_vae.scatter import sample_moments

NUM_PIXELS = 3072


def pictures(num: int) -> np.ndarray:
    """x (N, D) float64 with a spectrum that falls off as that of pictures does."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, NUM_PIXELS))
    x *= 10 / np.arange(1, NUM_PIXELS + 1)
    return x @ np.linalg.qr(rng.standard_normal((NUM_PIXELS, NUM_PIXELS)))[0]


def times(num: int, num_components: int, repeats: int) -> dict[str, list[float]]:
    """Seconds for the mean and whole spectrum, and for scikit-learn's automatic choice for some components."""
    x = pictures(num)
    return {
        "whole spectrum": [seconds_of(lambda: sample_moments(x)) for _ in range(repeats)],
        f"scikit-learn, automatic, {num_components} components": [
            seconds_of(lambda: PCA(num_components, random_state=0).fit(x)) for _ in range(repeats)
        ],
    }


def disagreement(num: int) -> float:
    """The largest relative difference of an eigenvalue to scikit-learn's by the full decomposition."""
    x = pictures(num)
    due = PCA(svd_solver="full").fit(x).explained_variance_
    own = sample_moments(x).eigenvalues.numpy()[: len(due)]
    return float(np.max(np.abs(own - due)[:-1] / due[:-1]))
