"""What is wrong with any job of a sweep is found before the first one."""

import copy
import functools
import math
import re
import shlex

import pytest

from conftest import CONF, composed, options, shared_jobs_of
from svhn_vae.commands import search
from svhn_vae.errors import UserError
from svhn_vae.experiment.configuration import composing, plain, quiet, recognised, register_resolvers
from svhn_vae.experiment.preflight import Composer, Job, configured, jobs_of, with_home
from svhn_vae.experiment.settings import FREE, NULLABLE, check, check_values
from svhn_vae.runs.identity import flatten

register_resolvers()


def planned(*overrides: str, is_sweep: bool = True) -> list[Job]:
    quiet()
    return shared_jobs_of(list(overrides), is_sweep=is_sweep)


def faults(*overrides: str, is_sweep: bool = True) -> list[str]:
    """All that is wrong with the command or any of its jobs, each once."""
    try:
        jobs = planned(*overrides, is_sweep=is_sweep)
    except UserError as refused:
        return [str(refused)]
    return list(dict.fromkeys(fault for job in jobs if (fault := job.wrong or job.impossible)))


@pytest.mark.parametrize(
    ("overrides", "num"),
    [
        (["variance=relu_eps,logvar", "pca.whiten=false,true"], 4),
        (["seed=range(0,4)", "optimizer.lr=choice(1e-3,1e-4)"], 8),
        (["optimizer=glob(*)"], len(options("optimizer"))),
        (["prior=glob(*)"], len(options("prior"))),
        (["experiment=ablation"], 4),
        (["experiment=heads", "variance=fixed,logvar", "seed=0,1"], 4),
        (["seed=range(5000)", "seed=7"], 1),  # of a key that is given twice, the last counts
    ],
)
def test_a_sweeps_jobs_are_all_there_and_right(overrides, num):
    jobs = planned(*overrides)
    assert len(jobs) == num
    assert len({job.name for job in jobs}) == num
    assert not any(job.wrong or job.impossible for job in jobs)


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("callbacks", "experiment"))

NEEDED = {"images": ["data.root=.", "data.size=32"], "spectral": ["variance=spectral"], "per_channel": ["model=conv"]}


