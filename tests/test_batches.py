"""Batches of features: every image, in the order and with the noise promised; x comes back by a full basis."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy import stats
from sklearn.decomposition import PCA as SklearnPCA
from torch.nn import functional

from conftest import composed, in_batches
from svhn_vae.data import batches, module
from svhn_vae.data.batches import Augmentation, Batching, EvaluationBatches, TrainingBatches, dequantise, moved
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import PCA, Features, Pixels
from svhn_vae.model.covariance import Moments, sample_moments

SHAPE = (3, 4, 4)
NUM_PIXELS = 48
NUM_IMAGES = 25
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *SHAPE), dtype=np.uint8))


def some_moments() -> Moments:
    """Any basis will do: it need not be that of the images."""
    basis, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((NUM_PIXELS, NUM_PIXELS)))
    mean = torch.linspace(0.4, 0.6, NUM_PIXELS, dtype=torch.float64)
    eigenvalues = torch.linspace(1, 0.1, NUM_PIXELS, dtype=torch.float64)
    components = torch.from_numpy(basis.astype(np.float32))
    return Moments(mean, components, eigenvalues, torch.tensor(torch.inf), eigenvalues.sum())


def full_pca(**settings) -> PCA:
    """K = D: nothing is cut off, so that the inverse gives x back."""
    cfg = composed("pca=default", f"pca.n_components={NUM_PIXELS}", "pca.whiten=true").pca
    return instantiate(cfg, image_shape=SHAPE, **settings).fit(some_moments())


def pixels() -> Pixels:
    return instantiate(composed("pca=none").pca, image_shape=SHAPE).fit(some_moments())


@pytest.fixture(params=[full_pca, pixels], ids=["pca", "pixels"])
def representation(request):
    return request.param()


@pytest.fixture(autouse=True)
def tens(monkeypatch):
    """More than one chunk of images that are evaluated, and more than one group of a draw."""
    monkeypatch.setattr(batches, "PROJECTED_ON_CPU", 10)
    monkeypatch.setattr(batches, "CHUNK", 10)


def training(images, representation, epoch=lambda: 0, **settings) -> TrainingBatches:
    usual = {"batch_size": 4, "per_step": 1, "add_noise": True, "epochs_per_noise": 3, "shuffle": True, "seed": 0}
    batching = Batching(**usual | {"augmentation": Augmentation(share=0.0, shift=2, light=0.1)} | settings)
    return TrainingBatches(images, torch.full((len(images),), -1), representation, batching, epoch)


def taken(images, representation, **settings) -> list[Features]:
    """The batches of an epoch, whatever the steps."""
    return [batch for step in training(images, representation, **settings) for batch in step]


def x_of(passed, representation) -> torch.Tensor:
    """The images x of one pass over batches of features, or over steps of them, in their order."""
    batches = [each for step in passed for each in ([step] if isinstance(step, Features) else step)]
    return torch.cat([representation.inverse(batch.y) for batch in batches])


def numbers_of(x: torch.Tensor) -> list[int]:
    """Which of IMAGES each x is: the one whose levels are nearest."""
    levels = 256 * x.flatten(1) - 0.5
    distance = torch.cdist(levels, IMAGES.flatten(1).float())
    assert distance.min(1).values.max() < 7  # at most 0.5 in each of 48 pixels: 3.5
    return distance.argmin(1).tolist()


def noise_difference(x: torch.Tensor, other: torch.Tensor) -> float:
    """Mean |u - v| of the noise in two x of the same images: 0 if it is the same, 1/3 if drawn apart."""
    return (256 * (x - other)).abs().mean().item()


SAME, APART = pytest.approx(0, abs=1e-3), pytest.approx(1 / 3, abs=0.05)


# --- dequantise -----------------------------------------------------------------------------------------------------


def test_levels_come_back_with_uniform_noise_of_the_seed_alone():
    """A density of x bounds the probability of the image only if x lies in the image's own cell. In millions of draws
    of u the roundings of float32 near 1 do occur."""
    state, first = torch.get_rng_state(), dequantise(IMAGES, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert noise_difference(dequantise(IMAGES, seed=3), first) == 0
    assert noise_difference(dequantise(IMAGES, seed=4), first) == APART
    levels = torch.cat([torch.arange(256, dtype=torch.uint8).repeat(2**14), torch.full((2**21,), 255).byte()])
    x = dequantise(levels, seed=0)
    assert x.dtype == torch.float32
    assert torch.equal((256 * x).floor(), levels.float())
    noise = 256 * x.double() - levels
    assert noise.mean().item() == pytest.approx(1 / 2, abs=1e-3)
    assert noise.var().item() == pytest.approx(1 / 12, abs=1e-3)
    assert stats.kstest(noise[::200], "uniform").pvalue > 0.001


# --- augmentation ---------------------------------------------------------------------------------------------------

WIDE = torch.randint(0, 256, (200, 3, 12, 10), generator=torch.Generator().manual_seed(0)).byte()


def test_an_image_is_moved_as_padding_and_cutting_moves_it():
    x = WIDE[:25].double()
    by = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for image, (down, across), found in zip(padded, by.tolist(), moved(x, by), strict=True):
        assert found.equal(image[:, 2 + down : 14 + down, 2 + across : 12 + across])


def test_a_share_of_the_images_is_changed_and_the_seed_decides():
    changed = Augmentation(share=0.3, shift=0, light=0.2)(WIDE, seed=1)
    assert changed.equal(Augmentation(share=0.3, shift=0, light=0.2)(WIDE, seed=1))
    assert not changed.equal(Augmentation(share=0.3, shift=0, light=0.2)(WIDE, seed=2))
    num = (changed != WIDE).flatten(1).any(1).sum().item()
    assert 40 <= num <= 80  # 60, with a standard deviation of 6.5
    assert Augmentation(share=0.0, shift=2, light=0.2)(WIDE, seed=1) is WIDE


def test_light_is_a_line_of_each_colour_with_one_slope_per_image():
    """In the middle of the levels, where nothing is clipped; a rounded level is off by half of one."""
    images = 100 + WIDE % 50
    lit = Augmentation(share=1.0, shift=0, light=0.1)(images, seed=3).double().flatten(2)
    x = images.double().flatten(2)
    x_off, lit_off = x - x.mean(2, keepdim=True), lit - lit.mean(2, keepdim=True)
    slope = (x_off * lit_off).sum(2) / x_off.square().sum(2)  # (N, C)
    assert (slope - slope.mean(1, keepdim=True)).abs().max() < 0.02
    assert (lit_off - slope[..., None] * x_off).abs().max() < 1
    assert slope.mean(1).std().item() == pytest.approx(0.1, rel=0.2)
    brightness = lit.mean(2) - slope * x.mean(2) - (1 - slope) * x.mean((1, 2))[:, None]
    assert brightness.std().item() == pytest.approx(255 * 0.05, rel=0.1)


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_images", [1, 10, NUM_IMAGES])
def test_evaluation_gives_all_images_in_order(representation, num_images):
    evaluation = EvaluationBatches(IMAGES[:num_images], representation)
    assert [len(batch.y) for batch in evaluation] == [len(part) for part in IMAGES[:num_images].split(10)]
    assert len(evaluation) == -(-num_images // 10)
    assert numbers_of(x_of(evaluation, representation)) == list(range(num_images))


def test_every_evaluation_is_on_the_same_x_in_every_representation(representation):
    evaluation, other = EvaluationBatches(IMAGES, representation), pixels()
    first = x_of(evaluation, representation)
    torch.rand(3)  # the global state must not matter
    assert torch.equal(x_of(evaluation, representation), first)
    assert torch.equal(x_of(EvaluationBatches(IMAGES, representation), representation), first)
    assert noise_difference(x_of(EvaluationBatches(IMAGES, other), other), first) == SAME


def test_no_two_images_share_noise(representation):
    same = IMAGES[:1].expand(NUM_IMAGES, *SHAPE)
    for passed in (EvaluationBatches(same, representation), training(same, representation)):
        x = x_of(passed, representation)
        assert len(x.unique(dim=0)) == len(x)
        assert noise_difference(x[:10], x[10:20]) == APART  # of two chunks


@pytest.fixture
def dataset() -> Dataset:
    parts = (LabelledImages(part, torch.zeros(len(part))) for part in IMAGES.split([14, 4, 7]))
    return Dataset("random", True, *parts)


def test_splits_are_all_their_images_and_of_training_images_some(representation, dataset, monkeypatch):
    monkeypatch.setattr(module, "MAX_SEEN", 5)
    found, projected = EvaluationSplits(dataset, representation), []
    representation.register_forward_hook(lambda module, inputs, output: projected.append(len(output.y)))
    due = {"test": dataset.test.images, "val": dataset.val.images, "seen": dataset.train.images[::3]}
    for name, images in due.items():
        assert projected == []  # the test images are left alone until they are scored
        [batch], [again] = getattr(found, name), getattr(found, name)
        assert projected == ([len(images)] if representation.is_projection else [len(images)] * 2)
        assert torch.equal(batch.y, again.y)
        [expected] = EvaluationBatches(images, representation)
        assert torch.equal(batch.y, expected.y), name
        projected.clear()


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 13, NUM_IMAGES])
def test_epoch_holds_every_image_once_but_for_a_rest(representation, batch_size):
    epoch = taken(IMAGES, representation, batch_size=batch_size)
    assert [len(batch.y) for batch in epoch] == [batch_size] * len(epoch)
    numbers = numbers_of(x_of(epoch, representation))
    assert len(set(numbers)) == len(numbers) == NUM_IMAGES - NUM_IMAGES % batch_size


@pytest.mark.parametrize("per_step", [2, 50])
def test_steps_of_several_batches_hold_the_same(representation, per_step):
    one, several = taken(IMAGES, representation), training(IMAGES, representation, per_step=per_step)
    assert len(several) == len(list(several)) == -(-len(one) // per_step)
    found = [batch for step in several for batch in step]
    for ours, due in zip(found, one, strict=True):
        assert all(torch.equal(array, expected) for array, expected in zip(ours, due, strict=True))


def test_order_is_that_of_seed_and_epoch_and_the_rest_another_one_each_time(representation):
    def order(seed: int, epoch: int, **settings) -> tuple[int, ...]:
        passed = training(IMAGES, representation, lambda: epoch, seed=seed, **settings)
        return tuple(numbers_of(x_of(passed, representation)))

    orders = {order(seed, epoch) for seed in range(2) for epoch in range(4)}
    assert len(orders) == 8
    assert set().union(*orders) == set(range(NUM_IMAGES))
    assert len({frozenset(each) for each in orders}) > 3
    assert order(0, 0) == order(0, 0, add_noise=False) in orders
    assert order(0, 0, shuffle=False) == order(1, 2, shuffle=False) == tuple(range(24))


def x_of_epochs(representation, **settings) -> list[torch.Tensor]:
    """x of seven epochs of one loader, unshuffled."""
    now = [0]
    loader = training(IMAGES, representation, lambda: now[0], shuffle=False, **settings)
    passes = []
    for now[0] in range(7):
        passes.append(x_of(loader, representation))
    return passes


@pytest.mark.parametrize("epochs_per_noise", [1, 3])
def test_noise_of_a_projection_is_kept_for_some_epochs_and_that_of_pixels_for_none(representation, epochs_per_noise):
    passes = x_of_epochs(representation, epochs_per_noise=epochs_per_noise)
    for epoch in range(1, 7):
        is_kept = representation.is_projection and epoch % epochs_per_noise
        assert noise_difference(passes[epoch], passes[epoch - 1]) == (SAME if is_kept else APART)
    assert noise_difference(passes[0], passes[6]) == APART
    other = x_of_epochs(representation, epochs_per_noise=epochs_per_noise, seed=1)
    assert noise_difference(passes[0], other[0]) == APART
    evaluated = x_of(EvaluationBatches(IMAGES, representation), representation)
    assert noise_difference(passes[0], evaluated[:24]) == APART


def test_a_step_waits_for_its_own_groups_alone_and_these_are_always_the_same(monkeypatch):
    """In a later epoch of the draw all of them are made, and images that were in the rest of the first are found."""
    projected = []
    forward = PCA.forward
    monkeypatch.setattr(PCA, "forward", lambda self, x: (projected.append(len(x)), forward(self, x))[1])
    now, representation = [0], full_pca()
    whole = training(IMAGES, representation, lambda: now[0])
    for _, due in zip(whole, ([10], [10], [10, 10], [10, 10], [10, 10], [10, 10, 5]), strict=True):
        assert projected == due
    now[0] = 1
    continued = x_of(training(IMAGES, representation, lambda: 1), representation)
    assert torch.equal(x_of(whole, representation), continued)


def test_without_noise_x_is_the_middle_of_its_level_in_every_epoch(representation):
    for seed in (0, 1):
        for x in x_of_epochs(representation, add_noise=False, epochs_per_noise=1, seed=seed):
            torch.testing.assert_close(256 * x, IMAGES[:24] + 0.5, rtol=0, atol=1e-3)


def test_the_posts_coordinates_are_scikit_learns():
    """Of image / 255, neither scaled nor whitened; the basis is that of the same images."""
    levels = torch.randint(0, 256, (200, *SHAPE), dtype=torch.uint8)
    oracle = SklearnPCA(20, svd_solver="full").fit(levels.flatten(1).double().numpy() / 255)
    basis = sample_moments(in_batches((levels.flatten(1).double() + 0.5) / 256))
    post = full_pca(n_components=20, whiten=False, scale=False, pixel_levels=255).fit(basis)
    [batch] = taken(levels, post, batch_size=200, add_noise=False, shuffle=False)
    expected = oracle.transform(levels.flatten(1).double().numpy() / 255)
    signs = np.sign((oracle.components_ * basis.components[:20].double().numpy()).sum(1))
    np.testing.assert_allclose(batch.y.numpy() * signs, expected, atol=1e-5)


def test_continued_run_sees_the_same_batches(representation):
    """A loader that begins at epoch 4 is where one that began at epoch 0 is by then."""
    now = [0]
    whole = training(IMAGES, representation, lambda: now[0])
    for now[0] in range(5):
        expected = x_of(whole, representation)
    continued = training(IMAGES, representation, lambda: 4)
    assert torch.equal(x_of(continued, representation), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be in 1..25, the training images, got 0"),
        ({"batch_size": 26}, "batch_size must be in 1..25, the training images, got 26"),
        ({"epochs_per_noise": 0}, "epochs_per_noise must be at least 1, got 0"),
        ({"per_step": 0}, "updates_per_step must be at least 1, or null, got 0"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        training(IMAGES, pixels(), **settings)
    with pytest.raises(UserError, match=r"^expected images .* of uint8 levels, got \(25, 3, 4, 4\) torch\.float32$"):
        dequantise(IMAGES.float(), seed=0)
    for wrong in ({"share": 1.5}, {"shift": 9}, {"shift": -1}, {"light": -0.1}):
        with pytest.raises(UserError, match=f"augmentation.{next(iter(wrong))} must be in 0"):
            Augmentation(**{"share": 0.5, "shift": 2, "light": 0.1} | wrong)
