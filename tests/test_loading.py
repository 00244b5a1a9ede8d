"""Runs are read again, old ones and strangers': what is stored names our classes, and calls nothing."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conftest import composed, options
from stress import malice
from stress.forked import command
from svhn_vae.data import batches
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.errors import DataError, UserError
from svhn_vae.evaluation import bound
from svhn_vae.evaluation.score import score_run
from svhn_vae.experiment.build import build_vae
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.loading import BASES, load_dataset, load_run, registered, shipped, trusted
from svhn_vae.report.page import write_report
from svhn_vae.runs.files import write_json
from svhn_vae.training.checkpoints import load_weights

OLD = Path(__file__).parent / "data" / "run_0010f91"  # its classes lay elsewhere, and its name was another


def seed_of_0010f91(stream: int, *place: int) -> int:
    """Another one than `derive_seed` has now, and so are the noise and the last digits of a figure."""
    return int(np.random.SeedSequence((stream, *place)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def test_a_run_of_0010f91_gives_its_figures_again(monkeypatch):
    for place in (batches, bound):
        monkeypatch.setattr(place, "derive_seed", seed_of_0010f91)
    run = OLD / "conv"
    vae, due = load_run(run).vae, json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
    # Another processor may round a digit's pixel to the level beside: the figures are due, and not the images' digest.
    dataset = load_dataset(run, None, other_images=True)
    score = score_run(vae, EvaluationSplits(dataset, vae.representation), split="test", iw_samples=4)
    for quantity in ("test/bits_per_dim", "test/negative_elbo", "test/kl"):
        assert score.metrics[quantity] == pytest.approx(due[quantity], rel=1e-5)


def test_a_configuration_of_0010f91_builds_the_same_modules():
    run = OLD / "dense"
    groups = ("pca", "model", "variance", "prior", "condition")
    vae = build_vae(trusted(run / ".hydra" / "config.yaml", *groups), (3, 32, 32))
    load_weights(vae, run / "checkpoints" / "best.ckpt")  # strictly: every name and every shape
    due = json.loads((run / "result.json").read_text(encoding="utf-8"))["cost"]["num_parameters"]
    assert sum(parameter.numel() for parameter in vae.parameters()) == due


@pytest.mark.parametrize("group", BASES)
def test_every_choice_is_registered_and_can_be_loaded(group, tmp_path):
    for choice in options(group):
        cfg = composed(f"{group}={choice}")
        OmegaConf.save(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), tmp_path / "config.yaml")
        assert trusted(tmp_path / "config.yaml", group)[group]._target_ == cfg[group]._target_
        assert cfg[group]._target_ in registered(shipped(group)).values()


# --- a stranger's folder ----------------------------------------------------------------------------------------------

CONFIG = OmegaConf.to_container(OmegaConf.load(OLD / "conv" / ".hydra" / "config.yaml"))
CONFIG["condition"] = {"_target_": "svhn_vae.model.condition.DigitVAE", "alpha": 0.1, "labels": 1.0}
CONFIG["prior"] = {"_target_": "svhn_vae.model.prior.Mixture", "num_components": 3}
NAMES = tuple(malice.configurations(CONFIG, Path("nowhere")))


def test_a_setting_that_is_newer_than_the_run_is_as_shipped(tmp_path):
    cfg = composed("prior=gaussian_mixture")
    OmegaConf.set_struct(cfg, False)
    shipped = cfg.prior.pop("num_draws")
    OmegaConf.save(OmegaConf.masked_copy(cfg, ["prior", "seed"]), tmp_path / "config.yaml")
    assert trusted(tmp_path / "config.yaml", "prior").prior == {**cfg.prior, "num_draws": shipped}


def test_the_mean_of_an_older_causal_run_is_what_its_decoder_emits(tmp_path):
    cfg = composed("variance=causal")
    OmegaConf.set_struct(cfg, False)
    del cfg.variance.centre, cfg.variance.unit
    OmegaConf.save(OmegaConf.masked_copy(cfg, ["variance", "pca", "seed"]), tmp_path / "config.yaml")
    stored = trusted(tmp_path / "config.yaml", "variance").variance
    head = instantiate(stored, (3, 4, 4))
    params = torch.rand(2, head.params_per_element, 3, 4, 4)
    assert torch.equal(head(params).mean, params[:, 0])


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "conv", tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_strangers_configuration_is_called(name, run, tmp_path):
    """Each is refused in a line by what would build it, and leaves no file."""
    (tmp_path / "marks").mkdir()
    (run / ".hydra" / "config.yaml").write_text(
        malice.configurations(CONFIG, tmp_path / "marks")[name], encoding="utf-8"
    )
    errors = []
    for read in (load_run, lambda path: load_dataset(path, None, other_images=False)):
        try:
            read(run)
        except UserError as error:
            errors.append(str(error))
    assert errors
    assert all("\n" not in error for error in errors)
    assert os.listdir(tmp_path / "marks") == []


@pytest.mark.parametrize("group", BASES)
def test_the_payloads_would_run(group, tmp_path):
    """Under Hydra's recursive instantiation a nested function of ours writes its file."""
    cfg = OmegaConf.create(malice.configurations(CONFIG, tmp_path)[f"nested, ours, a function: {group}"])
    register_resolvers()  # a size is one of ours
    instantiate({**OmegaConf.to_container(cfg, resolve=True)[group], "_target_": "builtins.dict"})
    assert (tmp_path / malice.MARK).exists()