@pytest.mark.parametrize(("group", "choice"), [(group, choice) for group in GROUPS for choice in options(group)])
def test_every_file_of_every_group_passes(group, choice):
    assert faults(f"{group}={choice}", *NEEDED.get(choice, ()), is_sweep=False) == []


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "experiment=spectral",
            "trainer=demo",
            "optimizer.betas=[0.5,0.9]",
            "study=a/b",
            "trainer.max_time=00:00:01:00",
        ],
        ["logger=[csv,mlflow]"],
        ["model=conv", "~callbacks.pictures", "question='what, if = ?'", "monitor=train/post_loss"],
    ],
)
def test_a_job_is_composed_as_hydra_does_it(overrides):
    """Its names decide which of them are left out."""
    with composing():
        ours = Composer("train").composed(overrides)
    theirs = composed(*overrides)
    assert plain(ours) == plain(theirs)
    [job] = planned(*overrides, is_sweep=False)
    assert job.name == recognised(theirs).name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variance.epsilom=1"], "variance.epsilom is no setting: did you mean variance.epsilon?"),
        (["varience=fixed"], "varience is no setting: did you mean variance?"),
        (["batchsize=3"], "batchsize is no setting: did you mean batch_size?"),
        (["logger=null"], "logger=null: Config group override must be a string or a list"),
        (["variance=relu_ep"], "variance=relu_ep is no choice: did you mean relu_eps?"),
        (["variance=xyz"], "variance=xyz is no choice: choose from banded, bernoulli, "),
        (["experiment=claims/nothing"], "experiment=claims/nothing is no choice"),
        (["seed=0,1", "variance=fixed,logvarr"], "variance=logvarr is no choice: did you mean logvar?"),
        (["seed=0,1", "optimizer.lr=1,fast"], "optimizer.lr must be a number, got fast"),
        (["+batchsize=3"], "batchsize is no setting: did you mean batch_size?"),
        (["experiment=post_2017_as_run", "model=conv"], "model.initialisation"),
        (["experiment=kingma_2014", "pca=none"], "n_components=600 needs a PCA"),
        (["variance=fixed", "+variance.epsilon=1"], "variance.epsilon: the chosen variance (Fixed) has no such"),
        (["+optimizer.wd=3"], "optimizer.wd: the chosen optimizer (Adam) has no such setting"),
        (["~callbacks.picture"], "callbacks.picture is no setting: did you mean callbacks.pictures"),
        (["optimizer.lr=-1"], "optimizer.lr must be 0 or more, got -1"),
        (["skips.max_gradient_norm=0"], "skips.max_gradient_norm must be above 0, got 0"),
        (["data.held_out=2"], "data.held_out must be a fraction above 0 and below 1, got 2"),
        (["impossible=maybe"], "impossible must be one of refuse, skip, got maybe"),
        (["hypotheses=[{claim: x}]"], "hypothesis 'x': "),
        (["foo"], "foo cannot be read, expected KEY=VALUE, or "),
        (["hydra.modus=RUN"], "Could not override 'hydra.modus'."),
        (["model=conv", "pca=default"], "model=conv needs image-shaped features"),
        (["trainer=ddp", "trainer.devices=auto"], "trainer.devices must be a whole number, got auto"),
        (["trainer=ddp", "trainer.num_nodes=0"], "trainer.num_nodes must be 1 or more, got 0"),
        (["trainer.devices=2"], "trainer.devices=2 and trainer.num_nodes=1 need trainer.strategy=ddp"),
        (["trainer=ddp", "batch_size=101"], "batch_size must be a multiple of the 2 processes that share it"),
        (["trainer=ddp", "trainer.num_nodes=2"], "trainer.num_nodes=2 needs torchrun or srun"),
        (["trainer.num_nodes=2"], "trainer.devices=1 and trainer.num_nodes=2 need trainer.strategy=ddp"),
        (["pca.whiten=maybe"], "pca.whiten must be true or false, got maybe"),
        (["batch_size=abc"], "batch_size must be a whole number, got abc"),
        (["batch_size={a:1}"], "batch_size must be there, a whole number"),
        (["data.splits=train"], "data.splits must be a list such as ['train'], got train"),
        (["trainer.max_epochs=0"], "trainer.max_epochs must be 1 or more, got 0"),
        (["updates_per_step=abc"], "updates_per_step must be a whole number or null, got abc"),
        (["trainer.check_val_every_n_epoch=3000"], "trainer.check_val_every_n_epoch must be in 1..2000"),
        (["trainer.precision=bf16-true"], "trainer.precision must be one of 32-true, bf16-mixed"),
        (["monitor=val/kl"], "monitor must be one of val/negative_elbo"),
        (["callbacks.early_stopping.check_on_train_epoch_end=true"], "must be false with its monitor"),
        (["+trainer.accumulate_grad_batches=4"], "trainer.accumulate_grad_batches is no setting of a run"),
        (["~iw_samples"], "iw_samples must be there: it cannot be left away"),
        (["~optimizer"], "optimizer must be there"),
        (["callbacks.pictures=null"], "callbacks.pictures"),
        (["model=dense", "batch_size=1"], "batch_size must be 2 or more with batch normalisation"),
        (["variance=bernoulli", "model=conv", "monitor=val/bits_per_dim"], "needs a density of pixels"),
        (["variance=bernoulli", "model=conv", "callbacks.early_stopping.monitor=val/bits_per_dim"],
         "callbacks.early_stopping.monitor=val/bits_per_dim needs a density of pixels"),
        (["variance=bernoulli", "model=conv", "monitor=train/bits_per_dim"], "needs a density of pixels"),
        (["model=deep_conv", "batch_size=1"], "batch_size must be 2 or more with batch normalisation"),
        (["model.width=1000000"], "lower network_scale, or the model's widths"),
        (["model.encoder_depth=1000000"], "model.encoder_depth must be at most 1,000"),
        (["augmentation.share=2"], "augmentation.share must be in 0..1, got 2"),
        (["optimizer=sgd", "optimizer.momentum=5"], "optimizer.momentum must be at most 1, got 5"),
        (["condition=digit", "condition.labels=2"], "condition.labels must be in 0..1, got 2"),
        (["ema=1"], "ema must be above 0 and below 1, or null, got 1"),
        (["ema=0.9", "trainer=ddp"], "ema must be null with trainer.strategy=ddp"),
        (["trainer.max_time=soon"], "trainer: MisconfigurationException: `Timer(duration='soon')`"),
        (["optimizer.betas=[2,3]"], "optimizer: ValueError: Invalid beta parameter"),
        (["model.latent_dim=9007199254740992"], "model.latent_dim must be at most 1,000,000"),
        (["data.root=/data/jörg"], """as a text it is typed 'data.root="/data/jörg"'"""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_it(overrides, message):
    has_several = any("," in word and "[" not in word for word in overrides)
    [line] = faults(*overrides, is_sweep=has_several)
    assert message in line
    assert "\n" not in line


MANY = "more than 10,000 jobs, take fewer values or several commands"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("seed=range(1000000000)", MANY),  # nobody could wait for these, were they made to be counted
        ("optimizer.lr=range(0,inf)", MANY),
        ("seed=range(200) batch_size=range(10,210)", MANY),
        ("variance=glob(*) seed=range(1000) optimizer=adam,sgd", MANY),
        ("seed=range(0,10,0)", "range() arg 3 must not be zero"),
        ("seed=range(3,3)", "seed=range(3,3) has no jobs"),
        ("optimizer.lr=interval(0,1)", "optimizer.lr=interval(0,1) has no end of values: list them, or take a range"),
    ],
)
def test_a_sweep_of_no_or_too_many_jobs_is_refused(words, message):
    [line] = faults(*words.split())
    assert message in line
    assert message != MANY or line.startswith(", ".join(words.split()))


