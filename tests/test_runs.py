"""A run is its configuration: what its name depends on, and files that are whole or as they were."""

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from svhn_vae.runs import folder as runs
from svhn_vae.runs.folder import NOT_IDENTITY, RunFolder, flatten, identity, read_json, run_name, write_json

CONF = Path(__file__).parents[1] / "conf"
CONFIG = {
    "study": "default",
    "seed": 0,
    "batch_size": 1000,
    "shuffle": True,
    "monitor": "val/bits_per_dim",
    "compile": False,
    "rerun": False,
    "impossible": "refuse",
    "on_error": "continue",
    "cache": None,
    "data": {
        "_target_": "svhn_vae.data.sources.SVHN", "root": None, "verify": "official", "url": "http://a.example",
        "splits": ["train"], "limit": None, "held_out": 0.1,
    },
    "pca": {
        "_target_": "svhn_vae.model.coordinates.PCA",
        "n_components": 500, "whiten": False, "scale": True, "residual": "spectrum",
    },
    "model": {"_target_": "svhn_vae.model.networks.Dense", "latent_dim": 512, "dropout": 0.2},
    "variance": {"_target_": "svhn_vae.model.variance.ReluEps", "epsilon": 0.01},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-4, "betas": [0.9, 0.999]},
    "logger": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": ""},
    "callbacks": {
        "early_stopping": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 100},
        "progress": {"_target_": "svhn_vae.training.callbacks.Progress"},
        "pictures": {"_target_": "svhn_vae.training.callbacks.Pictures", "every_n_epochs": 10},
    },
    "trainer": {
        "_target_": "lightning.Trainer", "max_epochs": 2000, "accelerator": "auto", "devices": 1,
        "precision": "32-true", "detect_anomaly": False, "profiler": None,
    },
}  # fmt: skip
CHOICES = {"data": "svhn", "pca": "default", "model": "dense", "variance": "relu_eps", "trainer": "default"}
WITHOUT_EFFECT = [
    "study", "rerun", "impossible", "on_error", "cache", "compile",
    "data.root", "data.verify", "data.url", "logger._target_", "logger.name",
    "callbacks.progress._target_", "callbacks.pictures._target_", "callbacks.pictures.every_n_epochs",
    "trainer.accelerator", "trainer.devices", "trainer.detect_anomaly", "trainer.profiler",
]  # fmt: skip
WITH_EFFECT = [
    "seed", "batch_size", "shuffle", "monitor", "data._target_", "data.splits", "data.limit", "data.held_out",
    "pca._target_", "pca.n_components", "pca.whiten", "pca.scale", "pca.residual", "model._target_",
    "model.latent_dim", "model.dropout", "variance._target_", "variance.epsilon", "optimizer._target_",
    "optimizer.lr", "optimizer.betas", "callbacks.early_stopping._target_", "callbacks.early_stopping.patience",
    "trainer._target_", "trainer.max_epochs", "trainer.precision",
]  # fmt: skip

DESCRIBED = {"config": CONFIG, "choices": CHOICES}


def changed(key: str, value: object = "another") -> dict:
    """The configuration with one value, named by its dotted key, replaced or added."""
    config = copy.deepcopy(CONFIG)
    *groups, name = key.split(".")
    place = config
    for group in groups:
        place = place[group]
    place[name] = value
    return config


def reordered(config: Mapping) -> dict:
    return {key: reordered(value) if isinstance(value, Mapping) else value for key, value in reversed(config.items())}


# --- identity -------------------------------------------------------------------------------------------------------


def test_flatten():
    assert flatten({"a": 1, "b": {"c": [2, 3], "d": {"e": None}}}) == {"a": 1, "b.c": [2, 3], "b.d.e": None}
    assert list(flatten({"b": {"d": 1, "c": 2}, "a": 3})) == ["b.d", "b.c", "a"]


def test_every_key_is_placed():
    assert sorted(flatten(CONFIG)) == sorted([*WITHOUT_EFFECT, *WITH_EFFECT])
    assert sorted(identity(CONFIG)) == sorted(WITH_EFFECT)


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_does_not_change_a_result_is_no_identity(key):
    assert identity(changed(key)) == identity(CONFIG)
    assert run_name(changed(key), CHOICES) == run_name(CONFIG, CHOICES)


@pytest.mark.parametrize("key", WITH_EFFECT)
def test_what_changes_a_result_is_identity(key):
    assert identity(changed(key))[key] == "another"
    assert run_name(changed(key), CHOICES) != run_name(CONFIG, CHOICES)


