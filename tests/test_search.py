"""src/search.py: trials are runs, a killed search goes on, and nothing begins that cannot be built."""

import json
import math
import re
import shlex

import optuna
import pytest
from optuna.trial import TrialState

from stress.forked import SRC, TINY, command, without_pictures
from svhn_vae.commands import search
from svhn_vae.commands.search import run_trials
from svhn_vae.errors import UserError
from svhn_vae.report.plots import search_drawing

SPACE = {"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
         "variance": optuna.distributions.CategoricalDistribution(["logvar", "shared"])}  # fmt: skip


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def runs(monkeypatch, *codes_and_values) -> list[list[str]]:
    """Makes `run_trial` return these, one after another; the words that it was called with."""
    seen, answers = [], iter(codes_and_values)
    monkeypatch.setattr(search, "run_trial", lambda words: (seen.append(words), next(answers))[1])
    return seen


def test_an_interrupted_trial_is_taken_up_again_first(study, monkeypatch, tmp_path, capsys):
    seen = runs(monkeypatch, (0, 5.0), (130, math.inf), (0, 3.0), (0, 4.0))
    assert run_trials(study, SPACE, ["seed=1"], 3, tmp_path) == 130
    assert run_trials(study, SPACE, ["seed=1"], 3, tmp_path) == 0
    assert seen[2] == seen[1] != seen[0] != seen[3]
    assert all(
        re.fullmatch(r"seed=1 optimizer\.lr=[\d.e-]{4,8} variance=(logvar|shared)", " ".join(each)) for each in seen
    )
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 3
    assert run_trials(study, SPACE, ["seed=1"], 3, tmp_path) == 0  # and then there is nothing to do
    assert len(seen) == 4
    assert "best: 3.0 nats" in capsys.readouterr().out


def test_a_diverged_trial_is_the_worst_and_a_failed_one_none(study, monkeypatch, tmp_path):
    runs(monkeypatch, (0, 5.0), (0, math.inf), (1, math.inf))
    assert run_trials(study, SPACE, [], 3, tmp_path) == 1
    noted = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))["trials"]
    assert [one["value"] for one in noted] == [5.0, None]
    assert study.best_value == 5.0


def test_a_search_end_to_end(tmp_path):
    """Two runs, then a third that the first command did not draw, and the page with a picture of all three."""
    words = (*TINY, "study='best of'", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
             "pca.n_components=range(10,31,10)", "variance=logvar,shared")  # fmt: skip
    for num in (2, 3):
        done = command("search", tmp_path, *words, f"trials={num}", prepare=without_pictures)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 3 of 3" in done.stdout
    assert "trial 2" not in done.stdout
    folder = tmp_path / "outputs" / "best of"
    trials = json.loads((folder / "search.json").read_text(encoding="utf-8"))["trials"]
    assert len({json.dumps(one["params"]) for one in trials}) == len(list(folder.glob("dense-*"))) == 3
    printed = shlex.split(done.stdout.splitlines()[-1].partition(": ")[2])
    assert printed[:2] == ["python", str(SRC / "report.py")]
    assert command("report", tmp_path, *printed[2:]).returncode == 0
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="search"' in page
    assert 'href="#search"' in page
    assert (folder / "report" / "figures" / "search.svg").is_file()


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["optimizer.lr=interval(-1,0.1)"], "optimizer.lr"),
        (["variance=logvar,sigma"], "variance=sigma is no choice"),
        (["optimizer.lr=interval(0.2"], "optimizer.lr"),
        (["optimizer.lr=0.1"], "nothing to search"),
        (["optimizer.lr=interval(1e-4,1e-2)", "trainer.strategy=ddp", "trainer.devices=2"], "leave out trainer=ddp"),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_begins(words, telling):
    with pytest.raises(UserError, match=re.escape(telling)) as caught:
        search.plan([*TINY, *words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", '{"trials": 3}'])
def test_a_report_needs_no_trials(tmp_path, content):
    (tmp_path / "search.json").write_text(content, encoding="utf-8")
    assert search_drawing(tmp_path) == []