def test_several_values_without_a_sweep_say_how_to_make_one():
    assert faults("seed=0,1", is_sweep=False) == ["seed=0,1 has several values: put -m before it to run them all"]


def test_what_is_wrong_in_an_experiments_own_sweep_or_keys_is_found(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {variance: 'fixed,logvarr'}}}", encoding="utf-8"
    )
    (folder / "typo.yaml").write_text("# @package _global_\nbatchsize: 3", encoding="utf-8")
    for name, message in (
        ("mine", "variance=logvarr is no choice: did you mean logvar?"),
        ("typo", "batchsize is no setting: did you mean batch_size?"),
    ):
        jobs = jobs_of([f"experiment={name}"], is_sweep=True, config_dir=str(tmp_path))
        assert [job.wrong for job in jobs if job.wrong] == [message]


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


@pytest.fixture
def composer():
    quiet()
    with composing():
        yield Composer("train")


def test_jobs_that_choose_the_same_files_share_their_composition(composer, tmp_path, monkeypatch):
    """Which takes most of the time of a hundred jobs."""
    monkeypatch.chdir(tmp_path)
    jobs = [composer.job(["variance=fixed", f"seed={seed}", "batch_size=50"]) for seed in range(5)]
    assert len({job.name for job in jobs}) == 5
    assert composer.composition.cache_info().misses <= 2  # with the head, and without
    assert not list(tmp_path.iterdir())


CHOSEN = ((), ("data=synthetic", "model=conv", "variance=student_t"), ("model=ladder", "variance=banded"),
          ("variance=spectral", "trainer=demo", "optimizer=adamw"), ("variance=logistic_mixture", "model=resnet"),
          ("variance=low_rank", "pca=dct"), ("variance=scale_mixture", "optimizer=rmsprop"))  # fmt: skip


ODD = ("DELETED", 0, -1, "abc", True, None, [], [0], {}, {"a": 1})
NO_NUMBERS = (math.inf, -math.inf, math.nan, 1e39, -1e39, 1e30, -1e30, 1e18, 10**19)


