"""The synthetic house numbers are held to real SVHN: figures of 7,499 real crops, as numbers, without the images.

Pixels are in [0, 1), dequantised as (x + u) / 256; D = 3072; variances and energies in those units.
"""

import numpy as np
import pytest
from scipy import linalg

from svhn_vae.data.digits import draw_digits

REAL_MEANS = np.array([0.45, 0.46, 0.48])  # of red, green and blue
REAL_STDS = np.array([0.20, 0.21, 0.21])
REAL_CAST_STDS = np.array([0.057, 0.037])  # of an image's mean blue, and red, minus its mean luma
REAL_EIGENVALUES = {1: 99.2, 2: 7.50, 10: 1.55, 50: 0.153, 100: 0.0336, 200: 6.1e-3, 500: 4.4e-4, 1000: 3.8e-5}
# Smoothness of an image: the log of its energy outside the first 500 of the principal components of 5,000 images.
# For 5,000 real crops drawn at random its mean is -2.81 and its standard deviation 0.74; were all pictures equally
# smooth, it would be 0.07 (a Gaussian with the real eigenvalues).
REAL_SMOOTHNESS_MEAN, REAL_SMOOTHNESS_STD = -2.81, 0.74


@pytest.fixture(scope="module")
def drawn():
    return draw_digits(5000, seed=0)


@pytest.fixture(scope="module")
def principal(drawn):
    """centred images (5000, D), eigenvalues (D,) in falling order and their vectors (D, D) in columns"""
    images, _ = drawn
    noise = np.random.default_rng(0).random(images.shape)
    x = ((images + noise) / 256).reshape(len(images), -1)
    x -= x.mean(axis=0)
    eigenvalues, vectors = linalg.eigh(x.T @ x / (len(x) - 1), overwrite_a=True)
    return x, eigenvalues[::-1], vectors[:, ::-1]


def test_shapes_types_and_labels(drawn):
    images, labels = drawn
    assert images.shape == (5000, 3, 32, 32)
    assert labels.shape == (5000,)
    assert images.dtype == labels.dtype == np.uint8
    share = np.bincount(labels, minlength=10) / len(labels)
    assert len(share) == 10
    assert share.min() > 0.05  # in SVHN from 0.063 to 0.193
    assert share.max() < 0.22


@pytest.mark.parametrize("num_images", [0, 1, 100, 101])
def test_image_depends_on_seed_and_index_alone(drawn, num_images):
    np.random.seed(num_images)  # the global state must not matter, and is left alone
    state = np.random.get_state()[1].copy()
    images, labels = draw_digits(num_images, seed=0)
    assert np.array_equal(images, drawn[0][:num_images])
    assert np.array_equal(labels, drawn[1][:num_images])
    assert np.array_equal(np.random.get_state()[1], state)


def test_no_image_is_drawn_twice(drawn):
    images = np.concatenate([drawn[0], draw_digits(1000, seed=1)[0]])
    assert len({image.tobytes() for image in images}) == len(images)


def test_colours_are_those_of_street_photos(drawn):
    pixels = drawn[0] / 255
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), REAL_MEANS, atol=0.05)
    np.testing.assert_allclose(pixels.std(axis=(0, 2, 3)), REAL_STDS, atol=0.05)


def test_colour_casts_run_from_sky_to_brick(drawn):
    red, green, blue = (drawn[0] / 255).mean(axis=(2, 3)).T
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    np.testing.assert_allclose([(blue - luma).std(), (red - luma).std()], REAL_CAST_STDS, rtol=0.1)
    assert np.corrcoef(blue - luma, red - luma)[0, 1] < -0.5  # really -0.75: few walls are green or purple


@pytest.mark.parametrize("number", REAL_EIGENVALUES)
def test_eigenvalue_is_that_of_real_crops(principal, number):
    _, eigenvalues, _ = principal
    assert 1 / 2.5 < eigenvalues[number - 1] / REAL_EIGENVALUES[number] < 2.5


def test_smoothness_varies_from_picture_to_picture(principal):
    x, _, vectors = principal
    smoothness = np.log(((x @ vectors[:, 500:]) ** 2).sum(axis=1))
    assert smoothness.mean() == pytest.approx(REAL_SMOOTHNESS_MEAN, abs=0.5)
    assert smoothness.std() == pytest.approx(REAL_SMOOTHNESS_STD, abs=0.2)


def test_label_is_the_digit_in_the_middle(drawn):
    """The most alike of 4,000 labelled pictures, or of their negatives, mostly has the same label."""
    images, labels = drawn
    middle = images.mean(axis=1)[:, 3:29, 8:24].reshape(len(images), -1)
    middle -= middle.mean(axis=1, keepdims=True)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    likeness = np.abs(middle[4000:] @ middle[:4000].T)
    accuracy = np.mean(labels[:4000][likeness.argmax(axis=1)] == labels[4000:])
    assert accuracy > 0.6, "the most frequent label alone would reach 0.19"
