"""Sample quality: closed forms, double loops, torchmetrics and point sets made by hand are the oracles."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.kid import poly_mmd

from svhn_vae.evaluation import samples as module
from svhn_vae.evaluation.judge import Judge, Opinion
from svhn_vae.evaluation.samples import (
    agreement,
    digit_entropy,
    frechet_distance,
    judge_scores,
    kernel_distance,
    memorised,
    nearest_neighbours,
    precision,
    recall,
    references,
    to_levels,
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that every matrix of pairs here is made of several."""
    monkeypatch.setattr(module, "MAX_PAIRS", 100)


def normal(num: int, num_dims: int = 6, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(num, num_dims) @ torch.diag(torch.linspace(0.5, 2, num_dims)) + shift


# --- distances between two laws ---------------------------------------------------------------------------------------


def with_moments(mean: torch.Tensor, covariance: torch.Tensor, num: int = 50) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    points = torch.randn(num, len(mean), dtype=torch.float64)
    points -= points.mean(0)
    return torch.linalg.solve(torch.linalg.cholesky(points.T.cov()), points.T).T @ root(covariance).T + mean


def root(covariance: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cholesky(covariance.double())


def test_frechet_distance_of_gaussians_on_common_axes():
    """|m - n|^2 + sum (s - t)^2 of standard deviations s and t."""
    m, n, s, t = (torch.tensor(row).double() for row in ([1.0, 2, 3], [0.0, 2, 5], [1.0, 2, 3], [2.0, 2, 0.5]))
    found = frechet_distance(with_moments(m, torch.diag(s**2)), with_moments(n, torch.diag(t**2)))
    assert found == pytest.approx(5 + 1 + 6.25)


def test_frechet_distance_of_any_gaussians():
    a, b = normal(40), normal(60, shift=1) @ torch.randn(6, 6)
    A, B = a.double().T.cov().numpy(), b.double().T.cov().numpy()
    due = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(A + B - 2 * sqrtm(A @ B).real)
    assert frechet_distance(a, b) == pytest.approx(due, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(due, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


def test_frechet_distance_with_fewer_samples_than_features_and_dead_features():
    """ReLU features: some are 0 in all images."""
    a, b = normal(10, 30).relu(), normal(20, 30).relu()
    a[:, :5] = b[:, :5] = 0
    A, B = (points.double().T.cov().numpy() for points in (a, b))
    values, vectors = np.linalg.eigh(A)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ B @ half).clip(0)).sum()
    due = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(A) + np.trace(B) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(due, rel=1e-5)


def test_kernel_distance_is_the_double_loop():
    a, b = normal(9), normal(16, shift=0.3)

    def mean_kernel(one, other, *, without_itself: bool) -> float:
        kernels = [
            (float(p @ q) / 6 + 1) ** 3
            for i, p in enumerate(one)
            for j, q in enumerate(other)
            if not (without_itself and i == j)
        ]
        return sum(kernels) / len(kernels)

    within = mean_kernel(a, a, without_itself=True) + mean_kernel(b, b, without_itself=True)
    assert kernel_distance(a, b) == pytest.approx(within - 2 * mean_kernel(a, b, without_itself=False), rel=1e-4)


def test_kernel_distance_is_that_of_torchmetrics():
    a, b = normal(30), normal(30, shift=0.3)
    assert kernel_distance(a, b) == pytest.approx(poly_mmd(a.double(), b.double()).item())


def test_kernel_distance_of_one_law_is_unbiased():
    found = torch.tensor([kernel_distance(normal(20), normal(30)) for _ in range(300)])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(300)
    assert (found < 0).double().mean() > 0.3


# --- precision and recall ---------------------------------------------------------------------------------------------

LINE = torch.arange(10.0)[:, None]  # each radius is 2, but 3 at both ends: the third neighbour


@pytest.mark.parametrize(("at", "due"), [(4.5, 1), (-2.9, 1), (-3.1, 0), (11.9, 1), (12.1, 0), (99, 0)])
def test_precision_of_a_point_by_a_line(at, due):
    """The balls reach from -3 to 12."""
    assert precision(torch.tensor([[at]]), LINE) == due


def test_samples_of_one_mode_are_precise_and_recall_little():
    real = torch.cat([LINE, LINE + 1000])
    generated = LINE[2:8] + 0.25
    assert precision(generated, real) == 1
    assert recall(generated, real) == 0.5
    assert precision(LINE, LINE) == recall(LINE, LINE) == 1


def test_precision_and_recall_need_neighbours():
    with pytest.raises(ValueError, match="more than k = 3 images of a kind, got 3"):
        precision(LINE, LINE[:3])


# --- digits, neighbours, memory ---------------------------------------------------------------------------------------


def test_digit_entropy():
    entropy, frequencies = digit_entropy(torch.tensor([0, 0, 9, 9]))
    assert entropy == pytest.approx(math.log(2))
    assert frequencies.tolist() == [0.5, *[0] * 8, 0.5]
    assert digit_entropy(torch.arange(10)).entropy == pytest.approx(math.log(10))
    assert digit_entropy(torch.zeros(5, dtype=torch.long)).entropy == 0


def test_nearest_neighbours_of_images_are_those_of_a_loop():
    points, references = (torch.randint(0, 256, (num, 3, 4, 4), dtype=torch.uint8) for num in (20, 30))
    points[3] = references[17]
    distances, indices = nearest_neighbours(points, references)
    every = (points[:, None].double() - references.double()).square().sum((2, 3, 4)).sqrt()
    assert torch.equal(indices, every.argmin(1))
    torch.testing.assert_close(distances, every.min(1).values.float())
    assert (distances[3], indices[3]) == (0, 17)


def test_memorised():
    known, real = normal(200), normal(100)
    assert memorised(known[:50] + 1e-3, real, known) == 1
    assert memorised(normal(50) + 100, real, known) == 0
    assert memorised(real, real, known) == 0.5
    assert memorised(normal(200), real, known) == pytest.approx(0.5, abs=0.1)


# --- what the judge says ----------------------------------------------------------------------------------------------


class Brightness(Judge):
    """Sees nothing but the mean level, in steps of 25.6 for the digit."""

    def opinion(self, images):
        level = images.float().mean((1, 2, 3))
        return Opinion(level[:, None], (level / 25.6).long())


def flat(*levels: float) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def test_agreement_of_analogies():
    variants = flat(0, 10, 200, 51, 61, 71).view(2, 3, 3, 4, 4)
    digit, colour_distance, of_others = agreement(Brightness(1, 0), flat(0, 51), variants)
    assert digit == pytest.approx((2 + 1) / 6)  # of 0: 0 and 0, not 7; of 1: 1, not 2 and 2
    assert colour_distance == pytest.approx((10 + 200 + 10 + 20) / 6 * 3**0.5 / 256)
    assert of_others == pytest.approx((51 + 41 + 149 + 51 + 61 + 71) / 6 * 3**0.5 / 256)


def test_judge_scores_are_of_the_samples():
    judge = Brightness(1, 0)
    samples, test_images, train_images = flat(10, 20, 30, 40, 50), flat(*range(0, 200, 10)), flat(*range(5, 255, 5))
    scores = judge_scores(judge, samples, references(judge, test_images, train_images))
    level, of_test, of_train = (judge.opinion(images).features for images in (samples, test_images, train_images))
    assert math.isnan(scores.pop("sharpness"))  # these test images have no detail at all
    assert scores == {
        "frechet": frechet_distance(level, of_test),
        "kernel": kernel_distance(level, of_test),
        "precision": 1,
        "recall": recall(level, of_test),
        "digit_entropy": pytest.approx(-0.4 * math.log(0.4) - 0.6 * math.log(0.6)),  # 0 0 1 1 1
        "memorised": memorised(level, of_test, of_train),
    }
    assert all(isinstance(score, float) for score in scores.values())


def test_generated_pixels_have_the_levels_of_images():
    x = torch.tensor([-0.5, 0.0, 0.5 / 256, 255 / 256, 0.9999, 1.0, 7.0])
    assert to_levels(x).tolist() == [0, 0, 0, 255, 255, 255, 255]