def no_numbers(key: str, default: object) -> list[object]:
    """What nobody means by a setting that is a number, or a list of two."""
    is_list = isinstance(default, list)
    is_number = isinstance(default[0] if is_list and default else default, int | float)
    if key in FREE or isinstance(default, bool) or not (is_number or NULLABLE.get(key, str) is not str):
        return []
    negative = [] if is_list or key.endswith("min_delta") else [-3]
    return [[number, number] if is_list else number for number in (*NO_NUMBERS, *negative)]


def with_value(settings: dict, key: str, value: object) -> dict:
    """A copy with one value, named by its dotted key, replaced or deleted."""
    copied = copy.deepcopy(settings)
    *groups, name = key.split(".")
    place = functools.reduce(dict.__getitem__, groups, copied)
    place[name] = value
    if value == "DELETED":
        del place[name]
    return copied


@pytest.mark.parametrize("chosen", CHOSEN, ids=" ".join)
def test_what_cannot_be_meant_is_refused_in_a_line_for_every_setting_or_left_to_its_class(chosen, composer):
    """Over the whole tree, without any data: numbers that are none, other types, zeros and deletions."""
    found, num_tried, passed, said = recognised(composer.base(chosen)), 0, [], []
    for key, default in flatten(found.settings).items():
        for value in (*ODD, *no_numbers(key, default)):
            settings, num_tried = with_value(found.settings, key, value), num_tried + 1
            try:
                check(settings, found.defaults)
            except UserError as error:
                said.append((str(error), "" if value in ODD else key))
            else:
                passed += [(key, value)] if value != default else []
    assert num_tried > 750
    assert len(passed) < 125
    assert not [line for line, key in said if "\n" in line or key not in line]
    assert not [(key, value) for key, value in passed if value not in ODD or value == "DELETED" or value == {"a": 1}]
    for key in ("updates_per_step", "trainer.limit_train_batches", "callbacks.pictures.every_n_validations"):
        assert not [value for name, value in passed if name == key]


COMMANDS = ("train", "evaluate", "generate", "baselines", "judge", "bench", "search", "export")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_number_is_refused_in_a_line_by_every_command(command):
    with composing():
        defaults = flatten(plain(Composer(command).base(())))
    tried = [(key, number) for key, default in defaults.items() for number in no_numbers(key, default)]
    assert bool(tried) == (command != "export")  # which has none
    for key, number in tried:
        with pytest.raises(UserError) as refused:
            check_values(defaults | {key: number}, defaults)
        assert key in str(refused.value)
        assert "\n" not in str(refused.value)


def test_every_file_s_null_says_what_else_it_may_be(composer):
    """So that a text where a number belongs is found: pca=none has others, which its class refuses."""
    for chosen in CHOSEN:
        settings = flatten(plain(composer.base(chosen)))
        assert {key for key, value in settings.items() if value is None and not key.startswith("pca.")} <= set(NULLABLE)


def test_paths_at_home_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home("data.root=~/svhn") == "data.root=/home/me/svhn"
    assert with_home("data.root=~") == "data.root=/home/me"
    assert with_home('data.root="~/x (1)"') == 'data.root="/home/me/x (1)"'
    assert with_home("data.root=~/a,~/b") == "data.root=/home/me/a,/home/me/b"
    assert with_home("data.root=choice(/a,~/b)") == "data.root=choice(/a,/home/me/b)"
    assert [with_home(word) for word in ("~monitor", "a=b~/c", "-m", "a=~me")] == ["~monitor", "a=b~/c", "-m", "a=~me"]
    assert [job.settings["data"]["root"] for job in planned("data.root=~/a,~/b")] == ["/home/me/a", "/home/me/b"]


SIGNS = " !#&'()*;<=>?[]`{|}~äß数\"\\$@%^+-.:/"  # no comma: it makes two values, as another message says


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "generate", "baselines", "search"])
def test_every_path_is_read_or_refused_with_what_to_type_for_it(command, monkeypatch):
    """Which a shell and then the same command read as the path."""
    monkeypatch.setenv("HOME", "/home/me")
    key, num_refused = "data_root" if command in ("evaluate", "generate") else "data.root", 0
    paths = ["/data/jörg/svhn", "/data/x (1)", "/data/a=b", "~/svhn", "~/x (1)"]
    if command in ("train", "sweep"):  # which share their composition, so that they are fast
        paths += [form.format(sign) for sign in SIGNS for form in ("/data/{}x", "/data/x{}y")]
    for path in paths:
        found, right = read(command, f"{key}={path}"), path.replace("~/", "/home/me/") if path[0] == "~" else path
        if found is not None and found.startswith("refused: "):
            num_refused += 1
            found = read(command, shlex.split(found.partition("as a text it is typed ")[2])[0])
        assert found == right
    assert num_refused > len(paths) / 4


