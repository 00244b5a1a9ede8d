"""The report on fake run folders: every run is in it, under a label that tells it from the others, the best first."""

import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from scipy import stats

from svhn_vae.report.collect import Run, by_data, labels, read_runs, variants
from svhn_vae.report.table import print_study

SVHN = {"name": "svhn train", "synthetic": False, "digest": "0123456789abcdef"}
SVHN |= {"num_train": 6749, "num_val": 750, "num_test": 1499}
SYNTHETIC = {**SVHN, "name": "synthetic", "synthetic": True, "digest": "fedcba9876543210"}
CONFIG = {
    "study": "s",
    "seed": 0,
    "data": {"_target_": "svhn_vae.data.svhn.SVHN", "root": "/a", "limit": None},
    "pca": {"_target_": "svhn_vae.model.coordinates.PCA", "n_components": 500, "whiten": False},
    "variance": {"_target_": "svhn_vae.model.variance.ReluEps", "epsilon": 0.01},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-4, "betas": [0.9, 0.999]},
    "trainer": {"_target_": "lightning.Trainer", "max_epochs": 2000, "accelerator": "cpu"},
}
CHOICES = {"data": "svhn", "pca": "default", "model": "dense", "variance": "relu_eps", "optimizer": "adam"}
LOGVAR = {"_target_": "svhn_vae.model.variance.LogVar"}


def result_of(name: str, *, bits=3.0, choices=(), data=SVHN, baselines=(), **settings) -> dict:
    """A result.json as experiment.run makes it; `settings` replace whole entries of the configuration."""
    config = copy.deepcopy(CONFIG) | settings
    metrics = {"bits_per_dim": bits, "elbo": -1.0, "log_likelihood": 1.0, "residual": 2.0, "log_det": 3.0, "kl": 4.0}
    return {
        "name": name,
        "seed": config["seed"],
        "choices": {**CHOICES, **dict(choices)},
        "data": data,
        "metrics": {f"test/{key}": value for key, value in metrics.items()} | {"test/active_units": 17.0},
        "parts": {"modelled": 1.125, "kl": 0.25, "residual": 1.625},
        "baselines": dict(baselines) or {"uniform": 8.0, "PPCA, K = 500": 3.567},
        "cost": {"seconds": 61.7, "images_per_second": 7207.4, "epochs": 30, "steps": 210, "num_parameters": 10,
                 "device": "2 CPU threads", "peak_device_bytes": None, "continued": False},
        "commit": "abc1234",
        "versions": {"python": "3.11.7"},
        "config": config,
    }  # fmt: skip


def setting(group: str, **values) -> dict:
    return {group: {**CONFIG[group], **values}}


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "variances"
    path.mkdir()
    return path


def write_status(study: Path, name: str, status: str, reason: str = "") -> Path:
    folder = study / name
    folder.mkdir()
    facts = {"started": 1000.0, "data": "d", "status": status, "reason": reason, "step": None, "ended": 1060.0}
    (folder / "status.json").write_text(json.dumps(facts))
    return folder


def write_done(study: Path, name: str, **settings) -> Path:
    folder = write_status(study, name, "done")
    (folder / "result.json").write_text(json.dumps(result_of(name, **settings)))
    return folder


def runs_of(*settings: dict) -> list[Run]:
    return [Run(f"run{i}", "done", "", result_of(f"run{i}", **given)) for i, given in enumerate(settings)]


