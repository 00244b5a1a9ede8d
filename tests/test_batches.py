"""Batches of features: every image, in the order and with the noise promised; x comes back by a full basis."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy import stats
from sklearn.decomposition import PCA as SklearnPCA

from conftest import composed, in_batches
from svhn_vae.data import batches, module
from svhn_vae.data.augmentation import Augmentation
from svhn_vae.data.batches import EvaluationBatches, LazyProjection, TrainingBatches, dequantise
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.errors import UserError
from svhn_vae.model.coordinates import PCA, Features, Pixels, unknown
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
    return Moments(
        mean, torch.from_numpy(basis.astype(np.float32)), eigenvalues, torch.tensor(torch.inf), eigenvalues.sum()
    )


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
def groups_of_ten(monkeypatch):
    """More than one of a draw."""
    monkeypatch.setattr(batches, "PROJECTED_ON_CPU", 10)


@pytest.fixture
def chunks_of_ten(monkeypatch):
    monkeypatch.setattr(batches, "CHUNK", 10)


def training(images, representation, epoch=lambda: 0, **settings) -> TrainingBatches:
    usual = {"batch_size": 4, "per_step": 1, "add_noise": True, "epochs_per_noise": 3, "shuffle": True, "seed": 0}
    usual |= {"augmentation": Augmentation(share=0.0, shift=2, light=0.1), "labels": torch.full((len(images),), -1)}
    return TrainingBatches(images, representation, epoch=epoch, **usual | settings)


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


@pytest.fixture(scope="module")
def all_levels():
    """Every level 2^14 times: in 4 million draws of u the roundings of float32 near 1 do occur."""
    return torch.arange(256, dtype=torch.uint8).repeat(2**14, 1)


def test_x_is_in_the_unit_interval(all_levels):
    x = dequantise(all_levels, seed=0)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() < 1


def test_levels_come_back(all_levels):
    """A density of x bounds the probability of the image only if x lies in the image's own cell."""
    levels = (256 * dequantise(all_levels, seed=0)).floor()
    assert (levels != all_levels).sum().item() == 0


def test_brightest_level_comes_back():
    white = torch.full((2**22,), 255, dtype=torch.uint8)
    assert (256 * dequantise(white, seed=0)).floor().unique().tolist() == [255]


def test_noise_is_uniform(all_levels):
    noise = 256 * dequantise(all_levels, seed=0).double() - all_levels
    assert noise.mean().item() == pytest.approx(1 / 2, abs=1e-3)
    assert noise.var().item() == pytest.approx(1 / 12, abs=1e-3)
    assert stats.kstest(noise[::200].flatten(), "uniform").pvalue > 0.001


def test_noise_depends_on_the_seed_alone():
    first = dequantise(IMAGES, seed=3)
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(dequantise(IMAGES, seed=3), first)
    assert torch.equal(torch.rand(1), expected_next)
    assert noise_difference(dequantise(IMAGES, seed=4), first) == APART


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunks_of_ten")
def test_evaluation_gives_all_images_in_order(representation):
    evaluation = EvaluationBatches(IMAGES, representation)
    assert [len(batch.y) for batch in evaluation] == [10, 10, 5]
    assert len(evaluation) == 3
    assert numbers_of(x_of(evaluation, representation)) == list(range(NUM_IMAGES))


@pytest.mark.usefixtures("chunks_of_ten")
@pytest.mark.parametrize("num_images", [1, 10, 20])
def test_number_of_evaluation_batches(representation, num_images):
    evaluation = EvaluationBatches(IMAGES[:num_images], representation)
    assert len(list(evaluation)) == len(evaluation) == -(-num_images // 10)


@pytest.mark.usefixtures("chunks_of_ten")
def test_every_representation_is_evaluated_on_the_same_x():
    by_pca, by_pixels = full_pca(), pixels()
    x = x_of(EvaluationBatches(IMAGES, by_pixels), by_pixels)
    assert noise_difference(x_of(EvaluationBatches(IMAGES, by_pca), by_pca), x) == SAME


@pytest.mark.usefixtures("chunks_of_ten")
def test_every_evaluation_is_on_the_same_x(representation):
    evaluation = EvaluationBatches(IMAGES, representation)
    first = x_of(evaluation, representation)
    torch.rand(3)  # the global state must not matter
    assert torch.equal(x_of(evaluation, representation), first)
    assert torch.equal(x_of(EvaluationBatches(IMAGES, representation), representation), first)


@pytest.mark.usefixtures("chunks_of_ten")
def test_no_two_images_share_noise(representation):
    same = IMAGES[:1].expand(NUM_IMAGES, *SHAPE)
    for passed in (EvaluationBatches(same, representation), training(same, representation)):
        x = x_of(passed, representation)
        assert len(x.unique(dim=0)) == len(x)
        assert noise_difference(x[:10], x[10:20]) == APART  # of two chunks


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 13, NUM_IMAGES])
def test_epoch_holds_every_image_once_but_for_a_rest(representation, batch_size):
    epoch = taken(IMAGES, representation, batch_size=batch_size)
    assert [len(batch.y) for batch in epoch] == [batch_size] * len(epoch)
    numbers = numbers_of(x_of(epoch, representation))
    assert len(set(numbers)) == len(numbers) == NUM_IMAGES - NUM_IMAGES % batch_size


