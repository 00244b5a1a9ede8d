"""What is wrong with any job of a sweep is found before the first one."""

import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import svhn_vae.experiment.preflight
from conftest import composed, options
from svhn_vae.experiment.configuration import name_of, plain, register_resolvers
from svhn_vae.experiment.preflight import Planned, Planner, Refused, composing, num_values, plan
from svhn_vae.experiment.sweep import quiet

register_resolvers()


def planned(*overrides: str, is_sweep: bool = True) -> list[Planned]:
    quiet()
    return plan(list(overrides), is_sweep=is_sweep)


def faults(*overrides: str, is_sweep: bool = True) -> list[str]:
    """All that is wrong with the command or any of its jobs, each once."""
    try:
        jobs = planned(*overrides, is_sweep=is_sweep)
    except Refused as refused:
        return refused.lines
    return list(dict.fromkeys(fault for job in jobs for fault in (*job.wrong, job.impossible) if fault))


@pytest.mark.parametrize(
    ("overrides", "num"),
    [
        (["seed=0,1,2"], 3),
        (["variance=relu_eps,logvar", "pca.whiten=false,true"], 4),
        (["seed=range(0,4)", "optimizer.lr=choice(1e-3,1e-4)"], 8),
        (["optimizer=glob(*)"], len(options("optimizer"))),
        (["experiment=ablation"], 4),
        (["experiment=heads", "seed=0,1"], 32),
        (["experiment=heads", "variance=fixed,logvar"], 2),
        (["experiment=post_2017_as_run,post_2017_corrected"], 2),
    ],
)
def test_a_sweeps_jobs_are_all_there_and_right(overrides, num):
    jobs = planned(*overrides)
    assert len(jobs) == num
    assert len({job.name for job in jobs}) == num
    assert not any(job.wrong or job.impossible for job in jobs)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=spectral", "trainer=demo", "optimizer.betas=[0.5,0.9]", "study=a/b", "+trainer.max_steps=7"],
        ["model=conv", "~callbacks.pictures", "question='what, if = ?'", "monitor=train/post_loss"],
    ],
)
def test_a_job_is_composed_as_hydra_does_it(overrides):
    """Its names decide which of them are left out."""
    with composing() as loader:
        ours = Planner(loader, "train").composed(overrides)
    theirs = composed(*overrides)
    assert plain(ours) == plain(theirs)
    [job] = planned(*overrides, is_sweep=False)
    assert job.name == name_of(theirs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variance.epsilom=1"], "variance.epsilom is no setting: did you mean variance.epsilon?"),
        (["varience=fixed"], "varience is no setting: did you mean variance?"),
        (["varience=fixed,logvar"], "varience is no setting: did you mean variance?"),
        (["batchsize=3"], "batchsize is no setting: did you mean batch_size?"),
        (["trainer.max_epoch=3"], "trainer.max_epoch is no setting: did you mean trainer.max_epochs?"),
        (["variance=relu_ep"], "variance=relu_ep is no choice: did you mean relu_eps?"),
        (["variance=xyz"], "variance=xyz is no choice: choose from banded, bernoulli, "),
        (["experiment=claims/nothing"], "experiment=claims/nothing is no choice"),
        (["seed=0,1", "variance=fixed,logvarr"], "variance=logvarr is no choice: did you mean logvar?"),
        (["seed=0,1", "optimizer.lr=1,fast"], "optimizer.lr must be a number, got fast"),
        (["+batchsize=3"], "batchsize is no setting: did you mean batch_size?"),
        (["+optimizer.wd=3"], "optimizer.wd: the chosen optimizer (Adam) has no such setting"),
        (["+callbacks.early_stopping.patienc=3"], "has no such setting: did you mean patience?"),
        (["+trainer.max_step=3"], "the chosen trainer (Trainer) has no such setting: did you mean max_steps?"),
        (["~callbacks.picture"], "callbacks.picture is no setting: did you mean callbacks.pictures"),
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
        (["objective.beta=-1"], "objective.beta must be 0 or more, got -1"),
        (["skips.max_skips=-1"], "max_skips must be 0 or more, got -1"),
        (["data.held_out=2"], "data.held_out must be a fraction above 0 and below 1, got 2"),
        (["impossible=maybe"], "impossible must be one of refuse, skip, got maybe"),
        (["on_error=maybe"], "on_error must be one of continue, stop, got maybe"),
        (["hypotheses=[{claim: x}]"], "hypothesis 'x': "),
        (["foo"], "foo cannot be read, expected KEY=VALUE: "),
        (["variance=[fixed"], "variance=[fixed cannot be read"),
        (["hydra.modus=RUN"], "Could not override 'hydra.modus'."),
        (["model=conv", "pca=default"], "model=conv needs image-shaped features"),
        (["trainer.devices=2"], "trainer.devices must be 1, got 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_sweep", [True, False])
def test_what_is_wrong_is_one_line_that_names_it(overrides, message, is_sweep):
    if not is_sweep and any("," in word and "[" not in word for word in overrides):
        pytest.skip("a single run has no several values")
    [line] = faults(*overrides, is_sweep=is_sweep)
    assert message in line
    assert "\n" not in line


def test_several_values_without_a_sweep_say_how_to_make_one():
    assert faults("seed=0,1", is_sweep=False) == ["seed=0,1 has several values: put -m before it to run them all"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=range(1000000000)"],
        ["seed=range(0,-1000000000,-1)"],
        ["seed=shuffle(range(1000000000))"],
        ["seed=sort(range(1000000000),reverse=true)"],
        ["optimizer.lr=range(0.0,1.0,1e-9)"],
        ["optimizer.lr=range(0,inf)"],
        ["optimizer.lr=range(nan)"],
        ["seed=range(1000000000)", "seed=0,1"],  # whose values Hydra makes all the same
        ["seed=range(200)", "batch_size=range(10,210)"],
        ["variance=glob(*)", "seed=range(1000)", "optimizer=adam,sgd"],
        ["experiment=heads", "seed=range(1000)"],
    ],
)
def test_more_jobs_than_anybody_means_are_refused_uncounted(overrides):
    """Nobody could wait for a billion, were they made to be counted."""
    [line] = faults(*overrides)
    assert overrides[0].startswith("experiment=") or line.startswith(", ".join(overrides))
    assert line.endswith(": more than 10,000 jobs, take fewer values or several commands")


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=range(3,10)"],
        ["seed=range(10,3,-2)"],
        ["seed=range(0,10000)"],
        ["optimizer.lr=range(0,1,0.1)"],
        ["optimizer.lr=range(1,0.5,-0.125)"],
        ["seed=5"],
        ["seed=5,6,5"],
        ["optimizer=shuffle(adam,sgd)"],
        ["variance=glob(*,exclude=l*)"],
        ["seed=range(5000)", "seed=0,1", "batch_size=10,20,30"],  # of a key given twice the last counts
        ["seed=range(5000)", "batch_size=10,20,30", "seed=7"],
    ],
)
def test_jobs_are_counted_as_hydra_makes_them(overrides, monkeypatch):
    with composing() as loader:
        planner = Planner(loader, "train")
        num, parsed = len(planner.jobs(overrides, is_sweep=True)), planner.parser.parse_overrides(overrides)
        monkeypatch.setattr(svhn_vae.experiment.preflight, "MAX_JOBS", max(num, *map(num_values, parsed)))
        assert len(planner.jobs(overrides, is_sweep=True)) == num
        monkeypatch.setattr(svhn_vae.experiment.preflight, "MAX_JOBS", num - 1)
        with pytest.raises(Refused, match=r"more than .* jobs"):
            planner.jobs(overrides, is_sweep=True)


