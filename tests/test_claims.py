"""The table of claims, by its command: every study's verdicts, what has no runs, what is damaged."""

import json
import sys
from pathlib import Path

import pytest

from svhn_vae.commands import studies
from svhn_vae.report.claims import HEADER, NOTE, gather
from test_hypotheses import NOISE, Study, hypothesis

EXPERIMENT = """\
# @package _global_
# python src/train.py -m experiment=claims/09_whitening trainer=demo
#
# Why.
defaults:
  - override /model: dense
study: claims/09_whitening
hypotheses:
  - claim: Whitening fails.
    source: the post
    metric: test/bits_per_dim
    better: lower
    favours: {pca.whiten: false}
    over: {pca.whiten: true}
    margin: 0.25
hydra:
  sweeper:
    params:
      pca.whiten: false,true
"""


def write_study(path: Path, *hypotheses: dict, num_seeds: int = 6) -> None:
    """Whose favoured side is lower by about 0.1 bits."""
    Study(path).add_sides(*(NOISE[:, :num_seeds] + [[3.0], [3.1]]))
    path.mkdir(parents=True, exist_ok=True)
    (path / "study.json").write_text(json.dumps({"hypotheses": hypotheses}), encoding="utf-8")


@pytest.fixture
def outputs(tmp_path):
    """Two studies, one of them nested, with three verdicts."""
    path = tmp_path / "outputs"
    write_study(path / "claims" / "02_rates", hypothesis(claim="It is better [by much] | or not."))
    wrong, unclear = hypothesis(claim="It is worse.", better="higher"), hypothesis(claim="A tenth.", margin=0.1)
    write_study(path / "ablation", wrong, unclear)
    return path


@pytest.fixture
def experiments(tmp_path):
    path = tmp_path / "claims"
    path.mkdir()
    (path / "09_whitening.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return path


def found(outputs: Path, experiments: Path) -> list[tuple[str, str, str]]:
    return [(name, one.asked.claim, one.verdict) for name, one in gather(outputs, experiments).found]


DUE = [
    ("ablation", "It is worse.", "refuted"),
    ("ablation", "A tenth.", "undecided"),
    ("claims/02_rates", "It is better [by much] | or not.", "supported"),
    ("claims/09_whitening", "Whitening fails.", "not run"),
]
COMMAND = "python src/train.py -m experiment=claims/09_whitening"


# --- gathered -------------------------------------------------------------------------------------------------------


def test_studies_of_both_depths_and_experiments_that_have_not_run(outputs, experiments):
    """What has been asked, and has no runs, has not run either; a command is made where no comment has it."""
    assert found(outputs, experiments) == DUE
    assert gather(outputs, experiments).found[-1][1].reason == f"{COMMAND} trainer=demo"
    text = EXPERIMENT[EXPERIMENT.index("defaults") :]
    (experiments / "09_whitening.yaml").write_text(text, encoding="utf-8")
    assert gather(outputs, experiments).found[-1][1].reason == COMMAND
    write_study(outputs / "claims" / "09_whitening", hypothesis(claim="Whitening fails."), num_seeds=0)
    assert found(outputs, experiments) == DUE
    write_study(outputs / "claims" / "09_whitening", hypothesis(claim="Whitening fails."))
    assert found(outputs, experiments) == [*DUE[:-1], ("claims/09_whitening", "Whitening fails.", "supported")]
    write_study(outputs / "quiet")  # what states no hypothesis is no claim
    (experiments / "silent.yaml").write_text("study: silent\nhypotheses: []\n", encoding="utf-8")
    write_study(outputs / "ablation2", {"claim": "It has no metric."})
    assert found(outputs, experiments)[2] == ("ablation2", "It has no metric.", "undecided")
    assert len(gather(outputs, experiments).found) == len(DUE) + 1
    assert gather(outputs, experiments).damaged == []


@pytest.mark.parametrize("content", ["{", "[]", '{"hypotheses": "all"}', "{}"])
def test_a_damaged_study_or_experiment_is_said_and_the_others_go_on(outputs, experiments, content):
    write_study(outputs / "claims" / "09_whitening", hypothesis())
    path = outputs / "claims" / "09_whitening" / "study.json"
    path.write_text(content, encoding="utf-8")
    assert found(outputs, experiments) == DUE[:-1]
    assert gather(outputs, experiments).damaged == [f"{path} is damaged: expected hypotheses to be a list"]
    bad = {"hypotheses: [": "expected the node content", "better: less": "better must be lower or higher, got 'less'"}
    for text, message in bad.items():
        whole = EXPERIMENT.replace("better: lower", text) if "better" in text else text
        (experiments / "01_bad.yaml").write_text(whole, encoding="utf-8")
        line, _ = gather(outputs, experiments).damaged
        assert line.startswith(f"{experiments / '01_bad.yaml'}: ")
        assert message in line
        assert "\n" not in line


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def claims(monkeypatch, capsys):
    """The command's output, once it was called with its arguments."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["src/claims.py", *map(str, arguments)])
        studies.claims()
        return capsys.readouterr().out

    return call


def test_the_command_prints_a_table_and_writes_it(outputs, experiments, claims):
    text = claims(outputs, "--experiments", experiments)
    table = [line for line in text.splitlines() if line.startswith("│")]
    assert all(words in text for words in (*HEADER[:-1], *NOTE, "supported"))
    assert "…" not in text
    assert any("[by" in line for line in table)  # no markup
    assert max(map(len, table)) <= 120
    assert "\nablation, A tenth: the interval holds the margin 0.1; matched by seed" in text
    assert f"{COMMAND} trainer=demo\n" in text
    assert [path.name for path in outputs.glob("*claims.md*")] == ["claims.md"]


def test_markdown_is_what_is_written(outputs, experiments, claims):
    (outputs / "hurt").mkdir()
    (outputs / "hurt" / "study.json").write_text("{", encoding="utf-8")
    text = claims(outputs, "--experiments", experiments, "--markdown")
    assert text == (outputs / "claims.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in table]
    assert cells[0] == list(HEADER)
    assert all(len(row) == len(HEADER) for row in cells)
    assert [row[:3] for row in cells[2:]] == [[cell.replace("|", "/") for cell in row] for row in DUE]
    mean = 0.1 + (NOISE[1] - NOISE[0]).mean()
    assert cells[4][3].startswith(f"{mean:+.3f} [+0.0")
    assert cells[4][3].endswith("] test/bits_per_dim")
    size = "svhn train (01234567), 6,749 images, 8 epochs, batch 500, 0.97 M weights"
    assert cells[4][4:] == ["0", "6", size]
    assert cells[5][3:] == ["test/bits_per_dim", "0.25", "", ""]
    assert f"{outputs / 'hurt' / 'study.json'} is damaged" in text


@pytest.mark.parametrize(
    ("folder", "code", "message"), [(".", 1, "no claims: neither a study under "), ("missing", 2, "no folder ")]
)
def test_nothing_claimed_and_a_missing_folder_are_a_line(claims, tmp_path, capsys, folder, code, message):
    with pytest.raises(SystemExit) as left:
        claims(tmp_path / folder, "--experiments", tmp_path / "none")
    assert left.value.code == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