@pytest.mark.parametrize("key", ["studying", "data.rooted", "trainer.devices_per_node", "callbacks.progressive"])
def test_a_name_that_only_begins_alike_is_identity(key):
    assert identity(changed(key))[key] == "another"


@pytest.mark.parametrize("name", NOT_IDENTITY)
def test_what_is_left_out_is_a_setting(name):
    """A misspelt name would leave nothing out, and nobody would see it."""
    group, _, key = name.partition(".")
    if not key:
        assert (CONF / group).is_dir() or group in OmegaConf.load(CONF / "train.yaml")
    else:
        assert any(key in OmegaConf.load(path) for path in (CONF / group).glob("*.yaml"))


# --- name -----------------------------------------------------------------------------------------------------------


def test_name_does_not_depend_on_the_order_of_keys():
    assert run_name(reordered(CONFIG), reordered(CHOICES)) == run_name(CONFIG, CHOICES)
    assert run_name(copy.deepcopy(CONFIG), CHOICES) == run_name(CONFIG, CHOICES)


def test_name_ends_in_the_hash_of_the_identity():
    """Folders on disks have such names: under another rule, finished runs would run again."""
    config = {"seed": 3, "study": "default", "pca": {"n_components": None}}
    sha = hashlib.sha256(b'{"pca.n_components": null, "seed": 3}').hexdigest()
    choices = {"model": "conv", "variance": "x", "pca": "none", "data": "svhn"}
    assert run_name(config, choices) == f"conv-x-pixels-seed3-{sha[:8]}"


@pytest.mark.parametrize(
    ("config", "choices", "words"),
    [
        (CONFIG, {}, "dense-relu_eps-pca500-raw-spectrum-seed0"),
        (changed("pca.whiten", True), {}, "dense-relu_eps-pca500-white-spectrum-seed0"),
        (changed("seed", 12), {"variance": "logvar"}, "dense-logvar-pca500-raw-spectrum-seed12"),
        (changed("pca.n_components", None), {"pca": "none", "model": "conv"}, "conv-relu_eps-pixels-seed0"),
    ],
)
def test_name_is_readable_and_safe(config, choices, words):
    name = run_name(config, {**CHOICES, **choices})
    assert re.fullmatch(re.escape(words) + "-[0-9a-f]{8}", name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name)


# --- files ----------------------------------------------------------------------------------------------------------


