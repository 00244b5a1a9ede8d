"""Sheets: each image where it belongs, at its values. The gallery: each picture's rule, against an oracle."""

import re

import numpy as np
import pytest
import torch

from conftest import composed, options
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.experiment.build import build_vae, make
from svhn_vae.model.coordinates import Representation
from svhn_vae.model.covariance import Moments
from svhn_vae.model.networks import Inferred, Networks
from svhn_vae.model.prior import StandardNormal
from svhn_vae.model.vae import VAE
from svhn_vae.model.variance import DiagonalNormal, VarianceHead
from svhn_vae.pictures.gallery import (
    OF_PROJECTIONS,
    PICTURES,
    Subject,
    draw,
    elbos,
    evenly,
    farthest,
    first_of_each,
    pixel_stddev,
    possible,
    round_trip,
)
from svhn_vae.pictures.sheet import (
    CAPTION_HEIGHT,
    GAP,
    LABEL_WIDTH,
    MAGNIFICATION,
    captioned,
    grid,
    labelled,
    stacked,
)

SIDE = 16  # pixels of an image
SIZE = SIDE * MAGNIFICATION + GAP
SHAPE, DIM = (3, SIDE, SIDE), 3 * SIDE**2


def moments(components: torch.Tensor, variances: torch.Tensor) -> Moments:
    mean = torch.full((DIM,), 0.5).double()
    return Moments(mean, components, variances.double(), torch.tensor(1e9), variances.double().sum())


MOMENTS = moments(torch.eye(DIM), torch.full((DIM,), 1 / 12))  # of independent uniform pixels


