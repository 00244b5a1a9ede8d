"""The judge: what it is fitted to, what it overlooks, its file, and its command."""

import dataclasses
import errno
import os
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from conftest import REPO
from svhn_vae.data.digits import Synthetic
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.evaluation import judge as module
from svhn_vae.evaluation.judge import Judge, Settings, accuracy, augmented, fit, judge_once, kept_judge
from svhn_vae.experiment.configuration import CONF, register_resolvers

SETTINGS = Settings(
    width=8, dropout=0.0, epochs=2, batch_size=32, learning_rate=0.02, weight_decay=0.01, label_smoothing=0.0,
    max_shift=2, contrast=0.3, seed=0,
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
    judge = fit(Dataset("textures", True, train, val, test), dataclasses.replace(SETTINGS, epochs=6), "cpu")
    assert judge.test_accuracy > 0.9
    assert judge.test_accuracy.item() == pytest.approx(accuracy(judge, test))
    assert judge.val_accuracy.item() == pytest.approx(accuracy(judge, val))
    assert not judge.training


def textures(num: int, seed: int) -> LabelledImages:
    """Of digit d, stripes of d + 1 pixels, on noise."""
    labels = torch.arange(num, dtype=torch.uint8) % 10
    stripes = (torch.arange(32) // (labels[:, None] + 1)) % 2 * 150
    noise = torch.randint(0, 60, (num, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return LabelledImages((noise + stripes[:, None, None]).byte(), labels)


def test_equal_settings_give_equal_judges_and_leave_the_generator_alone(dataset):
    state = torch.get_rng_state()
    first, again = (fit(dataset, SETTINGS, "cpu") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    other = fit(dataset, dataclasses.replace(SETTINGS, seed=1), "cpu")
    opinions = [judge.opinion(dataset.test.images).features for judge in (first, again, other)]
    assert torch.equal(opinions[0], opinions[1])
    assert not torch.equal(opinions[0], opinions[2])


def test_opinions_do_not_depend_on_the_chunks(dataset, monkeypatch):
    judge = Judge(8, 0.5, 3).eval()
    whole = judge.opinion(dataset.test.images)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert torch.equal(judge.opinion(dataset.test.images).digits, whole.digits)
    torch.testing.assert_close(judge.opinion(dataset.test.images).features, whole.features)
    assert whole.features.shape == (60, 56)


def test_features_of_training_images_vary_alike(dataset):
    features = fit(dataset, SETTINGS, "cpu").opinion(dataset.train.images).features
    stddev = features.std(0)
    torch.testing.assert_close(stddev, (stddev > 0).float(), rtol=1e-3, atol=1e-3)  # 0: a dead one
    assert (stddev > 0).double().mean() > 0.8


def test_the_configured_network_is_as_small_as_it_says():
    judge = Judge(settings().width, 0.0, 3)
    assert 280_000 < sum(parameter.numel() for parameter in judge.parameters()) < 300_000
    layers = [layer for layer in judge.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 7


def settings(*overrides: str) -> Settings:
    register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return instantiate(compose("judge", list(overrides)).judge)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_images_are_moved_by_whole_pixels():
    x = torch.rand(40, 3, 32, 32)
    moved = augmented(x, max_shift=2, contrast=0.0)
    padded = functional.pad(x, [2] * 4, mode="reflect")
    offsets = {
        (top, left)
        for image, found in zip(padded, moved, strict=True)
        for top in range(5)
        for left in range(5)
        if same_up_to_sign(image[:, top : top + 32, left : left + 32], found)
    }
    assert len(offsets) > 12  # of 25
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(5))


def same_up_to_sign(image: torch.Tensor, found: torch.Tensor) -> bool:
    mean = image.mean()
    return any(torch.allclose(mean + sign * (image - mean), found, atol=1e-5) for sign in (1, -1))


def test_contrast_changes_about_the_mean_and_half_are_inverted():
    x = torch.rand(2000, 3, 4, 4)
    found = augmented(x, max_shift=0, contrast=0.3)
    torch.testing.assert_close(found.mean((1, 2, 3)), x.mean((1, 2, 3)))
    factor = ((found - found.mean((1, 2, 3), keepdim=True)) / (x - x.mean((1, 2, 3), keepdim=True))).flatten(1)
    factor = factor.median(1).values
    assert (factor < 0).double().mean() == pytest.approx(0.5, abs=0.05)
    assert factor.abs().min() == pytest.approx(0.7, abs=0.01)
    assert factor.abs().max() == pytest.approx(1.3, abs=0.01)


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch):
    """The settings of every training, which here takes no time."""
    calls = []

    def fake_fit(dataset, settings, device):
        calls.append(settings)
        torch.manual_seed(settings.seed)
        return Judge(settings.width, settings.dropout, 3).eval()

    monkeypatch.setattr(module, "fit", fake_fit)
    return calls


def assert_same(found: Judge, due: Judge) -> None:
    assert found.state_dict().keys() == due.state_dict().keys()
    assert all(torch.equal(found.state_dict()[name], value) for name, value in due.state_dict().items())
    assert not found.training


def test_trained_once_and_read_afterwards(fits, dataset, tmp_path):
    cache = tmp_path / "not" / "there yet"
    assert kept_judge(dataset, SETTINGS, cache, "cpu") is None
    first = judge_once(dataset, SETTINGS, cache, "cpu")
    assert_same(judge_once(dataset, SETTINGS, cache, "cpu"), first)
    assert_same(kept_judge(dataset, SETTINGS, cache, "cpu"), first)
    assert len(fits) == 1
    [path] = cache.iterdir()
    assert dataset.digest in path.name
    with safe_open(path, "pt") as file:
        assert '"epochs": 2' in file.metadata()["settings"]


def test_every_setting_and_other_images_have_a_file_of_their_own(fits, dataset, tmp_path):
    names = [field.name for field in dataclasses.fields(SETTINGS)]
    for name in names:
        changed = dataclasses.replace(SETTINGS, **{name: getattr(SETTINGS, name) + 1})
        judge_once(dataset, changed, tmp_path, "cpu")
    fewer = dataclasses.replace(dataset, test=LabelledImages(*(array[:50] for array in dataset.test)))
    judge_once(fewer, SETTINGS, tmp_path, "cpu")
    judge_once(dataset, SETTINGS, tmp_path, "cpu")
    assert len(list(tmp_path.iterdir())) == len(fits) == len(names) + 2


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def one_name_missing(path):
    content = load_file(path)
    del content["test_accuracy"]
    save_file(content, path)


def other_shape(path):
    save_file({**load_file(path), "to_logits.bias": torch.zeros(11)}, path)


@pytest.mark.parametrize("damage", [cut, one_name_missing, other_shape])
def test_damaged_file_is_replaced_with_a_notice(fits, dataset, tmp_path, capsys, damage):
    first = judge_once(dataset, SETTINGS, tmp_path, "cpu")
    [path] = tmp_path.iterdir()
    damage(path)
    assert_same(judge_once(dataset, SETTINGS, tmp_path, "cpu"), first)
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"  {path} is damaged")
    assert_same(kept_judge(dataset, SETTINGS, tmp_path, "cpu"), first)
    assert len(fits) == 2


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_costs_the_cache_and_nothing_else(fits, dataset, tmp_path, monkeypatch, capsys, broken):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, broken, fail)
    assert isinstance(judge_once(dataset, SETTINGS, tmp_path, "cpu"), Judge)
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "cannot be written" in out
    assert "no space left on device" in out


# --- the command ------------------------------------------------------------------------------------------------------


def judge(folder, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "src" / "judge.py"), "cache=cache", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


TINY = ("data=synthetic", "data.num_train=200", "data.num_test=40", "judge.epochs=1", "judge.width=4")


def test_the_command_trains_and_then_finds(tmp_path):
    first, second = (judge(tmp_path, *TINY) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    epoch, line = first.stdout.splitlines()
    assert epoch.startswith("  judge: epoch 1 of 1, loss of its last batch ")
    assert line.startswith("judge of synthetic data: ")
    assert "of 40 test images right" in line
    assert "of 20 validation images; trained on 180 in " in line
    assert second.stdout.splitlines() == [line]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("judge.epoch=1", "Could not override 'judge.epoch'"),
        ("judge.max_shift=32", "judge.max_shift must be in 0..31 pixels, got 32"),
    ],
)
def test_bad_input_is_one_line(argument, message, tmp_path):
    done = judge(tmp_path, *TINY, argument)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("failed: ")
    assert message in line


def test_settings_that_make_no_judge():
    with pytest.raises(ValueError, match=r"judge\.epochs must be at least 1, got 0"):
        dataclasses.replace(SETTINGS, epochs=0)