def test_written_content_is_read(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": {"c": "é\n"}, "nan": float("inf")}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == json.loads((tmp_path / "x.json").read_text()) == content
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").read_text() == "{}"


def crash_while_writing(content, file, **_):
    file.write('{"half": ')
    raise KeyboardInterrupt


def crash_before_the_move(*_):
    raise OSError("no space left on device")


@pytest.mark.parametrize("before", [None, '{"old": 1}'], ids=["no file", "a file"])
@pytest.mark.parametrize(
    ("place", "name", "crash"),
    [
        (json, "dump", crash_while_writing),
        (os, "fsync", crash_before_the_move),
        (os, "replace", crash_before_the_move),
    ],
    ids=["writing", "flushing", "moving"],
)
def test_crash_leaves_the_old_file(tmp_path, monkeypatch, before, place, name, crash):
    path = tmp_path / "status.json"
    if before is not None:
        path.write_text(before)
    monkeypatch.setattr(place, name, crash)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_json(path, {"new": 2})
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"first": 1, "second": object()})
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path) == {"old": 1}


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1', b'{"a": 1}}', b"[1]", b"3", b"null", b'"text"', b"\xff\xfe\x00", bytes(100)]
)
def test_damaged_file_reads_as_nothing(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    assert read_json(path) == {}


def test_missing_file_reads_as_nothing(tmp_path):
    (tmp_path / "file").write_text("{}")
    assert read_json(tmp_path / "none.json") == read_json(tmp_path / "no" / "none.json") == {}
    assert read_json(tmp_path / "file" / "none.json") == {}


# --- the folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds since 1970, one more each time that they are asked for."""
    times = iter(range(1000, 2000))
    monkeypatch.setattr(runs.time, "time", lambda: float(next(times)))


@pytest.fixture
def folder(tmp_path, clock):
    return RunFolder(tmp_path / "study" / "dense-seed0")


def test_a_new_folder_has_no_facts(folder):
    assert (folder.facts, folder.result) == ({}, {})
    assert not folder.path.exists()


def test_begin(folder):
    folder.begin("d1", CONFIG, CHOICES)
    assert folder.facts == {"status": "running", "started": 1000.0, "data": "d1", **DESCRIBED}
    assert json.loads((folder.path / "status.json").read_text()) == folder.facts


@pytest.mark.parametrize("status", ["done", "diverged", "failed", "interrupted"])
def test_end_keeps_when_it_started_and_on_what(folder, status):
    folder.begin("d1", CONFIG, CHOICES)
    folder.end(status, "why", 7)
    due = {"status": status, "reason": "why", "step": 7, "started": 1000.0, "ended": 1001.0, "data": "d1"}
    assert folder.facts == due | DESCRIBED


def test_a_continued_run_forgets_why_it_ended(folder):
    folder.begin("d1", CONFIG, CHOICES)
    folder.end("interrupted", "power")
    folder.begin("d2", CONFIG, CHOICES)
    assert folder.facts == {"status": "running", "started": 1002.0, "data": "d2", **DESCRIBED}
    folder.end("done")
    assert folder.facts["reason"] == ""
    assert (folder.facts["started"], folder.facts["ended"], folder.facts["data"]) == (1002.0, 1003.0, "d2")


def test_a_run_that_fails_before_it_begins(folder):
    folder.end("failed", "no images")
    assert folder.facts == {"status": "failed", "reason": "no images", "step": None, "ended": 1000.0}


def test_result(folder):
    folder.begin("d1", CONFIG, CHOICES)
    write_json(folder.path / "result.json", {"seed": 0})
    assert folder.result == {"seed": 0}


def test_set_aside_keeps_everything_and_frees_the_name(folder):
    for number in (1, 2):
        folder.begin(f"d{number}", CONFIG, CHOICES)
        folder.end("diverged", "not finite", 5)
        facts = folder.facts
        aside = folder.set_aside()
        assert aside == folder.path.with_name(f"dense-seed0.previous{number}")
        assert RunFolder(aside).facts == facts
        assert folder.facts == {}
        assert not folder.path.exists()
    assert RunFolder(folder.path.with_name("dense-seed0.previous1")).facts["data"] == "d1"


RESULT = {"metrics": {}, "data": {"digest": "d1"}, "config": CONFIG, "choices": CHOICES, "cost": {"seconds": 1}}


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": ', b"[1]", b'{"status": 1}', b'{"data": "d2"}', bytes(9)])
def test_where_the_status_is_damaged_the_result_tells_that_it_is_done(folder, content):
    folder.begin("d1", CONFIG, CHOICES)
    folder.status.write_bytes(content)
    assert (folder.facts, folder.is_finished, folder.damage) == ({}, False, "status.json is damaged")
    write_json(folder.path / "result.json", RESULT)
    assert folder.facts == {"status": "done", "data": "d1", **DESCRIBED, "cost": {"seconds": 1}}
    assert folder.is_finished
    assert folder.damage == "status.json is damaged: result.json says that it is done"


def test_a_whole_folder_has_no_damage(folder):
    assert folder.damage == ""
    folder.begin("d1", CONFIG, CHOICES)
    assert folder.damage == ""
    folder.end("done")
    assert "result.json is missing or damaged" in folder.damage
    write_json(folder.path / "result.json", RESULT)
    assert folder.damage == ""


def test_what_training_left_outlasts_interruptions_until_it_is_of_no_use(folder):
    folder.begin("d1", CONFIG, CHOICES, "abc")
    folder.trained({"seconds": 3}, {"train/kl": 1.5})
    folder.end("interrupted", "power")
    folder.begin("d1", CONFIG, CHOICES, "abc")
    assert (folder.facts["cost"], folder.facts["learnt"]) == ({"seconds": 3}, {"train/kl": 1.5})
    assert folder.facts["commit"] == "abc"
    folder.trains_again()
    assert {"cost", "learnt"}.isdisjoint(folder.facts)


def test_an_empty_folder_goes_with_its_study_and_a_full_one_stays(tmp_path):
    (tmp_path / "outputs" / "a" / "b" / "run").mkdir(parents=True)
    RunFolder(tmp_path / "outputs" / "a" / "b" / "run").remove_if_empty()
    assert not (tmp_path / "outputs").exists()
    assert tmp_path.is_dir()
    (tmp_path / "outputs" / "a" / "run" / "inner").mkdir(parents=True)
    RunFolder(tmp_path / "outputs" / "a" / "run").remove_if_empty()
    assert (tmp_path / "outputs" / "a" / "run" / "inner").is_dir()
