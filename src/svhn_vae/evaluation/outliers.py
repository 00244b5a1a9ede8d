"""Does a model tell images of another kind from its own? Density models are known to like smooth images better than the
ones that they learnt (Nalisnick et al. 2019), so the bound is looked at beside the bits that a PNG takes, and the KL.

Shapes: N images (N, 3, H, W) uint8.
"""

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from torch import Tensor

from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.evaluation.bound import evaluation_pass
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.model.vae import VAE

SCORES = ("bits_per_dim", "bits_less_png", "kl")  # each is larger for what a model finds strange


class Outliers(NamedTuple):
    """Of one kind of images: mean scores, and how well each tells them from test images: the share of pairs in which
    the outlier has the larger one (the area under the ROC curve): 0.5 is chance, below it outliers seem more usual."""

    means: dict[str, float]
    auroc: dict[str, float]


def outliers(vae: VAE, test: Tensor, others: dict[str, Tensor]) -> dict[str, Outliers]:
    """Of a model of densities, in evaluation mode: name of a kind -> its scores; test images are the first."""
    own = strangeness(vae, test)
    found = {"test images": Outliers({name: each.mean().item() for name, each in own.items()}, {})}
    for kind, images in others.items():
        scores = strangeness(vae, images)
        areas = {name: area(scores[name], own[name]) for name in SCORES}
        found[kind] = Outliers({name: each.mean().item() for name, each in scores.items()}, areas)
    return found


@torch.no_grad()
def strangeness(vae: VAE, images: Tensor) -> dict[str, np.ndarray]:
    """SCORES of each image, (N,) each."""
    terms = [
        evaluation_pass(vae, batch, index).terms
        for index, batch in enumerate(EvaluationBatches(images, vae.representation))
    ]
    elbo, kl = (torch.cat([getattr(each, name) for each in terms]).cpu().double() for name in ("elbo", "kl"))
    bits = bits_per_dim(elbo, images[0].numel()).numpy()
    return dict(zip(SCORES, (bits, bits - png_bits(images), kl.numpy()), strict=True))


def area(outlying: np.ndarray, own: np.ndarray) -> float:
    return mannwhitneyu(outlying, own).statistic.item() / (len(outlying) * len(own))


def png_bits(images: Tensor) -> np.ndarray:
    """(N,): bits per dimension of each image as a PNG, the header included."""
    sizes = []
    for pixels in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        sizes.append(8 * file.tell() / pixels.size)
    return np.array(sizes)


def plain_outliers(num: int, image_shape: torch.Size) -> dict[str, Tensor]:
    """Images of no kind: independent uniform pixels, and one colour each; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (num, *image_shape), generator=generator, dtype=torch.uint8)
    colours = torch.randint(0, 256, (num, image_shape[0], 1, 1), generator=generator, dtype=torch.uint8)
    return {"noise": noise, "constant images": colours.expand_as(noise).contiguous()}
