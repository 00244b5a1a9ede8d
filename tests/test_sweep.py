"""A whole command in this process: what it refuses, runs and lists, and its exit code."""

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from conftest import CONF, shared_jobs_of
from svhn_vae.errors import TRACEBACKS, Diverged, UserError
from svhn_vae.experiment import attempt, sweep
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.sweep import Sweep
from svhn_vae.runs.files import write_json
from svhn_vae.training.interruption import INTERRUPTION, SIGNALS
from test_run import result

TINY = ("data=synthetic", "data.num_train=50", "data.num_test=10", "iw_samples=0", "judge=false")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setenv(TRACEBACKS, "")  # so that it is put back
    register_resolvers()
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
    INTERRUPTION.signum = None
    logging.getLogger("hydra").setLevel(logging.NOTSET)


@pytest.fixture
def ends(monkeypatch):
    """What the runs come to, one after another: an error, or done."""
    given = []

    def stand_in(built):
        end = given.pop(0) if given else None
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            end()
        write_json(built.path / "result.json", result())
        return result()

    monkeypatch.setattr(attempt, "build_job", lambda request: request.folder)
    monkeypatch.setattr(attempt, "run", stand_in)
    monkeypatch.setattr(sweep, "jobs_of", shared_jobs_of)
    monkeypatch.setattr(sweep.StudyTable, "end", lambda self: print(f"the table of {self.study}"))
    return given


def command(monkeypatch, *arguments: str) -> int:
    whole, stdout = Sweep(), sys.stdout

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
    def main(cfg):
        return whole.run_job(cfg)

    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    GlobalHydra.instance().clear()
    try:
        return whole.launch(main)
    finally:
        sys.stdout = stdout


def after(text: str, title: str) -> list[str]:
    """The lines of a list in the output."""
    rest = text.split(f"{title}:\n")[1].splitlines()
    return [line.strip() for line in rest[: next((i for i, line in enumerate(rest) if not line.strip()), None)]]


def test_a_sweep_runs_its_jobs_prints_its_table_and_lists_all_errors_at_the_end(ends, monkeypatch, capsys):
    """Divergence is no failure."""
    ends += [UserError("first\nfault"), None, Diverged(3, "not finite"), KeyError("third")]
    assert command(monkeypatch, "-m", "seed=0,1,2,3", *TINY) == 1
    text = capsys.readouterr().out
    assert text.count("test 3.000 bits/dim") == 1
    assert (Path("outputs") / "default" / "study.json").is_file()
    first, third = after(text.partition("the table of outputs/default")[2], "failed, 2 of 4 jobs")
    assert first.startswith("dense-relu_eps-synthetic-pca500-raw-spectrum-seed0-")
    assert first.endswith(": first fault")
    assert third.endswith(": KeyError: 'third'")


def test_a_single_run_that_diverges_is_no_failure(ends, monkeypatch, capsys):
    ends += [Diverged(3, "not finite")]
    assert command(monkeypatch, *TINY) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the table of outputs/default"


def test_on_error_stop_begins_no_further_job(ends, monkeypatch, capsys):
    ends += [None, UserError("fault"), None]
    assert command(monkeypatch, "-m", "seed=0,1,2", "on_error=stop", *TINY) == 1
    printed = capsys.readouterr().out
    assert "stopped after the first failure: on_error=stop" in printed
    assert "seed2" not in printed
    assert "the table of outputs/default" in printed
    assert len(ends) == 1


def test_a_single_run_that_fails_is_one_line(ends, monkeypatch, capsys):
    ends += [UserError("fault")]
    assert command(monkeypatch, *TINY) == 1
    _name, line = capsys.readouterr().out.strip().splitlines()
    assert line == "  failed: fault"


def test_an_interrupted_sweep_stops_and_prints_its_table(ends, monkeypatch, capsys):
    ends += [None, lambda: os.kill(os.getpid(), signal.SIGTERM), None]
    assert command(monkeypatch, "-m", "seed=0,1,2", *TINY) == 128 + signal.SIGTERM
    printed = capsys.readouterr().out
    assert "  interrupted: the same command continues it" in printed
    assert "seed2" not in printed
    assert "the table of outputs/default" in printed
    assert len(ends) == 1