def printed(study: Path) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_study(study, console)
    return console.file.getvalue()


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables printed; a folded name is put together again."""
    table: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("│┃").split("│")]
        if line.startswith("│") and cells[2]:
            table.append(cells)
        elif line.startswith("│"):
            table[-1][0] += " " + cells[0]
    return table


# --- collect --------------------------------------------------------------------------------------------------------


def test_every_status_is_read(study):
    write_done(study, "a-done", bits=2.5)
    for name, status in {"b": "running", "c": "interrupted", "d": "diverged", "e": "failed"}.items():
        write_status(study, name, status, reason=f"because {status}")
    runs = read_runs(study)
    assert [run.name for run in runs] == ["a-done", "b", "c", "d", "e"]
    assert [run.status for run in runs] == ["done", "running", "interrupted", "diverged", "failed"]
    assert [run.reason for run in runs[1:]] == [f"because {run.status}" for run in runs[1:]]
    assert runs[0].result["metrics"]["test/bits_per_dim"] == 2.5
    assert all(run.result == {} for run in runs[1:])


def test_a_run_that_has_just_begun(study):
    folder = study / "new"
    folder.mkdir()
    (folder / "status.json").write_text('{"status": "running", "started": 1.0, "data": "d"}')
    facts = {"status": "running", "started": 1.0, "data": "d"}
    assert read_runs(study) == [Run("new", "running", "", {}, facts)]


def test_an_old_result_of_a_run_that_runs_again_is_not_its_result(study):
    folder = write_done(study, "again")
    (folder / "status.json").write_text('{"status": "running", "started": 1.0, "data": "d"}')
    assert read_runs(study)[0].result == {}


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"name": "a", "metrics": {"test/bits'])
def test_damaged_result_is_not_dropped_silently(study, content):
    path = write_done(study, "hurt") / "result.json"
    path.unlink() if content is None else path.write_text(content)
    [run] = read_runs(study)
    assert (run.name, run.status, run.result) == ("hurt", "failed", {})
    assert "failed: hurt: result.json is missing or damaged" in printed(study)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "do'])
def test_damaged_status_is_not_dropped_silently(study, content):
    (write_done(study, "hurt") / "status.json").write_text(content)
    [run] = read_runs(study)
    assert (run.name, run.status, run.result["name"]) == ("hurt", "done", "hurt")
    assert "done: hurt: status.json is damaged: result.json says that it is done" in printed(study)
    (study / "hurt" / "result.json").unlink()
    [run] = read_runs(study)
    assert (run.name, run.status, run.result) == ("hurt", "new", {})
    assert "new: hurt: status.json is damaged" in printed(study)


def test_what_is_no_run_or_was_set_aside_is_left_out(study):
    write_done(study, "run")
    write_done(study, "run.previous1")
    (study / "figures").mkdir()
    (study / "notes.txt").write_text("")
    assert [run.name for run in read_runs(study)] == ["run"]
    assert read_runs(study / "missing") == []


# --- labels ---------------------------------------------------------------------------------------------------------


def test_one_variant_has_the_name_of_its_run_without_seed_and_hash():
    [run] = runs_of({})
    named = run._replace(name="dense-relu_eps-pca500-raw-spectrum-seed0-0123abcd")
    assert [variant.label for variant in variants([named])] == ["dense-relu_eps-pca500-raw-spectrum"]
    assert [variant.label for variant in variants([run])] == ["run0"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([setting("pca", whiten=True), setting("pca", whiten=False)], ["pca.whiten=true", "pca.whiten=false"]),
        ([setting("pca", n_components=100), {}], ["pca.n_components=100", "pca.n_components=500"]),
        ([setting("optimizer", betas=[0.5, 0.9]), {}], ["optimizer.betas=[0.5, 0.9]", "optimizer.betas=[0.9, 0.999]"]),
        (
            [{"choices": {"variance": "logvar"}, "variance": LOGVAR}, {}],
            ["variance=logvar", "variance=relu_eps"],
        ),
        (
            [{**setting("pca", whiten=True), **setting("optimizer", lr=1e-3)}, {}, setting("pca", whiten=True)],
            [
                "pca.whiten=true optimizer.lr=0.001",
                "pca.whiten=false optimizer.lr=0.0001",
                "pca.whiten=true optimizer.lr=0.0001",
            ],
        ),
        (
            [{"choices": {"experiment": "small"}, **setting("pca", whiten=True)}, {}],
            ["experiment=small", "experiment=none"],
        ),
    ],
    ids=["boolean", "number", "list", "choice", "two settings", "one without the choice"],
)
def test_label_is_what_differs(settings, expected):
    assert [" ".join(sorted(label.split(" "))) for label in labels(runs_of(*settings))] == [
        " ".join(sorted(label.split(" "))) for label in expected
    ]


def test_label_has_nothing_that_does_not_change_a_result():
    moved = {"study": "other", **setting("data", root="/b"), **setting("trainer", accelerator="gpu")}
    runs = runs_of({**moved, **setting("pca", whiten=True)}, {"seed": 1})
    assert labels(runs) == ["pca.whiten=true", "pca.whiten=false"]


def test_labels_tell_every_run_from_every_other():
    """A group's choice differs, and so does a setting between two runs of the same choice."""
    runs = runs_of(
        setting("variance", epsilon=0.01),
        setting("variance", epsilon=0.001),
        {"choices": {"variance": "logvar"}, "variance": LOGVAR},
    )
    found = labels(runs)
    assert len(set(found)) == 3, found
    assert "epsilon" not in found[2]


def test_labels_tell_presets_from_each_other_when_changed():
    demo = {"choices": {"trainer": "demo"}, **setting("trainer", max_epochs=30)}
    longer = {"choices": {"trainer": "demo"}, **setting("trainer", max_epochs=60)}
    found = labels(runs_of({"choices": {"trainer": "default"}}, demo, longer))
    assert len(set(found)) == 3, found


def test_every_variant_has_a_label_of_its_own():
    """Also where they differ in nothing that a setting is, as in a class that was renamed."""
    moved = {"variance": {**CONFIG["variance"], "_target_": "elsewhere.ReluEps"}}
    found = [variant.label for variant in variants(runs_of({}, moved))]
    assert len(set(found)) == 2