def at(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The image (H, W, 3) in this row and column of a grid, not magnified, as x."""
    image = picture[row * SIZE : (row + 1) * SIZE - GAP, column * SIZE : (column + 1) * SIZE - GAP]
    return image[::MAGNIFICATION, ::MAGNIFICATION].astype(float) / 255


def test_a_grid_puts_images_row_by_row_magnifies_and_clips_them():
    x = torch.arange(6).view(6, 1, 1, 1).expand(6, *SHAPE) / 255
    sheet = grid(x, 3)
    assert sheet.shape == (2 * SIZE, 3 * SIZE, 3)
    assert sheet[::SIZE, ::SIZE, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    x = torch.zeros(1, *SHAPE)
    x[0, 1, 4, 7] = 7.0
    sheet = grid(x, 1)
    top, left = 4 * MAGNIFICATION, 7 * MAGNIFICATION
    assert (sheet[top : top + MAGNIFICATION, left : left + MAGNIFICATION] == [0, 255, 0]).all()
    assert (sheet[:-GAP, :-GAP, 1] > 0).sum() == MAGNIFICATION**2
    levels = torch.arange(256)
    x = ((levels + 0.5) / 256).view(256, 1, 1, 1).expand(256, 3, 1, 1)
    assert (grid(x, 256)[0, :: MAGNIFICATION + GAP, 0] == levels.numpy()).all()
    assert (grid(-x, 256)[:-GAP, :: MAGNIFICATION + GAP] == 0).all()


def test_captions_gaps_and_labels():
    """A caption is below in as many lines as it needs, gaps are between pictures alone, labels left of their rows."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 300, 3), dtype=np.uint8)
    sheet = captioned(picture, "samples, synthetic data")
    assert sheet.shape == (60 + CAPTION_HEIGHT, 300, 3)
    assert (sheet[:60] == picture).all()
    assert (sheet[60:] < 128).any()
    long = captioned(picture, "word " * 30)
    assert len(long) > 60 + 3 * CAPTION_HEIGHT
    assert (long[60:, -4:] == 255).all()  # nothing is cut off
    sheet = stacked([np.full((5, 20, 3), 1, np.uint8), np.full((6, 10, 3), 2, np.uint8)], gap=4)
    assert sheet[..., 0].tolist() == [[1] * 20] * 5 + [[255] * 20] * 4 + [[2] * 10 + [255] * 10] * 6
    sheet = labelled(picture, ["K = 1", "", "K = 3"])
    assert (sheet[:, LABEL_WIDTH:] == picture).all()
    margins = sheet[:, :LABEL_WIDTH].reshape(3, 20, LABEL_WIDTH, 3)
    assert [bool((margin < 128).any()) for margin in margins] == [True, False, True]


class Copies(Networks):
    """z is the first elements of y and is decoded to them; the posterior's sigma is 0.1."""

    def __init__(self, event_shape: torch.Size, latent_dim: int) -> None:
        super().__init__()
        self.event_shape, self.latent_dim = event_shape, latent_dim

    def forward(self, y: torch.Tensor, noise: torch.Tensor) -> Inferred:
        mean = y.flatten(1)[:, : self.latent_dim]
        log_variance = torch.full_like(mean, 2 * np.log(0.1))
        z = mean + 0.1 * noise
        return Inferred(mean, log_variance, log_variance, z, *self.decode(z))

    def decode(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.cat([z, z.new_zeros(len(z), self.event_shape.numel() - self.latent_dim)], dim=1)
        return y.view(-1, 1, *self.event_shape), z.new_zeros(len(z), 0)

    def shrink(self, factor: float) -> None:
        raise NotImplementedError


class Known(VarianceHead):
    """A sigma per element of y, from 0.05 up."""

    params_per_element = 1

    def __init__(self, event_shape: torch.Size) -> None:
        super().__init__(event_shape)
        self.sigma = 0.05 + 0.2 * torch.rand(event_shape)

    def forward(self, params: torch.Tensor) -> DiagonalNormal:
        return DiagonalNormal(params[:, 0], 2 * self.sigma.log())


def built(*overrides: str) -> Representation:
    return make("pca", composed(*overrides).pca, image_shape=SHAPE)


def part(num: int) -> LabelledImages:
    labels = torch.arange(num, dtype=torch.uint8) % 10
    return LabelledImages(torch.randint(0, 256, (num, *SHAPE), dtype=torch.uint8), labels)


def subject(representation: Representation, num_val: int = 40) -> Subject:
    shape = representation.event_shape
    networks = Copies(shape, shape.numel())
    vae = VAE(representation, networks, Known(shape), StandardNormal(networks)).eval()
    return Subject(vae, Dataset("random", True, part(30), part(num_val), part(130)), "stub", seed=0, temperature=1.0)


@pytest.fixture(scope="module")
def whole() -> Subject:
    """A model that reproduces every image."""
    torch.manual_seed(0)
    return subject(built("model=conv", "pca=unit_pixels").fit(MOMENTS))


@pytest.fixture(scope="module")
def truncated() -> Subject:
    """In a random basis, the variances a power law."""
    torch.manual_seed(0)
    representation = built("pca.whiten=true", "pca.n_components=200", "pca.residual=spectrum")
    basis = torch.linalg.qr(torch.randn(DIM, DIM)).Q
    return subject(representation.fit(moments(basis, 1 / torch.arange(1, DIM + 1))))


def test_the_greedy_rule_on_a_line():
    """Of the points 0..10 and the first at 0: 10 is farthest, then 5, then 2 or 3, 7 or 8: the first of a tie. And of
    so many candidates, and no more."""
    line = torch.arange(1000.0).view(1000, 1, 1, 1)
    kept = farthest(line[:11], line[:1], 5, 11, torch.Generator().manual_seed(0)).flatten().tolist()
    assert kept[:2] == [10, 5]
    assert set(kept[2:4]) <= {2, 3, 7, 8}
    assert np.diff(sorted([0, *kept[:4]])).min() == 2
    drawn = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:100]
    [kept] = farthest(line, line[:1], 1, 100, torch.Generator().manual_seed(3))
    assert kept.item() == drawn.max().item()


@pytest.mark.parametrize("name", ["whole", "truncated"])
def test_pixel_stddev_is_that_of_autograds_jacobian(name, request):
    vae = request.getfixturevalue(name).vae
    shape = vae.representation.event_shape
    jacobian = torch.autograd.functional.jacobian(vae.representation.inverse, torch.zeros(1, *shape)).view(DIM, -1)
    expected = (jacobian.square() @ vae.variance.sigma.flatten().square()).sqrt().view(1, *SHAPE)
    found = pixel_stddev(vae.representation, vae.variance(torch.zeros(1, 1, *shape)), 2000)
    error = (found / expected - 1).square().mean().sqrt().item()
    # Where y are pixels it is exact.
    assert error == (pytest.approx(0, abs=1e-6) if name == "whole" else pytest.approx(1 / np.sqrt(2 * 2000), rel=0.2))


def test_pixel_stddev_sees_that_errors_are_correlated(truncated):
    """With one noise for all of y, each pixel's sigma is a sum of components, not of their squares."""
    representation = truncated.vae.representation
    together = torch.distributions.LowRankMultivariateNormal(
        torch.zeros(1, 200), torch.ones(1, 200, 1), torch.full((1, 200), 1e-8)
    )
    expected = (representation.scale[:200] @ representation.components[:200]).abs().view(1, *SHAPE)
    found = pixel_stddev(representation, together, 2000)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-3)