def read(command: str, word: str) -> str | None:
    """The value that a command reads of a word, or `refused: ` and why."""
    try:
        if command in ("evaluate", "generate"):
            return configured(command, [word]).data_root
        if command == "baselines":
            return configured(command, [word], is_run=True).data.root
        if command == "search":
            word = search.plan([with_home(word), "optimizer.lr=1,2"])[2][0]
        words, is_sweep = ["seed=0,1", word], command == "sweep"
        return planned(*words[not is_sweep :], is_sweep=is_sweep)[-1].settings["data"]["root"]
    except UserError as error:
        return f"refused: {error}"


def test_loggers_may_be_left_away_and_no_other_setting_or_group(composer):
    keys = sorted({*composer.base(()), *flatten(plain(composer.base(())))} - {"hydra", "logger"})
    assert not composer.job(["~logger"]).wrong
    for key in (key for key in keys if "." not in key or re.match(r"(pca|data)\.[^_]", key)):
        assert f"{key} must be there" in composer.job([f"~{key}"]).wrong


def test_a_gpu_that_is_named_must_be_there(composer, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("gpu", "cuda"):
        assert f"trainer.accelerator={name} needs a GPU" in composer.job([f"trainer.accelerator={name}"]).impossible


def test_an_unknown_home_is_said_before_anything_begins(composer, monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: str(path))
    monkeypatch.setattr("pooch.os_cache", lambda name: f"~/.cache/{name}")
    assert "set HOME, or cache=FOLDER" in composer.job([]).impossible
    assert not composer.job(["cache=here"]).impossible


def test_compiling_needs_a_compiler(composer, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "compile=true needs a C++ compiler" in composer.job(["compile=true"]).impossible


def test_other_commands_have_the_same_door():
    assert configured("judge", ["judge.epochs=3", "data=synthetic"], is_run=True).judge.epochs == 3
    assert configured("evaluate", ["run=x", "iw_samples=3"]).iw_samples == 3
    assert set(configured("bench", ["~sizes.post", "~variants.bf16"]).sizes) == {"demo"}
    for name, is_run, word, message in (
        ("judge", True, "judge.epoch=3", "did you mean judge.epochs?"),
        ("judge", True, "judge.learning_rate=inf", "judge.learning_rate must be a number"),
        ("train", True, "pca.n_components=5000", "pca.n_components must be in 1..3072"),
        ("evaluate", False, "judge=many", "judge must be true or false"),
        ("evaluate", False, "iw_samples=1,2", "has several values"),
        ("evaluate", False, "split=train", "split must be one of test, val"),
        ("evaluate", False, "iw_samples=some", "iw_samples must be a whole number or null"),
        ("generate", False, "seed=-1", "seed must be 0 or more"),
        ("generate", False, "temperature=hot", "temperature must be a number"),
        ("bench", False, "repeats=0", "repeats must be 1 or more"),
        ("search", False, "sampler_seed=4294967296", "sampler_seed must be at most 1,000,000"),  # numpy's, of 32 bits
        ("search", False, "trials=-1", "trials must be 0 or more"),
        ("judge", True, "judge.learning_rate=1e9", "judge.learning_rate must be at most 1,000,000"),
        ("judge", True, "judge.width=100000", "judge.width must be at most 1,000"),
        ("baselines", True, "pca.n_components=5000", "pca.n_components must be in 1..3072"),
        ("export", False, "onnx=3", "onnx must be true or false"),
    ):
        with pytest.raises(UserError) as refused:
            configured(name, [word], is_run=is_run)
        assert message in str(refused.value)
