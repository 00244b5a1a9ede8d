"""Runs as they are read from fake folders, and the terminal's table: every run is in it, under a label of its own."""

import copy
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from svhn_vae.report.collect import Run, by_test_images, read_runs, run_of, variants
from svhn_vae.report.table import Fitted, print_study

SVHN = {"name": "svhn train", "synthetic": False, "digest": "0123456789abcdef"}
SVHN |= {"num_train": 6749, "num_val": 750, "num_test": 1499}
SYNTHETIC = {**SVHN, "name": "synthetic", "synthetic": True, "digest": "fedcba9876543210"}
CONFIG = {
    "study": "s",
    "seed": 0,
    "batch_size": 500,
    "data": {"_target_": "svhn_vae.data.svhn.SVHN", "root": "/a b", "verify": "none", "limit": None},
    "pca": {"_target_": "svhn_vae.model.coordinates.PCA", "n_components": 500, "whiten": False},
    "model": {"_target_": "svhn_vae.model.networks.dense.Dense", "width": 64, "dropout": 0.2},
    "variance": {"_target_": "svhn_vae.model.variance.ReluEps", "epsilon": 0.01},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-4, "betas": [0.9, 0.999]},
    "trainer": {"_target_": "lightning.Trainer", "max_epochs": 2000, "accelerator": "cpu"},
}
CHOICES = {"data": "svhn", "pca": "default", "model": "dense", "variance": "relu_eps", "optimizer": "adam"}
LOGVAR = {"_target_": "svhn_vae.model.variance.LogVar"}


def result_of(name: str, *, bits=3.0, choices=(), data=SVHN, metrics=(), parts=(), **settings) -> dict:
    """A result.json as experiment.run makes it; `settings` replace entries of the configuration, `parts` its own."""
    config = copy.deepcopy(CONFIG) | settings
    test = {"bits_per_dim": bits, "elbo": -1.0, "log_likelihood": 1.0, "residual": 2.0, "log_det": 3.0, "kl": 4.0}
    return {
        "name": name,
        "seed": config["seed"],
        "choices": {**CHOICES, **dict(choices)},
        "data": data,
        "metrics": {f"test/{key}": value for key, value in test.items()} | {"test/active_units": 17.0} | dict(metrics),
        "parts": {"modelled": 1.125, "kl": 0.25, "residual": 1.625},
        "baselines": {"uniform": 8.0, "PPCA, K = 500": 3.567},
        "cost": {"seconds": 61.7, "images_per_second": 7207.4, "epochs": 30, "steps": 210, "num_parameters": 10,
                 "device": "2 CPU threads", "peak_device_bytes": None, "continued": False},
        "commit": "abc1234",
        "versions": {"python": "3.11.7"},
        "config": config,
        **dict(parts),
    }  # fmt: skip


def setting(group: str, **values) -> dict:
    return {group: {**CONFIG[group], **values}}


