"""The page on fake studies: every run is in it, nothing leaves it, and it says what its figures are."""

import copy
import csv
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from conftest import composed
from svhn_vae.experiment.configuration import choices, plain
from svhn_vae.report.collect import Run, read_runs
from svhn_vae.report.page import write_report
from svhn_vae.report.reproduce import recipes, warnings
from svhn_vae.runs.identity import identity
from test_report import CHOICES, CONFIG, SVHN, SYNTHETIC, result_of, setting

NASTY = 'the loss was <b>not</b> finite & "812.3" nats | it\'s over'
VOID = {"meta", "img", "wbr", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What a test asks of a page; fails where elements are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.references, self.tags, self.open, self.text, self.tables = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.references += [given[name] for name in ("href", "src", "xlink:href", "srcset", "action") if name in given]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows below the titles, of the first table whose first title is this."""
        return next(table[1:] for table in self.tables if table[0][0].strip() == first)

    def column(self, first: str, title: str) -> list[str]:
        titles = next(table[0] for table in self.tables if table[0][0].strip() == first)
        return [row[titles.index(title)] for row in self.table(first)]


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "heads & tails"
    path.mkdir()
    return path


def write_run(
    study: Path, name: str, *, status="done", reason="", step=None, digest=SVHN["digest"], **settings
) -> Path:
    """A folder as a run leaves it, without its pictures and arrays."""
    folder = study / name
    folder.mkdir()
    result = result_of(name, **settings)
    facts = {"started": 1000.0, "data": digest, "config": result["config"], "choices": result["choices"]}
    facts |= {"status": status, "reason": reason, "step": step, "ended": 1060.0}
    if status == "running":
        del facts["ended"], facts["reason"], facts["step"]
    (folder / "status.json").write_text(json.dumps(facts))
    if status == "done":
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def add_arrays(folder: Path, num_epochs: int = 30, num_components: int = 50) -> None:
    """Learning curves, calibration, order of learning and pictures."""
    rng = np.random.default_rng(0)
    with (folder / "history.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "step", "seconds", "train/bits_per_dim", "val/bits_per_dim", "val/kl"])
        for epoch in range(num_epochs):
            validated = [3 + 1 / (1 + epoch), 9.0] if epoch % 3 == 0 else ["", ""]
            table.writerow([epoch, 10 * epoch, 2.5 * epoch, 2.9 + 1 / (1 + epoch), *validated])
    eigenvalue = np.geomspace(10, 1e-3, num_components).astype(np.float32)
    arrays = {"eigenvalue": eigenvalue, "sigma2": eigenvalue / 2, "error2": eigenvalue / 3}
    bins = np.geomspace(0.1, 1, 15).astype(np.float32)
    save_file({"predicted": bins, "actual": bins * 1.1, **arrays}, folder / "calibration.safetensors")
    epochs = np.array([1, 2, 4, 8])
    order = {"epochs": epochs, "explained": rng.random((4, 10)).astype(np.float32)}
    save_file(order, folder / "order_of_learning.safetensors")
    (folder / "figures").mkdir()
    for name in ("samples", "reconstructions", "analogies", "data"):
        pixels = rng.integers(0, 255, (1000, 980, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "figures" / f"{name}.png")


ASKED = {
    "question": "Is whitening < harmless?",
    "hypotheses": [{"claim": "Whitening harms.", "source": "a < b", "metric": "test/bits_per_dim", "better": "lower",
                    "favours": {"pca.whiten": False}, "over": {"pca.whiten": True}}],
    "commands": [{"command": "python src/train.py -m a=<1>", "time": 0.0, "commit": "abc", "jobs": 8}],
}  # fmt: skip


def sweep(study: Path) -> None:
    """Two by two variants, two seeds; one run diverged, one is still running; one variant more never finished."""
    for k in (100, 500):
        for whiten in (False, True):
            for seed in (0, 1):
                name = f"dense-{k}-{whiten}-seed{seed}"
                settings = {**setting("pca", n_components=k, whiten=whiten), "seed": seed}
                bits = 3 + k / 1000 + 0.1 * whiten + 0.01 * seed * (1 + whiten)
                if (k, whiten, seed) == (100, True, 1):
                    write_run(study, name, status="diverged", reason=NASTY, step=41, **settings)
                elif (k, whiten, seed) == (500, True, 1):
                    write_run(study, name, status="running", **settings)
                else:
                    add_arrays(write_run(study, name, bits=bits, **settings))
    write_run(study, "z-never", status="diverged", reason="nan", **setting("pca", n_components=7))
    (study / "study.json").write_text(json.dumps(ASKED))


class Report(NamedTuple):
    """Of a sweep, written once: tests only read it."""

    study: Path
    text: str
    page: Page
    names: list[str]  # of the runs

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """Of results.csv, by run."""
        with (self.study / "report" / "results.csv").open(newline="") as file:
            return {row["run"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Report:
    study = tmp_path_factory.mktemp("studies") / "heads & tails"
    study.mkdir()
    (study / "report" / "figures").mkdir(parents=True)
    (study / "report" / "figures" / "old.svg").write_text("")
    sweep(study)
    text = write_report(study).read_text()
    return Report(study, text, Page(text), sorted(path.parent.name for path in study.glob("*/status.json")))


def page_of(study: Path) -> Page:
    return Page(write_report(study).read_text())


# --- all of it ------------------------------------------------------------------------------------------------------


def test_every_run_is_in_every_file(swept):
    _, _, page, names = swept
    assert len(names) == 9
    assert [row[0] for row in page.table("run")] == [names[3], names[7], names[8]]  # what did not finish
    assert sorted(row[0] for row in page.tables[-1][1:]) == names  # how to reproduce
    markdown = (swept.study / "report" / "report.md").read_text()
    assert all(name in markdown for name in names)
    assert list(swept.rows) == names


def test_the_page_needs_nothing_outside_itself(swept):
    _, text, page, _ = swept
    assert {reference for reference in page.references if not reference.startswith(("#", "data:"))} == set()
    assert "http" not in re.sub(r"data:image/[a-z]+;base64,[^\"]*", "", text)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert not any(tag in ("link", "iframe", "object", "embed") for tag, _ in page.tags)


def test_names_in_the_page_are_unique_and_found(swept):
    _, text, page, _ = swept
    assert len(page.ids) == len(set(page.ids))
    pointed = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert pointed | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)


def test_every_picture_says_what_it_shows(swept):
    pictures = [given for tag, given in swept.page.tags if tag == "img"]
    drawings = [given for tag, given in swept.page.tags if tag == "svg"]
    assert len(pictures) == 1 + 3 * 4
    assert all(given["alt"] and given["loading"] == "lazy" for given in pictures)
    assert len(drawings) == 1 + 4 + 3 * 4  # the verdict; validation over epochs and seconds, training, KL
    assert all(given["aria-label"] for given in drawings)


def test_what_runs_say_is_text(swept):
    page = swept.page
    assert page.column("run", "reason")[0] == NASTY
    assert page.column("run", "step") == ["41", "", ""]
    assert page.column("run", "what happened") == ["diverged", "running", "diverged"]
    assert "Study heads & tails" in "".join(page.text)
    markdown = (swept.study / "report" / "report.md").read_text()
    [row] = [line for line in markdown.splitlines() if "&lt;b>not" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6  # its own bar makes no column


def test_names_of_settings_are_text(study):
    write_run(study, "a", variance={"epsilon": "<script>alert(1)</script>"})
    write_run(study, "b", variance={"epsilon": "</style>"})
    assert [tag for tag, _ in page_of(study).tags].count("script") == 1


def test_nothing_half_written_is_left_and_old_figures_go(swept):
    figures = sorted(path.name for path in (swept.study / "report" / "figures").iterdir())
    assert "old.svg" not in figures
    assert len(figures) == 17
    assert list(swept.study.rglob("*.partial")) == []
    assert [run.name for run in read_runs(swept.study)] == swept.names  # the report is no run


def test_the_same_runs_give_the_same_figures(study):
    add_arrays(write_run(study, "a"))
    write_report(study)
    first = {path.name: path.read_text() for path in (study / "report" / "figures").iterdir()}
    write_report(study)
    assert first == {path.name: path.read_text() for path in (study / "report" / "figures").iterdir()}


# --- question, answer, table ----------------------------------------------------------------------------------------


def test_question_and_answer(swept):
    text = "".join(swept.page.text)
    assert "Is whitening < harmless?" in text
    assert "python src/train.py -m a=<1>" in text
    assert "Of 4 variants with a result, pca.n_components=100 pca.whiten=false is the best: 3.105 ± 0.064 test" in text
    assert "0.462 less than the best model without a network (PPCA, K = 500: 3.567)" in text
    assert "9 runs: 6 finished, 2 diverged, 1 still running." in text


def test_verdicts_are_in_the_page(swept):
    text = "".join(swept.page.text)
    assert "undecided: Whitening harms." in text
    assert "a < b" in text
    assert (swept.study / "report" / "figures" / "verdict-01.svg").is_file()


def test_the_question_is_the_usual_one_where_none_was_asked(study):
    write_run(study, "a")
    assert "Which variant has the lowest test bits/dim?" in "".join(page_of(study).text)


def test_rows_are_ranked_and_runs_counted(swept):
    assert [(row[0], row[4], row[1]) for row in swept.page.table("model")] == [
        ("pca.n_components=100 pca.whiten=false", "2", "3.105 ± 0.064"),
        ("pca.n_components=100 pca.whiten=true", "1, 1 diverged", "3.200"),
        ("pca.n_components=500 pca.whiten=false", "2", "3.505 ± 0.064"),
        ("PPCA, K = 500", "", "3.567"),
        ("pca.n_components=500 pca.whiten=true !", "1, 1 running", "3.600"),
        ("uniform", "", "8.000"),
        ("pca.n_components=7 pca.whiten=false", "0, 1 diverged", ""),
    ]


def test_columns_without_a_value_are_left_out(study):
    write_run(study, "a")
    titles = [title for table in page_of(study).tables for title in table[0]]
    assert "active" in titles
    assert "Frechet" not in titles
    folder = write_run(study, "b", seed=1)
    result = json.loads((folder / "result.json").read_text())
    result["metrics"] |= {"samples/frechet": 12.5, "test/reconstruction/psnr": float("nan")}
    (folder / "result.json").write_text(json.dumps(result))
    page = page_of(study)
    assert page.column("model", "Frechet")[0] == "12.5"
    assert "PSNR, dB" not in [title for table in page.tables for title in table[0]]


def test_what_differs_and_nothing_else(swept):
    table = next(table for table in swept.page.tables if table[0][0] == "variant")
    assert table[0] == ["variant", "pca.n_components", "pca.whiten"]
    assert table[1] == ["pca.n_components=100 pca.whiten=false", "100", "false"]
    assert len(table) == 6
    assert "optimizer.lr" in swept.page.text  # among those that all share


def test_effects_are_in_the_page(swept):
    levels = [table[1:] for table in swept.page.tables if table[0][0] == "level"]
    assert [[row[0] for row in rows] for rows in levels] == [["100", "500"], ["false", "true"]]
    text = "".join(swept.page.text)
    assert "Left out: seed 1" in text
    assert "Left out: pca.n_components=7" in text
    assert "Interaction contrast: +0.000 bits/dim (one seed: no interval)" in text


# --- partial, old, different ----------------------------------------------------------------------------------------


def test_a_study_without_runs(study):
    assert "This study has no runs yet." in "".join(page_of(study).text)
    assert (study / "report" / "results.csv").read_text().strip() == ""


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted", "running"])
def test_a_study_in_which_nothing_finished(study, status):
    write_run(study, "only", status=status, reason="because")
    page = page_of(study)
    assert "No run has finished yet." in "".join(page.text)
    assert page.column("run", "what happened") == [status]
    assert [(row[0], row[4]) for row in page.table("model")] == [("only", f"0, 1 {status}")]


def test_a_run_with_a_damaged_status(study):
    write_run(study, "good")
    (study / "hurt").mkdir()
    (study / "hurt" / "status.json").write_text("{")
    (write_run(study, "less", seed=1) / "status.json").write_text("{")
    page = page_of(study)
    assert page.column("run", "what happened") == ["no status"]
    assert "3 runs: 2 finished, 1 without a status." in "".join(page.text)
    assert "less: status.json is damaged: result.json says that it is done." in "".join(page.text)
    assert sum("hurt" in row[0] for row in page.table("model")) == 1


def test_where_a_diverged_run_stood_is_said(study):
    folder = write_run(study, "a", status="diverged", reason="nan", step=3)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"state": {"loss": 812.34567, "sigma_min": None}}))
    assert page_of(study).column("run", "reason") == ["nanloss 812.3, sigma_min None"]


def test_older_runs_without_their_settings_stand_alone(study):
    write_run(study, "good")
    for name in ("old-seed0", "old-seed1"):
        folder = write_run(study, name, status="diverged", reason="nan")
        status = json.loads((folder / "status.json").read_text())
        del status["config"], status["choices"]
        (folder / "status.json").write_text(json.dumps(status))
    assert [row[0] for row in page_of(study).table("model")][-2:] == ["old-seed0", "old-seed1"]


def test_damaged_files_beside_a_run_are_no_obstacle(study):
    folder = write_run(study, "a")
    add_arrays(folder)
    for name in ("history.csv", "calibration.safetensors", "order_of_learning.safetensors", "figures/samples.png"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    write_run(study, "b", seed=1)
    page = page_of(study)
    assert any(given.get("alt") for tag, given in page.tags if tag == "img")


def test_a_damaged_command_is_left_out(study):
    """A flipped bit makes another key of it."""
    commands = [{"comm!nd": "python src/train.py seed=1"}, "python", {"command": "python src/train.py seed=2"}]
    (study / "study.json").write_text(json.dumps({"commands": commands}))
    text = write_report(study).read_text()
    assert "seed=2" in text
    assert "seed=1" not in text


def test_runs_on_different_images_are_apart(study):
    write_run(study, "a", bits=3.1)
    write_run(study, "b", bits=2.0, data=SYNTHETIC, digest=SYNTHETIC["digest"])
    write_run(study, "c", status="failed", reason="out of memory", digest=SYNTHETIC["digest"], seed=3)
    page = page_of(study)
    tables = [table for table in page.tables if table[0][0] == "model"]
    assert [[row[0] for row in table[1:] if row[4]] for table in tables] == [["a"], ["b"]]
    assert tables[1][1][4] == "1, 1 failed"
    text = "".join(page.text)
    assert f"The runs saw different images, {SVHN['digest']}, {SYNTHETIC['digest']}" in text
    assert "Of 2 variants" not in text


def test_runs_that_read_no_data_are_with_the_others(study):
    write_run(study, "a")
    write_run(study, "b", status="failed", reason="no such file", digest=None, seed=1)
    tables = [table for table in page_of(study).tables if table[0][0] == "model"]
    assert [(row[0], row[4]) for table in tables for row in table[1:] if row[4]] == [("a", "1, 1 failed")]


# --- the table for programs -----------------------------------------------------------------------------------------


def test_csv_holds_the_numbers(swept):
    rows, names = swept.rows, swept.names
    result = json.loads((swept.study / names[0] / "result.json").read_text())
    for key, value in result["metrics"].items():
        assert float(rows[names[0]][key]) == value
    assert float(rows[names[0]]["baseline/uniform"]) == 8.0
    assert float(rows[names[0]]["part/kl"]) == 0.25
    assert rows[names[0]]["pca.n_components"] == "100"
    assert rows[names[3]]["status"] == "diverged"
    assert rows[names[3]]["reason"] == NASTY
    assert rows[names[3]]["test/bits_per_dim"] == ""
    assert rows[names[3]]["pca.whiten"] == "True"
    labels = {row[0].removesuffix(" !") for row in swept.page.table("model") if row[4]}
    assert {row["variant"] for row in rows.values()} == labels


# --- reproducing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        ["variance=logvar", "pca.whiten=true", "optimizer.lr=3e-4"],
        ["model=conv", "data=synthetic", "trainer=demo", "seed=3"],
        ["experiment=heads", "variance=student_t", "data.splits=[train,extra]"],
        ["experiment=post_2017_as_run", "data.limit=0.2"],
    ],
)
def test_the_overrides_make_the_same_run(typed):
    """Hydra itself reads what the page says."""
    cfg = composed(*typed)
    config, chosen = plain(cfg), choices(cfg.hydra)
    other = copy.deepcopy(config) | {"batch_size": 77, "seed": 5}
    runs = [
        Run(str(seed), "running", "", {}, {"config": one, "choices": chosen})
        for seed, one in enumerate((config, other))
    ]
    found = recipes(runs)
    again = composed(*shlex.split(found.shared), *shlex.split(found.rows[0].overrides))
    assert identity(plain(again)) == identity(config)
    assert choices(again.hydra) == chosen
    assert "batch_size=77" in found.rows[1].overrides
    assert "seed=5" in found.rows[1].overrides


def test_what_makes_runs_unlike_is_said():
    runs = [Run(name, "done", "", result_of(name)) for name in "abc"]
    assert warnings(runs) == []
    runs[1].result.update(commit="fff0000+", versions={"python": "3.12.0"})
    runs[2].result["cost"]["device"] = "NVIDIA H200"
    found = " ".join(warnings(runs))
    assert "different commits, abc1234, fff0000+" in found
    assert "1 of 3 runs were made by files that were changed" in found
    assert "different versions of python: 3.11.7, 3.12.0" in found
    assert "different devices, 2 CPU threads; NVIDIA H200" in found


def test_fakes_are_like_runs():
    """The tests above hold of what runs leave only if their settings are found as those of runs are."""
    run = Run("a", "done", "", result_of("a"))
    assert run.settings["variance"] == CHOICES["variance"]
    assert run.settings["optimizer.lr"] == CONFIG["optimizer"]["lr"]
