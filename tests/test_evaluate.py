"""All scores of a run: the same at its end and from the script, for every head, and in a hierarchy."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import options
from stress.forked import command, train, without_training_a_judge
from svhn_vae.data.digits import draw_digits
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.evaluation.bound import split_metrics
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.samples import generated, judge_scores, posterior_predictive, references, sample_scores
from svhn_vae.evaluation.score import Score, score_run
from svhn_vae.experiment.loading import load_dataset, load_run
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.model.vae import VAE
from test_end_to_end import TINY
from test_lit import fitted

SMALL = "network_scale=0.03125"
NUM_TEST = 20


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    parts = [LabelledImages(*map(torch.from_numpy, draw_digits(num, seed=num))) for num in (40, 10, NUM_TEST)]
    return Dataset("digits", True, *parts)


def score(dataset: Dataset, *overrides: str) -> Score:
    return scored(fitted(*overrides, SMALL).vae, dataset, iw_samples=3)


def scored(vae: VAE, dataset: Dataset, *, split: str = "test", iw_samples: int) -> Score:
    return score_run(vae, EvaluationSplits(dataset, vae.representation), split=split, iw_samples=iw_samples)


def scored_again(run: Path, *, split: str, iw_samples: int) -> Score:
    """A finished run, from its folder."""
    dataset = load_dataset(run, None, other_images=False)
    return scored(load_run(run).vae, dataset, split=split, iw_samples=iw_samples)


@pytest.mark.parametrize("variance", options("variance"))
def test_every_head_is_scored(variance, dataset):
    overrides = ["experiment=spectral"] if variance == "spectral" else ["model=conv", f"variance={variance}"]
    found = score(dataset, *overrides)
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert [point["k"] for point in found.details["iw_curve"]] == [1, 2, 3]
    assert found.metrics["test/iw_k"] == 3
    assert {len(column) for column in found.per_image.values()} == {NUM_TEST}
    for name, column in (("elbo", found.per_image["elbo"]), ("iw_elbo", found.per_image["iw_elbo"])):
        assert column.mean().item() == pytest.approx(found.metrics[f"test/{name}"], rel=1e-5, abs=1e-2)
    is_density = variance != "bernoulli"
    for name in ("test/bits_per_dim", "test/iw_bits_per_dim", "test/calibration/coverage_90"):
        assert (name in found.metrics) == is_density
    if is_density:
        assert sum(found.parts.values()) == pytest.approx(found.metrics["test/bits_per_dim"], abs=1e-4)


@pytest.mark.parametrize("model", ["conv", "ladder"])
def test_the_latents_kl_and_its_parts(model, dataset):
    """In a hierarchy the posterior of some latents depends on others, and the aggregate is not computed."""
    found = score(dataset, f"model={model}", "variance=shared")
    metrics = found.metrics
    assert sum(found.details["kl_per_latent"]) == pytest.approx(metrics["test/kl"], rel=1e-4, abs=1e-6)
    assert ("test/mutual_information" in metrics) == (model == "conv")
    if model == "conv":
        parts = metrics["test/mutual_information"] + metrics["test/aggregate_kl"]
        assert parts == pytest.approx(metrics["test/kl"], rel=1e-4)


def test_training_images_are_scored_as_test_images_are(dataset):
    vae = fitted("model=conv", SMALL).vae
    swapped = Dataset("digits", True, dataset.test, dataset.val, dataset.train)
    test = scored(vae, dataset, iw_samples=0).metrics
    for name, value in split_metrics(vae, EvaluationSplits(swapped, vae.representation).seen, "seen").items():
        assert value == test[name.replace("seen/", "test/")]


def test_a_judge_is_asked_about_samples_and_analogies(dataset):
    vae, judge = fitted("model=conv", SMALL).vae.eval(), Judge(4, 0.0, 3).eval()
    judge.accuracy.fill_(0.75)
    judge.temperature.fill_(1e-3)  # sure of all that it says
    state = torch.get_rng_state()
    found, checks = sample_scores(vae, dataset, judge)
    assert torch.equal(torch.get_rng_state(), state)
    assert found["judge/accuracy"] == 0.75
    assert {name.partition("/")[0] for name in found} == {
        "samples", "noisy_samples", "validation", "analogies", "judge"
    }  # fmt: skip
    against, of_validation = references(judge, dataset)
    assert of_validation == judge_scores(judge, dataset.val.images, against)
    means = generated(vae, NUM_TEST, noisy=False)  # as many as test images
    due = {name: value for name, value in judge_scores(judge, means, against).items() if math.isfinite(value)}
    assert {name: found[f"samples/{name}"] for name in due} == due
    assert found["noisy_samples/frechet"] != found["samples/frechet"]
    assert sample_scores(vae, dataset, judge) == (found, checks)
    assert list(checks) == ["test", "samples", "noisy_samples"]
    assert checks["samples"] == posterior_predictive(means)


def test_without_samples_there_is_no_curve(dataset):
    vae, state = fitted("model=conv", SMALL).vae, torch.get_rng_state()
    found = scored(vae, dataset, split="val", iw_samples=0)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are the caller's
    assert not any("iw_" in name or "effective" in name for name in found.metrics)
    assert {name.split("/")[0] for name in found.metrics} == {"val"}
    assert found.details["iw_curve"] == []


def test_a_bound_that_is_not_finite_is_all_there_is(dataset):
    vae = fitted("model=conv", "variance=logvar", SMALL).vae
    torch.nn.init.constant_(next(vae.networks.parameters()), math.nan)
    found = scored(vae, dataset, iw_samples=2)
    assert math.isnan(found.metrics["test/elbo"])
    assert found.details == {}


FEW = (*TINY, "data.num_train=240", "data.num_test=40", "pca.n_components=20", "batch_size=40", "iw_samples=5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run on so few images that a judge is trained in seconds; it has none."""
    folder = tmp_path_factory.mktemp("finished")
    done = train(folder, *FEW)
    assert done.returncode == 0, done.stdout
    [run] = (folder / "outputs" / "default").glob("*dense-*")
    return run


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def test_a_finished_run_is_scored_again_to_the_last_digit(finished):
    result = result_of(finished)
    found = scored_again(finished, split="test", iw_samples=5)
    assert {name: value for name, value in result["metrics"].items() if name.startswith("test/")} == found.metrics
    assert result["parts"] == found.parts
    assert math.isfinite(result["details"].pop("post_loss_of_gaussian"))
    assert result["details"] == json.loads(json.dumps(found.details))
    val = scored_again(finished, split="val", iw_samples=0)
    assert val.metrics["val/bits_per_dim"] == pytest.approx(result["metrics"]["val/bits_per_dim"], abs=1e-6)


