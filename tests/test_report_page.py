"""The page on fake studies: every run is in it, nothing leaves it, and it says what its figures are."""

import csv
import io
import itertools
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from conftest import REPO
from svhn_vae.evaluation.samples import posterior_predictive
from svhn_vae.report import plots
from svhn_vae.report.collect import read_runs, run_of
from svhn_vae.report.page import command_of, warnings, write_report
from svhn_vae.report.table import print_study
from test_report import SVHN, SYNTHETIC, result_of, setting, write_run

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
        assert not re.search(r"(?<![\d.,])1 (runs|seeds|images|epochs|settings|trials)\b", text)

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

    def column(self, first: str, title: str) -> list[str]:
        """Of the first table whose first title is this."""
        titles, *rows = next(table for table in self.tables if table[0][0].strip() == first)
        return [row[titles.index(title)] for row in rows]


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "heads & tails"
    path.mkdir()
    return path


def add_arrays(folder: Path, num_epochs: int = 30) -> None:
    """Learning curves, the bound of each image, and pictures."""
    rng = np.random.default_rng(0)
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "step", "seconds", "train/bits_per_dim", "val/bits_per_dim", "val/kl"])
        for epoch in range(num_epochs):
            validated = [3 + 1 / (1 + epoch), 9.0] if epoch % 3 == 0 else ["", ""]
            table.writerow([epoch, 10 * epoch, 2.5 * epoch, 2.9 + 1 / (1 + epoch), *validated])
    elbo = rng.normal(10_000, 100, 80).astype(np.float32)
    save_file({"elbo": elbo}, folder / "per_image.safetensors")
    (folder / "figures").mkdir()
    for name in ("samples", "reconstructions", "analogies", "data"):
        pixels = rng.integers(0, 255, (10, 10, 3), dtype=np.uint8).repeat(98, 0).repeat(98, 1)
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
                    write_run(study, name, "diverged", NASTY, {"step": 41, "state": {"loss": 812.34567}}, **settings)
                elif (k, whiten, seed) == (500, True, 1):
                    write_run(study, name, "running", **settings)
                else:
                    add_arrays(write_run(study, name, bits=bits, **settings))
    write_run(study, "z-never", "diverged", "nan", **setting("pca", n_components=7))
    (study / "study.json").write_text(json.dumps(ASKED), encoding="utf-8")