def test_a_round_trip_is_the_image_or_the_models_inverse_and_levels_wrap_as_bytes_do(truncated):
    representation, some = truncated.vae.representation, torch.rand(4, *SHAPE)
    torch.testing.assert_close(round_trip(representation, some, DIM), some, rtol=0, atol=1e-4)
    expected = representation.inverse(representation(some).y)
    torch.testing.assert_close(round_trip(representation, some, 200), expected, rtol=0, atol=1e-4)
    picture, caption = PICTURES["pca_round_trip"](truncated)
    assert "PCA" in caption
    x = (truncated.dataset.val.images[:1] + 0.5) / 256
    level = 256 * round_trip(truncated.vae.representation, x, 500)[0].permute(1, 2, 0).double().numpy()
    safe = np.abs(level - level.round()) > 1e-3  # not where rounding decides
    wrapped = np.floor(level).astype(int).astype(np.uint8)
    assert (level[safe] > 256).any()  # else this tests nothing
    shown = at(picture[-SIZE:, LABEL_WIDTH:], 0, 0) * 255
    assert np.abs(shown - wrapped)[safe].max() <= 1  # the picture has 255 steps, x has 256 levels


def test_a_perfect_linear_model_shows_the_originals_and_straight_lines_between_them(whole):
    picture, _ = PICTURES["reconstructions"](whole)
    for row in range(0, 8, 2):
        assert (at(picture, row, 9) == at(picture, row + 1, 9)).all()
    assert (at(picture, 0, 0) * 255 == whole.dataset.val.images[0].permute(1, 2, 0).numpy()).all()
    picture, _ = PICTURES["interpolations"](whole)
    first, last = at(picture, 2, 0), at(picture, 2, 11)
    assert (last == at(picture, 3, 0)).all()
    for step in range(10):
        np.testing.assert_allclose(at(picture, 2, 1 + step), first + (last - first) * step / 9, atol=1 / 255)


def test_a_traversal_is_the_decoders_image_of_one_latent_of_an_image_changed(whole):
    """The image whose pixels differ most; the last of its row: the latent whose posterior mean varies most at 3."""
    picture, what = PICTURES["traversals"](whole)
    vae, images = whole.vae, whole.dataset.val.images
    noise = torch.zeros(len(images), vae.networks.latent_dim)
    codes = vae.networks(vae.representation((images + 0.5) / 256).y, noise).mean
    start = images.numpy().reshape(len(images), -1).std(1).argmax()
    z = codes[start][None].clone()
    z[0, codes.std(0).argmax()] = 3.0
    expected = vae.decode_mean(z)[0].permute(1, 2, 0).clamp(0, 1)
    np.testing.assert_allclose(at(picture, 0, 10), expected, atol=1 / 255)
    for row in range(10):
        assert (at(picture, row, 0) * 255 == images[start].permute(1, 2, 0).numpy()).all()
    assert "the 10 latents whose means vary most" in what


def test_arithmetic_of_a_linear_model_adds_the_difference_of_the_mean_images(whole):
    picture, _ = PICTURES["arithmetic"](whole)
    images, labels = whole.dataset.val
    means = [images[labels == digit].double().mean(0).permute(1, 2, 0).numpy() / 255 for digit in range(10)]
    for source, target in ((0, 0), (3, 8), (9, 1)):
        expected = at(picture, source, 0) - means[source] + means[target]
        np.testing.assert_allclose(at(picture, source, 1 + target), expected.clip(0, 1), atol=2 / 255)


