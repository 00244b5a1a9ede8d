"""A run is what was chosen, and what differs from the shipped defaults: two ways to write it are one run."""

import copy
import hashlib
import re
import shutil

import pytest
from omegaconf import OmegaConf

from conftest import CONF, composed, composed_once, options
from svhn_vae.experiment import configuration
from svhn_vae.experiment.configuration import choices, extended, plain, recognised
from svhn_vae.runs.identity import NOT_IDENTITY, differences, identity, run_name

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())


def name(*overrides: str) -> str:
    return recognised(composed(*overrides)).name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("objective.beta=1", "objective.beta=1.0"),
        ("optimizer.lr=1e-3 seed=3", "seed=3 optimizer.lr=0.001"),
        ("optimizer.betas=[0,0.5]", "optimizer.betas=[0.0,0.5]"),
        ("model.latent_dim=512 pca.n_components=500 data.limit=null", ""),
        ("trainer=quick", "trainer.max_epochs=8 network_scale=0.125 batch_size=100 optimizer.lr=0.001"),
        (
            "trainer=demo",
            "model=small_dense prior=gaussian_mixture optimizer=adamw network_scale=0.25 batch_size=64 "
            "optimizer.lr=2e-3 schedule.warmup=0.02 schedule.final=0 trainer.max_epochs=40",
        ),
        ("objective=elbo objective.mean_weight=1 monitor=val/objective", ""),
        ("trainer=ddp", "trainer.strategy=ddp trainer.devices=2"),
        ("variance=scaled", "variance=banded variance.num_bands=1"),
        ("experiment=heads variance=logvar", "pca.whiten=true pca.residual=scaled variance=logvar"),
        ("study=a", "study=b/c"),
    ],
)
def test_two_ways_to_write_one_configuration_are_one_run(one, other):
    assert name(*one.split()) == name(*other.split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("data.limit=1", "data.limit=1.0"),  # one image, all images
        ("seed=0", "seed=1"),
        ("~callbacks.early_stopping", ""),
        ("~callbacks.early_stopping.patience", "callbacks.early_stopping.patience=null"),
        ("trainer.max_time=00:00:01:00", ""),
        ("variance.epsilon=true", "variance.epsilon=1"),
    ],
)
def test_what_changes_a_result_is_another_run(one, other):
    assert name(*one.split()) != name(*other.split())


@pytest.mark.parametrize("group", ["data", "model", "objective", "optimizer", "pca", "prior", "variance"])
def test_every_choice_has_a_name_of_its_own(group):
    """Whatever the other groups are: the choices of experiments and presets are made of these."""
    names = [name(f"{group}={choice}", *(["pca=none"] if group == "model" else [])) for choice in options(group)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("group", GROUPS)
def test_two_files_of_one_class_extend_one_another(group):
    """Else one configuration could be written as two runs."""
    by_class = {}
    for choice in {extended(group, choice) for choice in options(group)}:
        file = OmegaConf.load(CONF / group / f"{choice}.yaml")
        target = file.get(group, file).get("_target_")
        assert target is None or by_class.setdefault(target, choice) == choice


@pytest.fixture(scope="module")
def default():
    return composed()


@pytest.mark.parametrize("key", NOT_IDENTITY)
def test_where_it_runs_and_who_watches_is_no_part_of_it(key, default):
    """Each is a setting: a misspelt name would leave nothing out, and nobody would see it."""
    cfg, before = copy.deepcopy(default), recognised(default).name
    assert OmegaConf.select(cfg, key, default="absent") != "absent"
    group, _, inner = key.rpartition(".")
    OmegaConf.update(cfg, key, {"x": 1} if isinstance(OmegaConf.select(cfg, key), dict) else "another")
    assert recognised(cfg).name == before
    assert key not in identity(plain(cfg))
    assert f"{group}.{inner}er".lstrip(".") in identity({group: {f"{inner}er": 1}} if group else {f"{inner}er": 1})


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/ to change."""
    folder = shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(configuration, "CONF", folder)
    monkeypatch.setattr("conftest.CONF", folder)
    for cached in (extended, configuration.shipped_files, composed_once):
        cached.cache_clear()
    yield folder
    for cached in (extended, configuration.shipped_files, composed_once):
        cached.cache_clear()


COMMANDS = ((), ("trainer=demo", "variance=fixed"), ("experiment=heads", "variance=scaled", "network_scale=0.5"))


def test_a_setting_that_is_added_with_a_default_and_a_class_that_moves_rename_nothing(conf):
    before = [name(*words) for words in COMMANDS]
    added = {
        "train.yaml": "hydra:|new: 3\nhydra:",
        "model/dense.yaml": "width: |extra_width: ${scaled:64}\nwidth: ",
        "trainer/default.yaml": "profiler: |num_nodes_of_tomorrow: 1\nprofiler: ",
        "variance/fixed.yaml": "model.variance.gaussian.Fixed|heads.constant.Fixed",
        "variance/banded.yaml": "model.variance.gaussian.Banded|heads.Banded\nslope: [1.0, 2.0]",
    }
    for file, change in added.items():
        text = (conf / file).read_text(encoding="utf-8")
        assert change.split("|")[0] in text
        (conf / file).write_text(text.replace(*change.split("|"), 1), encoding="utf-8")
    (conf / "drift").mkdir()
    (conf / "drift" / "none.yaml").write_text("_target_: svhn_vae.training.drift.Drift\n", encoding="utf-8")
    text = (conf / "train.yaml").read_text(encoding="utf-8")
    (conf / "train.yaml").write_text(
        text.replace("  - optimizer: adam", "  - drift: none\n  - optimizer: adam"), encoding="utf-8"
    )
    for cached in (extended, configuration.shipped_files, composed_once):
        cached.cache_clear()
    assert choices(composed().hydra)["drift"] == "none"
    assert [name(*words) for words in COMMANDS] == before
    assert name("++drift.new=3") != before[0]


def test_a_name_is_readable_and_safe():
    words = {
        (): "dense-relu_eps-pca500-raw-spectrum-seed0",
        ("pca.whiten=true", "seed=12", "variance=logvar"): "dense-logvar-pca500-white-spectrum-seed12",
        ("model=conv", "data=synthetic"): "conv-relu_eps-synthetic-pixels-seed0",
        ("variance.epsilon=0.001",): "dense-relu_eps-epsilon0.001-pca500-raw-spectrum-seed0",
        ("variance=student_t", "variance.dof_range=[3,4]"): "dense-student_t-pca500-raw-spectrum-seed0",
        ("pca=dct", "variance.epsilon='a/b'"): "dense-relu_eps-dct3072-white-spectrum-seed0",
    }
    for overrides, text in words.items():
        found = name(*overrides)
        assert re.fullmatch(re.escape(text) + "-[0-9a-f]{8}", found)
        assert composed(*overrides).hydra.run.dir == f"outputs/default/{found}"


def test_the_names_of_folders_on_disks():
    """Under another rule, finished runs would run again."""
    config, defaults = {"seed": 3, "pca": {"n_components": None}}, {"seed": 0, "pca.n_components": 5}
    chosen = {"model": "conv", "variance": "x", "pca": "none", "data": "svhn"}
    assert differences(config, defaults) == {"seed": 3, "pca.n_components": None}
    sha = hashlib.sha256(b'{"choices": {"pca": "none"}, "values": {"pca.n_components": null, "seed": 3}}').hexdigest()
    assert run_name(config, chosen, defaults, {**chosen, "pca": "default"}) == f"conv-x-pixels-seed3-{sha[:8]}"