class Report(NamedTuple):
    """Of a sweep, written once: tests only read it."""

    study: Path
    text: str
    page: Page
    names: list[str]  # of the runs

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """Of results.csv, by run."""
        with (self.study / "report" / "results.csv").open(newline="", encoding="utf-8") as file:
            return {row["run"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Report:
    study = tmp_path_factory.mktemp("studies") / "heads & tails"
    (study / "report" / "figures").mkdir(parents=True)
    (study / "report" / "figures" / "old.svg").write_text("", encoding="utf-8")
    sweep(study)
    text = write_report(study).read_text(encoding="utf-8")
    return Report(study, text, Page(text), sorted(path.parent.name for path in study.glob("*/status.json")))


@pytest.fixture
def undrawn(monkeypatch):
    """To draw takes most of a report's time."""
    monkeypatch.setattr(plots, "FigureCanvasSVG", Blank)


class Blank:
    """In place of matplotlib's canvas."""

    def __init__(self, figure) -> None:
        pass

    def print_svg(self, file, **_) -> None:
        file.write("<svg></svg>")


def page_of(study: Path) -> Page:
    return Page(write_report(study).read_text(encoding="utf-8"))


# --- all of it ------------------------------------------------------------------------------------------------------


def test_every_run_is_in_every_file(swept):
    _, _, page, names = swept
    assert len(names) == 9
    assert page.column("run", "run") == [names[3], names[7], names[8]]  # what did not finish
    assert sorted(row[0] for row in page.tables[-1][1:]) == names  # how to reproduce
    assert list(swept.rows) == names
    assert [run.name for run in read_runs(swept.study)] == names  # the report is no run


def test_the_page_needs_nothing_outside_itself(swept):
    _, text, page, _ = swept
    assert {reference for reference in page.references if not reference.startswith(("#", "data:"))} == set()
    assert "http" not in re.sub(r"data:image/[a-z+]+;base64,[^\"]*", "", text)
    assert "@import" not in text
    assert not any(tag in ("link", "iframe", "object", "embed") for tag, _ in page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)


def test_every_picture_says_what_it_shows_and_people_look_first(swept):
    pictures = [given for tag, given in swept.page.tags if tag == "img" and "src" in given]
    drawings = [given for given in pictures if "svg" in given["src"][:20]]
    assert len(drawings) == 1 + 1 + 4  # verdict; rate-distortion; validation over epochs and seconds, training, KL
    assert len(pictures) - len(drawings) == 1 + 3 * 4
    assert all(given["alt"] and given["loading"] == "lazy" for given in pictures)
    order = [given["id"] for tag, given in swept.page.tags if tag == "h2"]
    assert order[:3] == ["hypotheses", "ranking", "pictures"]
    assert order.index("pictures") < order.index("effects") < order.index("curves")


def test_what_runs_say_is_text(swept):
    page = swept.page
    assert page.column("run", "reason")[0] == f"{NASTY}loss 812.3"
    assert page.column("run", "step") == ["41", "", ""]
    assert page.column("run", "what happened") == ["diverged", "running", "diverged"]
    assert "Study heads & tails" in "".join(page.text)


def test_nothing_half_written_is_left_and_old_figures_go_and_the_same_runs_give_the_same(swept):
    figures = lambda: {path.name: path.read_bytes() for path in (swept.study / "report" / "figures").iterdir()}  # noqa: E731
    before = figures()
    assert "old.svg" not in before
    assert len(before) == 6
    assert list(swept.study.rglob("*.partial")) == []
    write_report(swept.study)
    assert figures() == before


# --- question, answer, table ----------------------------------------------------------------------------------------


def test_question_and_answer(swept):
    text = "".join(swept.page.text)
    for part in ("Is whitening < harmless?", "python src/train.py -m a=<1>", "undecided: Whitening harms.", "a < b",
                 "Best density: pca.n_components=100 pca.whiten=false, 3.105 ±", "because a seed diverged",
                 "0.462 less than the best model without a network, PPCA, K = 500", "no run was judged",
                 "9 runs: 6 finished, 2 diverged, 1 still running.",
                 "would the variants differ so if they were trained again?", "on other test images?"):  # fmt: skip
        assert part in text
    assert (swept.study / "report" / "figures" / "verdict-01.svg").is_file()


def test_rows_are_ranked_and_runs_counted(swept):
    page = swept.page
    names = [name.removesuffix(" !") for name in page.column("model", "model")]
    found = [*zip(names, page.column("model", "#"), page.column("model", "runs"), strict=True)]
    assert found == [
        ("pca.n_components=100 pca.whiten=false", "1", "2"),
        ("pca.n_components=500 pca.whiten=false", "2", "2"),
        ("PPCA, K = 500", "", ""),
        ("pca.n_components=500 pca.whiten=true", "3", "1, 1 running"),
        ("uniform", "", ""),
        ("pca.n_components=100 pca.whiten=true", "", "1, 1 diverged"),
        ("pca.n_components=7 pca.whiten=false", "", "0, 1 diverged"),
    ]
    assert page.column("model", "bits/dim")[5] == "(3.200)"


def test_other_seeds_and_other_images_are_two_columns(study, undrawn):
    rng = np.random.default_rng(0)
    common = rng.normal(10_000, 500, 800)
    for k, loss in ((1, 0.0), (2, 40.0)):
        for seed in range(3):
            elbo = (common - loss + 5 * rng.normal(0, 1, 800)).astype(np.float32)
            bits = 8 - float(elbo.mean()) / (3072 * np.log(2))
            folder = write_run(study, f"k{k}-{seed}", bits=bits, seed=seed, **setting("pca", n_components=k))
            save_file({"elbo": elbo}, folder / "per_image.safetensors")
    page = page_of(study)
    seeds, images = page.column("model", "to best: seeds"), page.column("model", "to best: images")
    gap = 40 / (3072 * np.log(2))
    for found in (seeds[1], images[1]):
        mean, _, reach = found.removesuffix(" ≈").partition(" ± ")
        assert float(mean) == pytest.approx(gap, abs=6e-4)
        assert float(reach) < gap
    assert seeds[1] != ""
    assert page.column("model", "to best: images")[0] == ""


def test_columns_without_a_value_are_left_out_and_names_of_settings_are_text(study, undrawn):
    assert "This study has no runs yet." in "".join(page_of(study).text)
    write_run(study, "a", variance={"epsilon": "<script>alert(1)</script>"})
    write_run(study, "b", seed=1, metrics={"samples/frechet": 12.5, "test/reconstruction/psnr": float("nan")})
    page = page_of(study)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "12.5" in page.column("model", "Frechet")
    titles = [title for table in page.tables for title in table[0]]
    assert "active" in titles
    assert not {"PSNR, dB", "# precision"} & {*titles}


def test_settings_that_only_change_together_have_one_effect(study, undrawn):
    for number in (1, 2, 3):
        write_run(study, f"run{number}", batch_size=number, **setting("pca", n_components=number))
    text = "".join(page_of(study).text)
    assert "The ranking is the effect of batch_size, pca.n_components, which were varied together." in text


def test_what_differs_and_nothing_else(swept):
    table = next(table for table in swept.page.tables if table[0][0] == "variant")
    assert table[0] == ["variant", "pca.n_components", "pca.whiten"]
    assert table[1] == ["pca.n_components=100 pca.whiten=false", "100", "false"]
    assert len(table) == 6
    assert "optimizer.lr" in swept.page.text  # among those that all share
    levels = [table[1:] for table in swept.page.tables if table[0][0] == "level"]
    assert [sorted(row[0] for row in rows) for rows in levels] == [["100", "500"], ["false", "true"]]
    assert "Left out: seed 1" in "".join(swept.page.text)


# --- partial, old, different ----------------------------------------------------------------------------------------


def write_odd_runs(study: Path) -> None:
    """Each lacks another thing: seeds, a judge, test images, baselines, a density, a result, settings."""
    add_arrays(write_run(study, "whole-0", bits=3.1))
    add_arrays(write_run(study, "whole-1", bits=3.2, seed=1))
    few = write_run(study, "few-images", bits=3.3, data={**SVHN, "num_test": 8}, **setting("pca", n_components=3))
    save_file({"elbo": np.full(8, 9e3, np.float32)}, few / "per_image.safetensors")
    black = dict.fromkeys(("test", "samples", "noisy_samples"), posterior_predictive(torch.zeros(4, 3, 32, 32).byte()))
    bare = {"baselines": {}, "parts": {}}
    for number, (name, metrics, parts) in enumerate((
        ("judged", {"samples/frechet": 20.0}, bare),
        ("nan", {"test/bits_per_dim": float("nan")}, bare),
        ("nulls", {}, {"baselines": {"uniform": None}, "parts": None}),
        ("checked", {}, {"details": {"posterior_predictive": black}}),
        ("unchecked", {}, {"details": {"posterior_predictive": None}}),
    )):  # fmt: skip
        write_run(study, name, metrics=metrics, parts=parts, **setting("variance", epsilon=number))
    write_run(study, "running", "running", **setting("pca", whiten=True))
    write_run(study, "other", data=SYNTHETIC, **setting("pca", whiten=True))
    for seed, status in enumerate(("diverged", "failed", "interrupted"), 2):
        write_run(study, status, status, "because", seed=seed)
    (write_run(study, "hurt") / "result.json").write_text('{"name": "hurt", "metrics": {}}', encoding="utf-8")
    add_arrays(torn := write_run(study, "torn", seed=9))
    for name in ("history.csv", "per_image.safetensors", "figures/samples.png"):
        (torn / name).write_bytes((torn / name).read_bytes()[:300])
    (write_run(study, "less", seed=8) / "status.json").write_text("{", encoding="utf-8")
    (write_run(study, "old-seed0", "failed") / "status.json").write_text('{"status": "failed"}', encoding="utf-8")


def test_every_subset_of_runs_has_its_report_and_table(study, tmp_path, undrawn):
    """And says what it cannot say, rather than nothing."""
    write_odd_runs(study)
    names = sorted(path.name for path in study.iterdir())
    chosen = np.random.default_rng(0).random((4, len(names))) < 0.4
    subsets = [[name] for name in names] + [[*itertools.compress(names, row)] for row in chosen if row.any()] + [names]
    for number, subset in enumerate(subsets):
        part = tmp_path / f"part{number}"
        part.mkdir()
        for name in subset:
            (part / name).symlink_to(study / name)
        (part / "study.json").write_text(json.dumps(ASKED), encoding="utf-8")
        page = page_of(part)
        assert sorted(row[0] for row in page.tables[-1][1:]) == subset
        text = "".join(page.text)
        assert re.search(
            "Whitening harms.*(supported|refuted|undecided)|(supported|refuted|undecided).*Whitening", text
        )
        assert re.search("Best density|No ranking of density|No run has finished", text)
        assert "less" not in subset or "less: status.json is damaged: result.json says that it is done." in text
        assert "other" not in subset or len(subset) < 9 or f"tested on different images, {SVHN['digest']}" in text
        print_study(part, Console(file=io.StringIO(), width=40 + number))


def test_csv_holds_the_numbers(swept):
    rows, names = swept.rows, swept.names
    result = json.loads((swept.study / names[0] / "result.json").read_text(encoding="utf-8"))
    for key, value in result["metrics"].items():
        assert float(rows[names[0]][key]) == value
    due = {"baseline/uniform": "8.0", "part/kl": "0.25", "pca.n_components": "100", "version/python": "3.11.7"}
    assert due.items() <= rows[names[0]].items()
    due = {"status": "diverged", "reason": NASTY, "test/bits_per_dim": "", "pca.whiten": "True"}
    assert due.items() <= rows[names[3]].items()


def test_a_printed_command_is_what_was_typed(tmp_path, monkeypatch):
    typed = ["variance=logvar", "data.root='/a b/jörg (1)=x'", "data.splits=[train,extra]", "seed=3"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed, allow_unicode=True), encoding="utf-8")
    assert shlex.split(command_of(tmp_path)) == ["python", "src/train.py", *typed]
    monkeypatch.setattr(sys, "argv", [str(REPO / "src" / "report.py")])  # from another folder
    assert shlex.split(command_of(tmp_path)) == ["python", str(REPO / "src" / "train.py"), *typed]
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[", encoding="utf-8")
    assert command_of(tmp_path) == command_of(tmp_path / "none") == ""


def test_what_makes_runs_unlike_is_said():
    other = {"commit": "fff0000+", "versions": {"python": "3.12.0"}, "cost": {"device": "NVIDIA H200"}}
    alike, unlike = (
        run_of(name, "done", "", result_of(name, parts=parts), {}) for name, parts in (("a", {}), ("b", other))
    )
    assert warnings([alike, alike]) == []
    found = " ".join(warnings([alike, unlike, alike]))
    assert "different commits, abc1234, fff0000+" in found
    assert "1 of 3 runs were made by files that were changed" in found
    assert "different versions of python: 3.11.7, 3.12.0" in found
    assert "different devices, 2 CPU threads; NVIDIA H200" in found