def test_analogies_begin_with_the_image_and_are_passes_of_it(whole):
    picture, _ = PICTURES["analogies"](whole)
    original = at(picture, 4, 0)
    assert (original * 255 == whole.dataset.val.images[4].permute(1, 2, 0).numpy()).all()
    passes = [at(picture, 4, column) for column in range(1, 10)]
    assert len({image.tobytes() for image in passes}) == 9
    for image in passes:
        inside = (original > 0.4) & (original < 0.6)  # not clipped
        assert (image - original)[inside].std() == pytest.approx(0.1, rel=0.25)  # the posterior's sigma


def test_sigma_has_one_scale_which_the_caption_states_and_noisy_samples_have_it(whole, truncated):
    picture, caption = PICTURES["sigma"](whole)
    white = float(re.search(r"white: ([0-9.]+) or more", caption)[1])
    expected = (whole.vae.variance.sigma.permute(1, 2, 0) / white).clamp(max=1).numpy()
    assert np.abs(at(picture, 2, 5) - expected).mean() < 0.03
    noisy, caption = PICTURES["samples_noisy"](truncated)
    clean, _ = PICTURES["samples"](truncated)
    assert f"{DIM - 200} components" in caption
    assert 0 < np.abs(at(noisy, 0, 0) - at(clean, 0, 0)).mean() < 0.5


def test_likely_images_are_sorted_by_the_bound(whole):
    picture, caption = PICTURES["likely"](whole)
    images = whole.dataset.test.images
    order = elbos(whole.vae, images).argsort(descending=True)
    for row, column, index in ((0, 0, order[0]), (4, 9, order[49])):
        assert (at(picture, row, column) * 255 == images[index].permute(1, 2, 0).numpy()).all()
    assert (at(picture[-5 * SIZE :], 4, 9) * 255 == images[order[-1]].permute(1, 2, 0).numpy()).all()
    assert "bits/dim" in caption


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_depends_on_its_seed_alone_and_says_what_it_is(name, truncated):
    torch.manual_seed(1)
    first = draw(truncated, name)
    state = torch.get_rng_state()
    again = draw(truncated, name)
    assert (torch.get_rng_state() == state).all()
    assert first.dtype == np.uint8
    assert (first == again).all()
    other = draw(truncated._replace(seed=1), name)
    depends_on_the_seed = name in ("samples", "samples_noisy", "analogies", "sigma")
    assert (first != other).any() == depends_on_the_seed
    one = Dataset("random", True, part(1), part(1), part(1))
    assert draw(truncated._replace(dataset=one), name).size  # a single validation image is enough


HEADS = [["model=conv", f"variance={head}"] for head in options("variance") if head != "spectral"]  # some need images
NETWORKS = [[f"model={model}"] for model in options("model") if model not in ("spectral", "ladder")]
OTHERS = [["model=ladder", "model.num_levels=3"], ["experiment=spectral", f"pca.n_components={DIM}"]]


@pytest.mark.parametrize("choices", [*HEADS, *NETWORKS, *OTHERS], ids=" ".join)
def test_there_are_pictures_of_every_head_and_network(choices):
    vae = build_vae(composed(*choices, "network_scale=0.0625"), SHAPE).eval()
    vae.representation.fit(MOMENTS)
    few = Subject(vae, Dataset("random", True, part(4), part(4), part(4)), "stub", seed=0, temperature=1.0)
    for name in ("samples_noisy", "interpolations", "sigma", "likely"):
        assert draw(few, name).std() > 0


def test_pictures_of_a_basis_need_one_and_entries_are_chosen_evenly(whole, truncated):
    """And the first of each digit that occurs."""
    assert possible(truncated.vae) == list(PICTURES)
    assert set(PICTURES) - set(possible(whole.vae)) == OF_PROJECTIONS
    assert evenly(torch.arange(95), 10).tolist() == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81]
    assert evenly(torch.arange(3), 10).tolist() == [0, 1, 2]
    first, digits = first_of_each(torch.tensor([5, 2, 5, 9, 2], dtype=torch.uint8))
    assert (first.tolist(), digits.tolist()) == ([1, 0, 3], [2, 5, 9])