def test_unfinished_runs_are_with_the_others_of_their_configuration(study):
    write_done(study, "a0", seed=0)
    facts = {"status": "diverged", "reason": "nan", "config": {**copy.deepcopy(CONFIG), "seed": 1}, "choices": CHOICES}
    (study / "a1").mkdir()
    (study / "a1" / "status.json").write_text(json.dumps(facts))
    [variant] = variants(read_runs(study))
    assert [run.name for run in variant.runs] == ["a0"]
    assert [run.name for run in variant.unfinished] == ["a1"]


def test_seconds_of_a_continued_run_are_marked_as_a_part(study):
    folder = write_done(study, "a")
    content = json.loads((folder / "result.json").read_text())
    content["cost"]["continued"] = True
    (folder / "result.json").write_text(json.dumps(content))
    assert ">62" in printed(study)


# --- data -----------------------------------------------------------------------------------------------------------


def test_figures_on_different_images_are_apart():
    less = {**SVHN, "digest": "aaaaaaaaaaaaaaaa", "num_train": 1000}
    runs = runs_of({"data": SVHN}, {"data": SYNTHETIC}, {"data": SVHN}, {"data": less})
    groups = by_data(runs)
    assert [[run.name for run in group] for group in groups.values()] == [["run0", "run2"], ["run1"], ["run3"]]
    assert [data["digest"] in title for data, title in zip((SVHN, SYNTHETIC, less), groups, strict=True)] == [True] * 3
    assert "6,749 images to train, 1,499 to test" in next(iter(groups))


def test_each_data_set_has_its_table(study):
    write_done(study, "a", data=SVHN, bits=3.1)
    write_done(study, "b", data=SYNTHETIC, bits=2.1, baselines={"uniform": 8.0, "independent Gaussian": 7.5})
    text = printed(study)
    assert text.count(" model ") - text.count("a model ") == 2
    assert text.index("variances: svhn train data 0123456789abcdef") < text.index("variances: synthetic data fedcba98")
    assert [[row[0], row[2]] for row in rows(text)] == [
        ["a", "3.100"], ["(-) PPCA, K = 500", "3.567"], ["(-) uniform", "8.000"],
        ["b", "2.100"], ["(-) independent Gaussian", "7.500"], ["(-) uniform", "8.000"],
    ]  # fmt: skip


def test_synthetic_data_is_marked(study):
    write_done(study, "a", data=SVHN)
    assert "synthetic" not in printed(study).replace(str(study), "")
    write_done(study, "b", data=SYNTHETIC)
    assert "synthetic" in printed(study).replace(str(study), "")


# --- the table ------------------------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_their_bits(study):
    write_done(study, "a", bits=3.6, **setting("pca", n_components=1))
    write_done(study, "b", bits=10.2, **setting("pca", n_components=2))
    write_done(study, "c", bits=2.98765, **setting("pca", n_components=3))
    found = [[row[0], row[2]] for row in rows(printed(study))]
    assert found == [
        ["pca.n_components=3", "2.988"], ["(-) PPCA, K = 500", "3.567"], ["pca.n_components=1 !", "3.600"],
        ["(-) uniform", "8.000"], ["pca.n_components=2 !", "10.200"],
    ]  # fmt: skip


def test_runs_that_differ_in_their_seed_are_one_row_with_its_interval(study):
    for seed, bits in enumerate([3.0, 3.1, 3.2]):
        write_done(study, f"run{seed}", seed=seed, bits=bits)
    [row] = [row for row in rows(printed(study)) if row[1]]
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert row[:3] == ["run0", "3", f"3.100 +-{half:.3f}"]


def test_what_the_seeds_can_tell_from_the_best_is_said(study):
    noise = (0.0, 0.01, -0.01)
    for k, mean, swing in ((1, 3.0, 1), (2, 3.002, -1), (3, 3.5, 1)):
        for seed, change in enumerate(noise):
            write_done(study, f"run{k}{seed}", seed=seed, bits=mean + swing * change, **setting("pca", n_components=k))
    text = printed(study)
    assert "best: pca.n_components=1; worse than it: 1 of 2 (95 %, Holm, paired by seed)" in text
    assert "cannot be told apart from it: pca.n_components=2" in text


def test_only_pairs_that_share_few_seeds_are_compared_by_image(study):
    rng = np.random.default_rng(1)
    noise = (0.0, 0.01, -0.01)
    for k, num_seeds in ((1, 3), (2, 3), (3, 1)):
        for seed in range(num_seeds):
            bits = 3.0 + k + k * noise[seed]
            folder = write_done(study, f"run{k}{seed}", seed=seed, bits=bits, **setting("pca", n_components=k))
            save_file(
                {"elbo": rng.normal(10_000 - 300 * k, 10, 80).astype(np.float32)}, folder / "per_image.safetensors"
            )
    how = "by seed; by image, in blocks of neighbours, where two share fewer than 3 seeds"
    assert f"worse than it: 2 of 2 (95 %, Holm, paired {how})" in printed(study)


