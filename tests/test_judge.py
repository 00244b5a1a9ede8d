"""The judge: what it is fitted to, what it overlooks, its file, and its command."""

import dataclasses
import sys

import pytest
import torch
from torch.nn import functional

from svhn_vae.commands import scores
from svhn_vae.data import cache as cache_module
from svhn_vae.data.digits import Synthetic
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.errors import UserError
from svhn_vae.evaluation import judge as module
from svhn_vae.evaluation.judge import (
    Judge,
    JudgeSettings,
    accuracy,
    augmented,
    best_temperature,
    fit,
    judge_once,
    measure,
    why_no_judge,
)

CPU = torch.device("cpu")
SETTINGS = JudgeSettings(
    width=8, dropout=0.0, epochs=2, images=10_000, enough=1.0, batch_size=32, learning_rate=0.02, weight_decay=0.01,
    label_smoothing=0.0, max_shift=2, contrast=0.3, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Synthetic(
        num_train=300, num_test=60, drawing_seed=0, splits=["train"], limit=None, held_out=0.2, division="contiguous"
    ).load()


# --- what it learns ---------------------------------------------------------------------------------------------------


def test_it_learns():
    """Ten textures, which a network that takes the mean over space can tell, unlike places."""
    train, val, test = (textures(num, seed) for seed, num in enumerate((400, 50, 50)))
    judge = fit(Dataset("textures", True, train, val, test), dataclasses.replace(SETTINGS, epochs=6), CPU)
    assert judge.accuracy > 0.9
    assert judge.accuracy.item() == pytest.approx(accuracy(judge, test))
    assert judge.val_accuracy.item() == pytest.approx(accuracy(judge, val))
    assert not judge.training
    whole = Dataset("textures", True, train, val, test)
    assert why_no_judge(whole) == ""
    one = LabelledImages(train.images, torch.zeros_like(train.labels))
    assert "no two different labels" in why_no_judge(dataclasses.replace(whole, train=one))
    few = LabelledImages(*(array[:3] for array in test))
    assert "got 3" in why_no_judge(dataclasses.replace(whole, test=few))


@pytest.mark.parametrize(("changes", "num_epochs"), [({"images": 300}, 2), ({"images": 200}, 1), ({"enough": 0.0}, 1)])
def test_it_stops_when_it_has_seen_or_read_enough(changes, num_epochs, dataset, capsys):
    """Of 240 images in epochs of 8 batches."""
    fit(dataset, dataclasses.replace(SETTINGS, **changes), CPU)
    assert capsys.readouterr().out.count("judge: epoch") == num_epochs


def test_a_loss_that_is_not_finite_makes_no_judge(dataset, tmp_path):
    with pytest.raises(UserError, match=r"lower judge\.learning_rate"):
        judge_once(dataset, dataclasses.replace(SETTINGS, learning_rate=1e30), tmp_path, CPU)
    assert list(tmp_path.iterdir()) == []


class Told(Judge):
    """Its logits are read from the pixels: three times those of the truth, from which the labels are drawn."""

    def forward(self, x):
        return 3 * self.truth(x)

    @staticmethod
    def truth(x: torch.Tensor) -> torch.Tensor:
        return 20 * x[:, 0, 0, :10]


def test_its_temperature_makes_it_calibrated():
    images = torch.randint(0, 256, (4000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.distributions.Categorical(logits=Told.truth((images + 0.5) / 256)).sample().byte()
    judge, parts = (
        Told(4, 0.0, 3).eval(),
        [LabelledImages(images[half], labels[half]) for half in (slice(2000), slice(2000, None))],
    )
    measure(judge, parts[1])
    assert judge.calibration_error > 0.1
    judge.temperature.fill_(best_temperature(judge, parts[0]))
    assert judge.temperature.item() == pytest.approx(3, rel=0.1)
    measure(judge, parts[1])
    assert judge.calibration_error < 0.04
    probabilities = Told.truth((parts[1].images + 0.5) / 256).softmax(1).max(1)
    sure = probabilities.values > 0.9
    assert judge.legible.item() == pytest.approx(sure.double().mean().item(), abs=0.03)
    assert judge.legible_accuracy.item() == pytest.approx(0.95, abs=0.03)  # as sure as it says


def textures(num: int, seed: int) -> LabelledImages:
    """Of digit d, stripes of d + 1 pixels, on noise."""
    labels = torch.arange(num, dtype=torch.uint8) % 10
    stripes = (torch.arange(32) // (labels[:, None] + 1)) % 2 * 150
    noise = torch.randint(0, 60, (num, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return LabelledImages((noise + stripes[:, None, None]).byte(), labels)


def test_equal_settings_give_equal_judges_and_leave_the_generator_alone(dataset):
    """Their features of training images vary alike, and do not depend on how many images are looked at at a time."""
    state = torch.get_rng_state()
    first, again = (fit(dataset, SETTINGS, CPU) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    found = first.opinion(dataset.test.images)
    assert found.features.shape == (60, 56)
    assert torch.equal(found.features, again.opinion(dataset.test.images).features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 7)
        chunked = first.opinion(dataset.test.images)
    assert torch.equal(chunked.digits, found.digits)
    torch.testing.assert_close(chunked.features, found.features)
    stddev = first.opinion(dataset.train.images).features.std(0)
    torch.testing.assert_close(stddev, (stddev > 0).float(), rtol=1e-3, atol=1e-3)  # 0: a dead one
    assert (stddev > 0).double().mean() > 0.8


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_images_are_moved_by_whole_pixels_and_half_are_inverted_about_their_mean():
    """The square of what differs from the mean tells neither of the two."""
    x = torch.rand(40, 3, 32, 32)
    padded = functional.pad(x, [2] * 4, mode="reflect").unfold(2, 32, 1).unfold(3, 32, 1)  # (40, 3, 5, 5, 32, 32)
    windows, moved = padded.permute(2, 3, 0, 1, 4, 5), augmented(x, max_shift=2, contrast=0.0)
    squares = [(of - of.mean((-3, -2, -1), keepdim=True)).square() for of in (windows, moved)]
    is_same = ((squares[0] - squares[1]).abs() < 1e-5).flatten(3).all(3)  # (5, 5, 40)
    assert (is_same.sum((0, 1)) == 1).all()
    assert is_same.any(2).sum() > 12  # of 25
    x = torch.rand(2000, 3, 4, 4)
    found = augmented(x, max_shift=0, contrast=0.3)
    torch.testing.assert_close(found.mean((1, 2, 3)), x.mean((1, 2, 3)))
    factor = ((found - found.mean((1, 2, 3), keepdim=True)) / (x - x.mean((1, 2, 3), keepdim=True))).flatten(1)
    factor = factor.median(1).values
    assert (factor < 0).double().mean() == pytest.approx(0.5, abs=0.05)
    assert (factor.abs().min(), factor.abs().max()) == (pytest.approx(0.7, abs=0.01), pytest.approx(1.3, abs=0.01))


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch):
    """The settings of every training, which here takes no time."""
    calls = []

    def fake_fit(dataset, settings, device):
        calls.append(settings)
        torch.manual_seed(settings.seed)
        judge = Judge(settings.width, settings.dropout, 3).eval()
        judge.accuracy.fill_(0.7)
        return judge

    monkeypatch.setattr(module, "fit", fake_fit)
    return calls


def once(*arguments) -> Judge:
    """As a new process has it."""
    judge_once.cache_clear()
    cache_module._in_memory.clear()
    return judge_once(*arguments)


def test_it_is_trained_once_for_every_setting_and_other_images(fits, dataset, tmp_path):
    cache = tmp_path / "not" / "there yet"
    first, again = (once(dataset, SETTINGS, cache, CPU) for _ in range(2))
    assert judge_once(dataset, SETTINGS, cache, CPU) is again
    assert all(torch.equal(again.state_dict()[name], value) for name, value in first.state_dict().items())
    assert not again.training
    names = [field.name for field in dataclasses.fields(SETTINGS)]
    for name in names:
        value = getattr(SETTINGS, name)
        changed = dataclasses.replace(SETTINGS, **{name: value + (1 if isinstance(value, int) else 0.01)})
        once(dataset, changed, cache, CPU)
    fewer = dataclasses.replace(dataset, test=LabelledImages(*(array[:50] for array in dataset.test)))
    once(fewer, SETTINGS, cache, CPU)
    once(dataset, SETTINGS, cache, CPU)
    assert len(list(cache.iterdir())) == len(fits) == len(names) + 2


# --- the command ------------------------------------------------------------------------------------------------------


TINY = ("data=synthetic", "data.num_train=200", "data.num_test=40", "judge.epochs=1", "judge.width=4")


def test_the_command_trains_and_then_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["src/judge.py", f"cache={tmp_path / 'cache'}", *TINY])
    printed = []
    for _ in range(2):
        judge_once.cache_clear()
        cache_module._in_memory.clear()
        scores.judge()
        printed.append(capsys.readouterr().out.splitlines())
    epoch, *lines = printed[0]
    assert epoch.startswith("  judge: epoch 1, ")
    for words in ("judge of synthetic data: ", "of 40 test images right", "of 20 validation images", "90 % or more"):
        assert words in " ".join(lines)
    assert printed[1] == lines
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