def test_commands_are_as_careful(tmp_path):
    """The report reads all payloads in one study; evaluate and generate, the one that once wrote a file."""
    study = tmp_path / "outputs" / "study"
    for name, text in malice.configurations(CONFIG, tmp_path).items():
        copy = shutil.copytree(OLD / "conv", study / re.sub(r"\W", "_", name))
        (copy / ".hydra" / "config.yaml").write_text(text, encoding="utf-8")
    write_report(study)
    for script in ("evaluate", "generate"):
        done = command(script, tmp_path, f"run={study}/nested__ours__a_function__variance")
        assert done.returncode == 1
        [line] = done.printed.splitlines()
        assert line.startswith("failed: ")
    assert not (tmp_path / malice.MARK).exists()


@pytest.mark.parametrize("content", ["pca: 3", "pca: {n_components: 3}", "pca: {", "\x00"])
def test_a_damaged_configuration_is_refused_in_a_line(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"must be a class of svhn_vae|is damaged") as error:
        trusted(tmp_path / "config.yaml", "pca", "model", "variance")
    assert "\n" not in str(error.value)


def test_a_resolver_of_the_process_that_loads_is_not_called(run):
    """Many programs register one that evaluates Python."""
    OmegaConf.register_new_resolver("evil", lambda text: pytest.fail("called"), replace=True)
    text = (run / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    (run / ".hydra" / "config.yaml").write_text(
        text.replace("num_layers: 5", "num_layers: ${evil:5}"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="must hold plain values"):
        load_run(run)


def test_loading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a finished run: there is no"):
        load_run(tmp_path)


MISSING = {  # a run's data, and what is in the folder beside
    "no folder": (["data.root=gone"], {}),
    "no file": (["data.root=there", "data.verify=none"], {}),
    "no download": (["data.root=there", "data.url=http://127.0.0.1:9"], {}),
    "damaged": (["data.root=there", "data.verify=none"], {"train_32x32.mat": b"damaged"}),
    "not official": (["data.root=there"], {"train_32x32.mat": b"damaged"}),
    "no pictures": (["data=images", "data.root=there"], {}),
    "unlike pictures": (["data=images", "data.root=there"], {"train.npy": b"damaged"}),
    "no archive": (["data=cifar10", "data.root=there", "data.verify=none"], {}),
    "no values": (["data=mnist", "data.root=there", "data.verify=none"], {}),
    "no originals": (["data=svhn_full", "data.root=there"], {"train/digitStruct.mat": b"damaged"}),
}


@pytest.mark.parametrize("what", MISSING)
def test_advice_names_the_setting_that_the_command_has(tmp_path, monkeypatch, what):
    """train has data.root, data.verify and data.channels, and evaluate and generate have data_root."""
    words, files = MISSING[what]
    monkeypatch.chdir(tmp_path)
    for name, content in {"there/a": b"", **{f"there/{name}": content for name, content in files.items()}}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    write_json(tmp_path / "run" / "result.json", {"data": {"digest": "abc"}})
    config = tmp_path / "run" / ".hydra" / "config.yaml"
    config.parent.mkdir()
    OmegaConf.save({"data": composed(*words).data}, config)
    with pytest.raises(DataError) as error:
        load_dataset("run", None, other_images=False)
    what, _, advice = str(error.value).rpartition(": ")
    assert advice == "set data_root=FOLDER to where its files lie"
    assert "data.root" not in what


def test_the_callers_random_numbers_are_left_alone(run):
    torch.manual_seed(5)
    due = torch.randn(2)
    torch.manual_seed(5)
    load_run(run)
    assert torch.equal(torch.randn(2), due)