def write_run(study: Path, name: str, status="done", reason="", facts=(), **result) -> Path:
    """A folder as a run leaves it, without its pictures and arrays."""
    folder, content = study / name, result_of(name, **result)
    folder.mkdir(parents=True)
    noted = {"status": status, "started": 1000.0, "data": content["data"]["digest"]}
    noted |= {"config": content["config"], "choices": content["choices"]}
    noted |= {} if status == "running" else {"reason": reason, "step": None, "ended": 1060.0}
    (folder / "status.json").write_text(json.dumps(noted | dict(facts)), encoding="utf-8")
    if status == "done":
        (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "heads & tails"
    path.mkdir()
    return path


def runs_of(*settings: dict) -> list[Run]:
    return [run_of(f"run{i}", "done", "", result_of(f"run{i}", **given), {}) for i, given in enumerate(settings)]


def printed(study: Path, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_study(study, console)
    return console.file.getvalue()


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables printed; a folded name is put together again, its spaces left out."""
    table: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("│┃").split("│")]
        if line.startswith("│") and any(cells[1:]):
            table.append([cells[0].replace(" ", ""), *cells[1:]])
        elif line.startswith("│"):
            table[-1][0] += cells[0].replace(" ", "")
    return table


def titles(text: str) -> list[str]:
    return [cell.strip() for cell in next(line for line in text.splitlines() if "┃" in line).strip("┃").split("┃")]


def column(text: str, title: str) -> list[str]:
    return [row[titles(text).index(title)] for row in rows(text)]


def by_k(study: Path, bits_of_k: dict[int, list[float]]) -> None:
    """A variant per number of components, a run per seed."""
    for k, bits in bits_of_k.items():
        for seed, value in enumerate(bits):
            write_run(study, f"k{k}-{seed}", seed=seed, bits=value, **setting("pca", n_components=k))


# --- collect --------------------------------------------------------------------------------------------------------


def test_every_status_is_read(study):
    due = {
        "a": ("done", ""),
        **{status[0]: (status, f"because {status}") for status in ("diverged", "failed", "running")},
    }
    for name, (status, reason) in due.items():
        write_run(study, name, status, bits=2.5, facts={"reason": reason})
    write_run(study, "f.previous1")  # set aside by a rerun
    (study / "figures").mkdir()
    runs = read_runs(study)
    assert {run.name: (run.status, run.reason) for run in runs} == due
    assert [run.number("metrics", "test/bits_per_dim") for run in runs if run.result] == [2.5]
    assert read_runs(study / "missing") == []


@pytest.mark.parametrize("content", [None, "", "[]", '{"name": "a", "metrics": {"test/bits'])
def test_damaged_files_are_not_dropped_silently(study, content):
    """Where the status says nothing, a result says that the run is done."""
    folder = write_run(study, "hurt")
    result, status = folder / "result.json", folder / "status.json"
    whole = result.read_text(encoding="utf-8")
    result.unlink() if content is None else result.write_text(content, encoding="utf-8")
    [run] = read_runs(study)
    assert (run.name, run.status, run.result) == ("hurt", "failed", {})
    assert "failed: hurt: result.json is missing or damaged" in printed(study)
    status.write_text(content or "", encoding="utf-8")
    [run] = read_runs(study)
    assert (run.name, run.status, run.result) == ("hurt", "new", {})
    result.write_text(whole, encoding="utf-8")
    [run] = read_runs(study)
    assert (run.name, run.status, run.result["name"]) == ("hurt", "done", "hurt")
    assert "done: hurt: status.json is damaged: result.json says that it is done" in printed(study)


# --- labels ---------------------------------------------------------------------------------------------------------


def labels(*settings: dict) -> list[str]:
    return [variant.label for variant in variants(runs_of(*settings))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([setting("pca", whiten=True, n_components=100), {}],
         ["pca.n_components=100 pca.whiten=true", "pca.n_components=500 pca.whiten=false"]),
        ([setting("optimizer", betas=[0.5, 0.9]), {}], ["optimizer.betas=[0.5, 0.9]", "optimizer.betas=[0.9, 0.999]"]),
        ([{"choices": {"variance": "logvar"}, "variance": LOGVAR}, {}], ["variance=logvar", "variance=relu_eps"]),
        ([{"choices": {"experiment": "small"}, **setting("pca", whiten=True)}, {}],
         ["experiment=small", "experiment=none"]),
        ([{"choices": {"experiment": "small"}}, setting("pca", whiten=True), {}],
         ["experiment=small", "pca.whiten=true", "pca.whiten=false"]),
        ([{"study": "b", **setting("data", root="/b"), **setting("pca", whiten=True)}, {"seed": 1}],
         ["pca.whiten=true", "pca.whiten=false"]),
    ],
    ids=["numbers", "list", "choice", "one without the choice", "a preset", "nothing that does not change a result"],
)  # fmt: skip
def test_label_is_what_differs(settings, expected):
    assert labels(*settings) == expected


@pytest.mark.parametrize(
    "settings",
    [
        [setting("variance", epsilon=0.01), setting("variance", epsilon=0.001),
         {"choices": {"variance": "logvar"}, "variance": LOGVAR}],
        [{"choices": {"trainer": "default"}}, {"choices": {"trainer": "demo"}, **setting("trainer", max_epochs=30)},
         {"choices": {"trainer": "demo"}, **setting("trainer", max_epochs=60)}],
        [{}, {"data": {**SVHN, "train_digest": "b" * 16, "test_digest": "c"}},
         {"data": {**SVHN, "train_digest": "d" * 16, "test_digest": "c"}}],
    ],
    ids=["a choice and a setting", "presets that were changed", "training images"],
)  # fmt: skip
def test_labels_tell_every_variant_from_every_other(settings):
    assert len(set(labels(*settings))) == 3
    assert len(labels(setting("variance", epsilon=1), setting("variance", epsilon=1.0))) == 1  # however it is written
    assert len(labels(setting("trainer", limit_train_batches=1), setting("trainer", limit_train_batches=1.0))) == 2


# --- images ---------------------------------------------------------------------------------------------------------


def test_runs_on_other_test_images_are_apart():
    less = {**SVHN, "digest": "aaaaaaaaaaaaaaaa", "num_test": 1000}
    groups = by_test_images(runs_of({"data": SVHN}, {"data": SYNTHETIC}, {"data": SVHN}, {"data": less}))
    assert [[run.name for run in group] for group in groups.values()] == [["run0", "run2"], ["run1"], ["run3"]]
    assert [data["digest"] in title for data, title in zip((SVHN, SYNTHETIC, less), groups, strict=True)] == [True] * 3
    assert ["synthetic" in title for title in groups] == [False, True, False]


def test_a_study_of_the_number_of_training_images_is_one_table(study):
    """They are a factor like any other: only the test images must be the same."""
    for limit in (1000, 2000, 4000):
        images = {**SVHN, "digest": f"all{limit}", "train_digest": f"train{limit}", "test_digest": "same"}
        result = {"config": {**CONFIG, **setting("data", limit=limit)}, "data": {**images, "num_train": limit}}
        result["baselines"] = {"uniform": 8.0, "PPCA, K = 500": 6.0 - limit / 2000}
        write_run(study, f"limit{limit}", bits=3.5 - limit / 4000, parts=result)
    write_run(study, "failed", "failed", data={"digest": "all1000"}, facts={"config": {}, "choices": {}})
    assert len(by_test_images(read_runs(study))) == 1
    assert [row[0] for row in rows(printed(study))] == [
        *(f"data.limit={limit}" for limit in (4000, 2000, 1000)),
        *(f"(-)PPCA,K=500,{num}trainingimages" for num in (4000, 2000, 1000)), "(-)uniform",
    ]  # fmt: skip


# --- the table ------------------------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_their_bits_and_a_run_without_a_number_stands_last(study):
    """Nothing is less than NaN: where it stood, the rows around it would be in no order. What is no better than its own
    baseline is marked."""
    by_k(study, {1: [3.6], 2: [10.2], 3: [float("nan")], 4: [2.98765]})
    independent = {"baselines": {"independent Gaussian": 7.9}}
    write_run(study, "independent", bits=3.61, parts=independent, **setting("pca", n_components=5))
    text = printed(study)
    assert [*zip(column(text, "model"), column(text, "#"), column(text, "bits/dim"), strict=True)] == [
        ("pca.n_components=4", "1", "2.988"), ("(-)PPCA,K=500", "", "3.567"), ("pca.n_components=1!", "2", "3.600"),
        ("pca.n_components=5", "3", "3.610"), ("(-)independentGaussian", "", "7.900"), ("(-)uniform", "", "8.000"),
        ("pca.n_components=2!", "4", "10.200"), ("pca.n_components=3", "", "no density"),
    ]  # fmt: skip
    assert "one seed each" in text


def test_seeds_are_one_row_with_its_interval_and_what_others_may_change_is_marked_also_in_ascii(study):
    by_k(study, {1: [3.0, 3.1, 3.2]})
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    text = printed(study)
    assert (column(text, "bits/dim")[0], column(text, "runs")[0]) == (f"3.100+-{half:.3f}", "3")
    by_k(study, {2: [3.03, 3.11, 3.23], 3: [3.5, 3.61, 3.69]})
    text = printed(study)
    assert ["~" in cell for cell in column(text, "to best: seeds")[:3]] == [False, True, False]
    assert "1 of 2 others is worse; not told apart from it: pca.n_components=2" in text
    print_study(study, Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80))


def test_a_variant_of_which_a_seed_diverged_has_no_rank(study):
    """The seed that survived is the lowest of all: it says what survived, not what the variant gives."""
    by_k(study, {1: [2.0], 2: [3.0, 3.1]})
    write_run(study, "k1-1", "diverged", seed=1, **setting("pca", n_components=1))
    text = printed(study)
    found = [*zip(*(column(text, title) for title in ("model", "#", "bits/dim", "runs")), strict=True)]
    assert found[0] == ("pca.n_components=2", "1", found[0][2], "2")
    assert found[-1] == ("pca.n_components=1", "", "(2.000)", "1, 1 diverged")
    assert "Best density: pca.n_components=2" in text
    assert "because a seed diverged: pca.n_components=1" in text


def test_both_sides_are_ranked_and_answered(study):
    for k, bits, distance in ((1, 3.0, 30.0), (2, 3.5, 20.0), (3, 3.6, 40.0)):
        for seed in (0, 1):
            judged = {"samples/frechet": distance + seed}
            write_run(study, f"k{k}-{seed}", bits=bits + seed / 100, seed=seed, metrics=judged,
                      **setting("pca", n_components=k))  # fmt: skip
    text = printed(study)
    assert [*zip(column(text, "#"), column(text, "# pictures"), strict=True)][:2] == [("1", "2"), ("2", "1")]
    assert "Best density: pca.n_components=1" in text
    assert "Best pictures: pca.n_components=2, 20.5" in text
    assert "No variant beats these in both: pca.n_components=1; pca.n_components=2." in text


def test_figures_of_a_run_and_a_part_of_its_time(study):
    write_run(study, "a")
    text = printed(study)
    found = [column(text, title)[0] for title in ("active", "KL", "modelled", "residual", "seconds")]
    assert found == ["17", "0.250", "1.125", "1.625", "62"]
    write_run(study, "b", parts={"cost": {"seconds": 10.0, "continued": True}}, **setting("pca", n_components=3))
    assert column(printed(study), "seconds")[1] == ">10"


def test_names_and_figures_can_be_read_at_every_width(study):
    name = "dense-per_dimension-pca1000-white-spectrum"
    for seed in range(3):
        write_run(study, f"{name}-seed{seed}-0123abcd", bits=2.75 + seed / 100, seed=seed)
    before: set[str] = set()
    for width in [*range(40, 102, 6), 199]:
        text = printed(study, width)
        assert max(len(line) for line in text.splitlines() if line[:1] in "┏┃┡│└") <= width
        assert column(text, "model")[0] == name
        assert column(text, "bits/dim")[0].startswith("2.760")
        assert "…" not in text
        assert before <= set(titles(text))  # wider, and no column fewer
        before = set(titles(text))
    assert "modelled" in before


@pytest.mark.parametrize("width", range(40, 125, 6))
def test_so_can_those_of_every_command(width):
    row = ("calibration/coverage_90 of a longer name", "-554586.0000", "1,000.5", "by the bound with one sample")
    console = Console(file=io.StringIO(), width=width)
    console.print(Fitted("a title", ("quantity", "value", "other", ""), [row] * 2))
    lines = [line.split("│") for line in console.file.getvalue().splitlines() if "│" in line]
    columns = ["".join("".join(cells).split()) for cells in zip(*lines, strict=True)]
    shown = ["".join(text.split()) for text in row[: len(columns) - 2]]
    assert columns[1:-1] == [2 * text for text in shown]
    assert [each[2].strip() for each in lines if each[2].strip()] == 2 * [row[1]]


def test_what_did_not_finish_is_listed_with_its_reason_and_where_the_files_are_in_shell_words(study):
    line = "diverged: logvar-seed0: the loss was not finite at step 41 [and this is no markup]"
    write_run(study, "logvar-seed0", "diverged", line.rpartition(": ")[2])
    text = printed(study)
    assert line in text.splitlines()
    assert rows(text) == []  # nothing finished
    write_run(study, "a", bits=3.0)
    text = printed(study)
    assert line in text.splitlines()
    assert f"'{study}'/*/figures/*.png" in text
    assert f"tensorboard --logdir '{study}'" in text