@pytest.mark.parametrize("per_step", [2, 5, 50])
def test_steps_of_several_batches_hold_the_same(representation, per_step):
    one, several = taken(IMAGES, representation), training(IMAGES, representation, per_step=per_step)
    assert len(several) == len(list(several)) == -(-len(one) // per_step)
    found = [batch for step in several for batch in step]
    for ours, due in zip(found, one, strict=True):
        assert all(torch.equal(array, expected) for array, expected in zip(ours, due, strict=True))


def test_features_of_a_batch_are_those_of_its_images(representation):
    for batch in taken(IMAGES, representation):
        expected = representation(representation.inverse(batch.y))
        for array, due in zip(batch, expected, strict=True):
            torch.testing.assert_close(array, due, rtol=1e-4, atol=1e-4)


def test_order_is_that_of_seed_and_epoch(representation):
    def order(seed: int, epoch: int) -> list[int]:
        return numbers_of(x_of(training(IMAGES, representation, lambda: epoch, seed=seed), representation))

    assert order(0, 0) == order(0, 0) != list(range(24))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_the_rest_is_another_one_in_another_epoch(representation):
    kept = [set(numbers_of(x_of(training(IMAGES, representation, lambda e=e: e), representation))) for e in range(10)]
    assert set.union(*kept) == set(range(NUM_IMAGES))
    assert len({frozenset(numbers) for numbers in kept}) > 3


def test_without_shuffling_the_order_stays(representation):
    for epoch in range(3):
        x = x_of(training(IMAGES, representation, lambda epoch=epoch: epoch, shuffle=False), representation)
        assert numbers_of(x) == list(range(24))


def x_of_epochs(representation, **settings) -> list[torch.Tensor]:
    """x of seven epochs of one loader, unshuffled."""
    now = [0]
    loader = training(IMAGES, representation, lambda: now[0], shuffle=False, **settings)
    passes = []
    for now[0] in range(7):
        passes.append(x_of(loader, representation))
    return passes


@pytest.mark.parametrize("epochs_per_noise", [1, 2, 3])
def test_noise_of_a_projection_is_kept_for_some_epochs(epochs_per_noise):
    passes = x_of_epochs(full_pca(), epochs_per_noise=epochs_per_noise)
    for epoch in range(1, 7):
        expected = APART if epoch % epochs_per_noise == 0 else SAME
        assert noise_difference(passes[epoch], passes[epoch - 1]) == expected
    assert noise_difference(passes[0], passes[6]) == APART


def test_a_first_step_waits_for_its_own_groups_alone(monkeypatch):
    projected = []
    forward = PCA.forward
    monkeypatch.setattr(PCA, "forward", lambda self, x: (projected.append(len(x)), forward(self, x))[1])
    steps = iter(training(IMAGES, full_pca()))
    for due in ([10], [10], [10, 10], [10, 10], [10, 10], [10, 10, 5]):
        next(steps)
        assert projected == due


def test_noise_of_pixels_is_drawn_anew_each_epoch():
    passes = x_of_epochs(pixels())
    for earlier in range(7):
        for later in range(earlier + 1, 7):
            assert noise_difference(passes[earlier], passes[later]) == APART


def test_noise_depends_on_the_seed(representation):
    first, again, other = (x_of_epochs(representation, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert noise_difference(first, other) == APART


def test_without_noise_x_is_the_middle_of_its_level_in_every_epoch(representation):
    for seed in (0, 1):
        for x in x_of_epochs(representation, add_noise=False, epochs_per_noise=1, seed=seed):
            torch.testing.assert_close(256 * x, IMAGES[:24] + 0.5, rtol=0, atol=1e-3)


def test_without_noise_the_order_is_the_same_as_with_it(representation):
    def order(**settings) -> list[int]:
        return numbers_of(x_of(training(IMAGES, representation, **settings), representation))

    assert order(add_noise=False) == order(add_noise=True)


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


def test_training_noise_is_not_that_of_evaluation(representation):
    evaluated = x_of(EvaluationBatches(IMAGES, representation), representation)
    assert noise_difference(x_of_epochs(representation)[0], evaluated[:24]) == APART


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
        ({"batch_size": -3}, "batch_size must be in 1..25, the training images, got -3"),
        ({"batch_size": 26}, "batch_size must be in 1..25, the training images, got 26"),
        ({"epochs_per_noise": 0}, "epochs_per_noise must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_one_line(representation, settings, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        training(IMAGES, representation, **settings)
    assert str(caught.value) == message


# --- a projection, group by group -----------------------------------------------------------------------------------


def lazy(made: list[int], order: torch.Tensor) -> LazyProjection:
    """Image n has features n; of its group, the number is its log_det. The groups that were made are noted."""

    def project(numbers: torch.Tensor, group: int) -> Features:
        made.append(group)
        y = numbers[:, None].float()
        return Features(y, -y, torch.tensor(float(group)).expand(len(y)), unknown(y))

    return LazyProjection(order, 10, project)


def test_what_is_needed_first_is_projected_first():
    made, order = [], torch.randperm(NUM_IMAGES)
    found = lazy(made, order)
    assert made == []
    for needed, groups in ((1, [0]), (10, [0]), (11, [0, 1]), (4, [0, 1]), (25, [0, 1, 2]), (25, [0, 1, 2])):
        y, residual, log_det, _ = found.with_first(needed)
        assert made == groups
        assert y.shape == residual.shape == (NUM_IMAGES, 1)
        assert log_det.shape == (NUM_IMAGES,)
        assert torch.equal(y[order[:needed], 0], order[:needed].float())
        assert torch.equal(residual[order[:needed], 0], -order[:needed].float())
        assert torch.equal(log_det[order[:needed]], (torch.arange(needed) // 10).float())


def test_it_does_not_matter_when_images_are_needed():
    order = torch.randperm(NUM_IMAGES)
    by_and_by, at_once = lazy([], order), lazy([], order)
    by_and_by.with_first(3)
    for array, due in zip(by_and_by.with_first(NUM_IMAGES), at_once.with_first(NUM_IMAGES), strict=True):
        assert torch.equal(array, due)


# --- the splits that are evaluated ----------------------------------------------------------------------------------


@pytest.fixture
def dataset() -> Dataset:
    parts = (LabelledImages(part, torch.zeros(len(part))) for part in IMAGES.split([14, 4, 7]))
    return Dataset("random", True, *parts)


def test_splits_are_all_their_images_and_of_training_images_some(representation, dataset, monkeypatch):
    monkeypatch.setattr(module, "MAX_SEEN", 5)
    found = EvaluationSplits(dataset, representation)
    assert found.dataset is dataset
    due = {"test": dataset.test.images, "val": dataset.val.images, "seen": dataset.train.images[::3]}
    for name, images in due.items():
        [batch], [expected] = getattr(found, name), EvaluationBatches(images, representation)
        assert torch.equal(batch.y, expected.y), name


def test_each_is_projected_when_it_is_asked_for_and_once(dataset):
    representation, projected = full_pca(), []
    representation.register_forward_hook(lambda module, inputs, output: projected.append(len(output.y)))
    found = EvaluationSplits(dataset, representation)
    assert projected == []  # the test images are left alone until they are scored
    for name in ("val", "seen", "test"):
        assert len(list(getattr(found, name))) == len(list(getattr(found, name))) == 1
    assert projected == [4, 14, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_only_levels_are_dequantised(dtype):
    with pytest.raises(
        UserError, match=r"^expected images \(N, C, H, W\) of uint8 levels, got \(25, 3, 4, 4\) torch\.[^\n]*$"
    ):
        dequantise(IMAGES.to(dtype), seed=0)