def test_a_run_leaves_its_scores_image_by_image_and_its_plots(finished):
    per_image = load_file(finished / "per_image.safetensors")
    metrics = result_of(finished)["metrics"]
    assert per_image["index"].tolist() == list(range(40))
    assert torch.equal(per_image["label"], load_dataset(finished, None, other_images=False).test.labels)
    assert bits_per_dim(per_image["elbo"].mean().item(), 3072) == pytest.approx(metrics["test/bits_per_dim"], abs=1e-5)
    terms = per_image["log_likelihood"] + per_image["residual"] + per_image["log_det"] - per_image["kl"]
    torch.testing.assert_close(per_image["elbo"], terms)
    assert load_file(finished / "order_of_learning.safetensors")["epochs"].tolist() == [1, 2]
    for name in ("calibration", "order_of_learning"):
        assert (finished / "figures" / f"{name}.png").is_file()


def test_the_script_prints_the_scores_and_leaves_the_run_alone(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = command("evaluate", finished.parent, f"run={finished.name}", "judge=false")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    metrics = result_of(finished)["metrics"]
    for name in ("bits_per_dim", "iw_bits_per_dim", "mutual_information", "calibration/coverage_90"):
        assert f"{metrics[f'test/{name}']:.4f}" in done.stdout
    for words in ("40 test images", "effective sample size", "(-) PPCA, K = 20"):
        assert words in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


JUDGED = {"samples/frechet", "noisy_samples/recall", "validation/frechet", "judge/accuracy", "judge/legible"}


def without_training(run: Path) -> dict:
    """What a run has that another training would change."""
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


def test_the_script_adds_what_the_result_lacks(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / finished.name)
    before, weights = result_of(run), without_training(run)
    done = command(
        "evaluate", tmp_path, f"run={run.name}", "iw_samples=7", "cache=cache", prepare=without_training_a_judge
    )
    assert done.returncode == 0, done.stderr
    for words in ("by a judge that reads", "validation images", "frechet", "memorised", "analogies/digit_agreement"):
        assert words in done.stdout
    after = result_of(run)
    assert set(after["metrics"]) >= JUDGED
    assert after["metrics"]["test/iw_k"] == 7
    assert len(after["details"]["posterior_predictive"]["samples"]["spectrum"]) == 16
    assert [point["k"] for point in after["details"]["iw_curve"]] == [1, 2, 4, 7]
    assert load_file(run / "per_image.safetensors")["iw_elbo"].mean().item() == pytest.approx(
        after["metrics"]["test/iw_elbo"], rel=1e-5
    )
    kept = {name: value for name, value in before["metrics"].items() if "iw_" not in name and "effective" not in name}
    assert {name: after["metrics"][name] for name in kept} == kept
    assert without_training(run) == weights
    again = (run / "result.json").read_bytes()
    fewer = command("evaluate", tmp_path, f"run={run.name}", "iw_samples=2", "cache=cache")
    assert fewer.returncode == 0
    assert (run / "result.json").read_bytes() == again


def test_the_same_command_adds_what_is_asked_for_now(finished, tmp_path):
    """To runs that are done: without training, and once."""
    shutil.copytree(finished.parents[2], tmp_path, dirs_exist_ok=True)
    run = tmp_path / finished.relative_to(finished.parents[2])
    weights = without_training(run)
    words = [word for word in FEW if word != "judge=false"]
    for times in (1, 0):
        done = train(tmp_path, *words, "iw_samples=6", prepare=without_training_a_judge)
        assert done.returncode == 0, done.stdout
        assert "done already" in done.stdout
        assert done.stdout.count("scored with what is asked for now") == times
    metrics = result_of(run)["metrics"]
    assert set(metrics) >= JUDGED
    assert metrics["test/iw_k"] == 6
    assert without_training(run) == weights


def test_other_images_are_scored_only_when_asked_for(finished, tmp_path):
    """A run whose result names other images than are found."""
    run = shutil.copytree(finished, tmp_path / "run")
    result = result_of(run)
    result["data"]["digest"] = "0" * 16
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    refused = command("evaluate", tmp_path, "run=run")
    assert (refused.returncode, "ran on other images" in refused.stderr) == (1, True)
    done = command("evaluate", tmp_path, "run=run", "other_images=true", "iw_samples=0", "judge=false")
    assert "40 test images that are not the run's: synthetic data" in " ".join(done.stdout.split())
    assert "(-)" not in done.stdout  # baselines of those images are not the run's