def test_a_step_of_zero_is_hydras_to_refuse():
    assert faults("seed=range(0,10,0)") == ["range() arg 3 must not be zero"]


def test_what_is_wrong_in_an_experiments_own_sweep_or_keys_is_found(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nhydra: {sweeper: {params: {variance: 'fixed,logvarr'}}}")
    (folder / "typo.yaml").write_text("# @package _global_\nbatchsize: 3")
    for name, message in (
        ("mine", "variance=logvarr is no choice: did you mean logvar?"),
        ("typo", "batchsize is no setting: did you mean batch_size?"),
    ):
        jobs = plan([f"experiment={name}"], is_sweep=True, config_dir=str(tmp_path))
        assert [fault for job in jobs for fault in job.wrong] == [message]


def test_impossible_pairs_are_told_from_those_that_are_wrong():
    jobs = planned("model=conv,dense", "pca=default,none")
    assert [bool(job.impossible) for job in jobs] == [True, False, False, False]
    assert not any(job.wrong for job in jobs)


@pytest.mark.parametrize(
    ("study", "allowed"),
    [("a", True), ("a/b", True), ("5", True), ("..", False), ("a/../../b", False), ("/tmp/x", False), (".x", False),
     ("link", False), ("link/inner", False), ("null", False), ("''", False)],
)  # fmt: skip
def test_a_study_stays_in_outputs(study, allowed, tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = faults(f"study={study}", is_sweep=False)
    assert found == [] if allowed else found[0].startswith("study must be a name under outputs/")


def test_outputs_itself_may_be_a_link(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert faults("study=a/b", is_sweep=False) == []


def test_a_hundred_jobs_take_seconds_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    heads = "variance=relu_eps,logvar,fixed,shared,optimal"
    assert len(planned(heads, "pca.whiten=true,false", "seed=range(10)")) == 100
    assert time.process_time() - start < 15
    assert not list(Path().iterdir())


def test_every_choice_builds_without_data_or_says_why():
    for job in planned("model=glob(*)"):
        assert not job.wrong
        assert not job.impossible or "variance" in job.impossible
    for job in planned("variance=glob(*)", "model=conv"):
        assert not job.wrong
        assert not job.impossible
    assert OmegaConf.has_resolver("run_name")


@pytest.mark.parametrize("word", ["batch_size=glob(*)", "seed=range(3,3)", "seed=range(3,0)"])
def test_a_sweep_without_jobs_is_refused(word):
    with pytest.raises(Refused) as refused:
        plan([word], is_sweep=True)
    assert refused.value.lines == [f"{word} has no jobs: a glob, a range or a list in it has no values"]