def test_variants_without_a_common_seed_are_not_compared_by_seed(study):
    for k in (1, 2):
        for seed in range(3):
            write_done(study, f"run{k}{seed}", seed=3 * k + seed, bits=3.0 + k, **setting("pca", n_components=k))
    assert "worse than it" not in printed(study)  # and their images were not kept


def test_one_seed_is_compared_image_by_image(study):
    rng = np.random.default_rng(0)
    elbo = 10_000 + rng.normal(0, 500, 800)
    for k, loss in ((1, 0.0), (2, 5 * rng.normal(0, 1, 800)), (3, 40 + 5 * rng.normal(0, 1, 800))):
        images = (elbo - loss).astype(np.float32)
        bits = 8 - float(images.mean()) / (3072 * np.log(2))
        folder = write_done(study, f"run{k}", bits=bits, **setting("pca", n_components=k))
        save_file({"elbo": images}, folder / "per_image.safetensors")
    assert "worse than it: 1 of 2 (95 %, Holm, paired by image, in blocks of neighbours)" in printed(study)


def test_a_variant_that_does_not_beat_its_own_baseline_is_marked(study):
    write_done(study, "a", bits=3.6, baselines={"independent Gaussian": 7.9, "PPCA, K = 500": 3.567})
    write_done(study, "b", bits=3.6, **setting("pca", n_components=3), baselines={"independent Gaussian": 7.9})
    marked = {row[0] for row in rows(printed(study)) if row[0].endswith("!")}
    assert marked == {"pca.n_components=500 !"}


def test_a_row_holds_parts_and_cost(study):
    write_done(study, "a", bits=3.0)
    assert ["a", "1", "3.000", "1.125", "0.250", "1.625", "17", "7,207", "62"] in rows(printed(study))


def test_every_baseline_has_one_row(study):
    write_done(study, "a", baselines={"uniform": 8.0, "PPCA, K = 500": 3.567})
    write_done(study, "b", **setting("pca", n_components=100), baselines={"uniform": 8.0, "PPCA, K = 100": 4.5})
    names = [row[0] for row in rows(printed(study)) if row[0].startswith("(-)")]
    assert names == ["(-) PPCA, K = 500", "(-) PPCA, K = 100", "(-) uniform"]


@pytest.mark.parametrize("place", range(4))
def test_a_run_without_a_number_stands_last(study, place):
    """Nothing is less than NaN: where it stood, the rows around it would be in no order."""
    bits = [2.5, 3.0, 3.9]
    bits.insert(place, float("nan"))
    for k, value in enumerate(bits):
        write_done(study, f"run{k}", bits=value, **setting("pca", n_components=k + 1))
    assert [row[2] for row in rows(printed(study))] == ["2.500", "3.000", "3.567", "3.900", "8.000", "nan"]


def test_a_long_label_is_folded_and_no_figure_is_cut(study):
    name = "dense-per_dimension-pca1000-white-spectrum-seed0-0123abcd"
    write_done(study, name, bits=2.75)
    text = printed(study)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 120
    assert [row[0].replace(" ", "") for row in rows(text) if row[2] == "2.750"] == [name.partition("-seed")[0]]


def test_what_did_not_finish_is_listed_with_its_reason(study):
    write_done(study, "a", bits=3.0)
    reason = "the loss was not finite at step 41; it was 812.3 nats the step before [and this is no markup]"
    write_status(study, "logvar-seed0", "diverged", reason)
    write_status(study, "conv-seed0", "failed", "conv needs image-shaped features (C, H, W), got (500,)")
    lines = printed(study).splitlines()
    assert f"diverged: logvar-seed0: {reason}" in lines
    assert "failed: conv-seed0: conv needs image-shaped features (C, H, W), got (500,)" in lines
    assert not any("logvar-seed0" in row[0] for row in rows("\n".join(lines)))


def test_a_study_in_which_nothing_finished(study):
    write_status(study, "b", "failed", "no images")
    text = printed(study)
    assert "failed: b: no images" in text
    assert rows(text) == []


def test_where_the_files_are(study):
    write_done(study, "a")
    text = printed(study)
    assert f"{study}/*/figures/*.png" in text
    assert f"tensorboard --logdir {study}" in text


def test_report_needs_neither_torch_nor_lightning():
    code = (
        "import sys, svhn_vae.runs.folder, svhn_vae.report.collect, svhn_vae.report.table, svhn_vae.report.page;"
        "print({'torch', 'lightning', 'hydra', 'omegaconf', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