def test_a_fault_in_the_last_job_keeps_the_first_from_beginning(ends, monkeypatch, capsys):
    assert command(monkeypatch, "-m", "variance=fixed,logvar,logvarr", "seed=0,1,2,3,4", *TINY) == 1
    assert capsys.readouterr().out.strip() == (
        "refused: variance=logvarr is no choice: did you mean logvar? [variance=logvarr seed=0, variance=logvarr "
        "seed=1, variance=logvarr seed=2 and 2 more]"
    )
    assert not list(Path().iterdir())


def test_all_faults_are_listed(ends, monkeypatch, capsys):
    assert command(monkeypatch, "-m", "variance=fixed,logvarr", "optimizer.lr=0.1,fast", *TINY) == 1
    assert [line.strip() for line in capsys.readouterr().out.strip().splitlines()] == [
        "refused: nothing was begun",
        "optimizer.lr must be a number, got fast [variance=fixed optimizer.lr=fast]",
        "variance=logvarr is no choice: did you mean logvar? [variance=logvarr optimizer.lr=0.1, variance=logvarr "
        "optimizer.lr=fast]",
    ]


IMPOSSIBLE = ("-m", "model=conv,dense", "pca=default")


def test_impossible_pairs_refuse_the_sweep(ends, monkeypatch, capsys):
    assert command(monkeypatch, *IMPOSSIBLE, *TINY) == 1
    _first, fault, way = capsys.readouterr().out.strip().splitlines()
    assert fault.endswith("use model=dense, or pca=none [model=conv]")
    assert way == "  impossible=skip leaves these out and runs the other 1"
    assert not list(Path().iterdir())


def test_impossible_pairs_are_left_out_and_listed(ends, monkeypatch, capsys):
    assert command(monkeypatch, *IMPOSSIBLE, "impossible=skip", *TINY) == 0
    text = capsys.readouterr().out
    assert text.count("test 3.000 bits/dim") == 1
    [line] = after(text, "left out as impossible")
    assert line.endswith("[model=conv]")
    assert len([path for path in Path("outputs/default").iterdir() if path.is_dir()]) == 1 + 1  # and the locks


def test_an_output_folder_that_is_a_file_is_one_line(ends, monkeypatch, capsys):
    Path("outputs").write_text("", encoding="utf-8")
    assert command(monkeypatch, *TINY) == 1
    [line] = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("failed: ")
    assert "outputs" in line


def test_a_job_without_its_data_leaves_no_folder(ends, monkeypatch, capsys):
    assert command(monkeypatch, "data.root=/nowhere") == 1
    assert "/nowhere" in capsys.readouterr().out
    assert not list(Path().iterdir())


def test_what_would_unpickle_is_refused(monkeypatch, capsys):
    assert command(monkeypatch, "--experimental-rerun", "x.pickle") == 1
    assert capsys.readouterr().out.startswith("refused: --experimental-rerun")


@pytest.mark.parametrize("flag", ["--help", "--hydra-help", "--cfg=job"])
def test_hydras_own_are_hydras(flag, monkeypatch, capsys):
    with contextlib.suppress(SystemExit):
        assert command(monkeypatch, flag) == 0
    assert capsys.readouterr().out
    assert not list(Path().iterdir())


def test_a_users_own_empty_folders_stay(ends, monkeypatch, tmp_path):
    """Where hydra.run.dir leaves outputs/, nothing above the run's folder is ours."""
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    assert command(monkeypatch, "data.root=/nowhere", f"hydra.run.dir={tmp_path}/mine/empty/run") == 1
    assert os.listdir(tmp_path / "mine" / "empty") == []


def test_ctrl_c_before_the_first_job_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "jobs_of", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    assert command(monkeypatch, *TINY) == 128 + signal.SIGINT
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "due"),
    [
        (["-m", "trainer.gradient_clip_val=null,5", "variance=logvar"], ["trainer.gradient_clip_val"]),
        (["-m", "optimizer.betas=[0.9,0.99],[0.5,0.9]", "seed=0,1"], ["optimizer.betas", "seed"]),
        (["-m", "experiment=ablation"], ["variance", "pca.whiten"]),
        (["variance=logvar", "rerun=true", "~callbacks.early_stopping"], ["variance", "callbacks.early_stopping"]),
    ],
)
def test_tensorboard_shows_the_swept_settings_alone(words, due):
    """Of a single run, those that are typed."""
    jobs = shared_jobs_of([word for word in words if word != "-m"], is_sweep="-m" in words)
    assert sweep.shown(jobs) == due
