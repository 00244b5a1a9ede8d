"""Finished runs, read again: their model, their images. They may be a stranger's: nothing of theirs is executed.

A stored configuration names, per group, one of the classes that conf/ has for this group, by the last part of its
`_target_`: so a run made before a class moved still loads, and no module that a stranger names is imported.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, Source, load_once
from svhn_vae.errors import Damaged, DataError, UserError
from svhn_vae.evaluation.finished_run import FinishedRun
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.score import completed
from svhn_vae.experiment.build import build_vae, make
from svhn_vae.experiment.configuration import CONF, register_resolvers
from svhn_vae.model.coordinates import Representation
from svhn_vae.model.networks.interface import Networks
from svhn_vae.model.prior import Prior
from svhn_vae.model.vae import VAE
from svhn_vae.model.variance.head import VarianceHead
from svhn_vae.runs.files import write_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.training.checkpoints import load_model, load_parts, stored_shapes

BASES = {
    "data": Source,
    "pca": Representation,
    "model": Networks,
    "variance": VarianceHead,
    "prior": Prior,
    "condition": VAE,
}
BEFORE = {  # of runs older than the group
    "prior": {"_target_": "svhn_vae.model.prior.StandardNormal"},
    "condition": {"_target_": "svhn_vae.model.vae.VAE"},
}
# Of runs older than a setting whose shipped default is another.
BEFORE_SETTING = {"linear_path": 0, "dense_normalisation": "${.normalisation}", "centre": 0.0, "unit": 1.0}
# What our own files interpolate: a setting by its name, and two functions of ours. No other resolver is called.
INTERPOLATION = re.compile(r"\$\{([\w.]+|scaled:\d+|is_of_training:\$\{monitor\})\}")


def load_run(path: str | Path, device: str | torch.device = "cpu") -> FinishedRun:
    """The finished run in a folder, wherever it was moved, or what `export` made of one: its best weights, on a device.

    Raises FileNotFoundError if the folder holds no run with a best checkpoint, UserError if its configuration names
    anything but this framework's own classes, if a file is damaged, or if there is no such device. Nothing is
    unpickled: safetensors, and a checkpoint read with weights_only.
    """
    folder = RunFolder(Path(path))
    try:
        torch.empty(0, device=device)
    except Exception as error:  # of six kinds
        why = str(error).partition("\n")[0]
        raise UserError(f"expected a device that is there, such as cpu, got {device!r}: {why}") from error
    stored = folder.exported if folder.exported.is_file() else folder.representation
    for needed in (folder.config, stored, *([] if stored == folder.exported else [folder.best_checkpoint])):
        if not needed.is_file():
            raise FileNotFoundError(f"{path} is not a finished run: there is no {needed.relative_to(folder.path)}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are the caller's
        groups = trusted(folder.config, "pca", "model", "variance", "prior", "condition")
        shape, num_labels = stored_shapes(stored)
        with damaged_otherwise(folder.config):
            vae = build_vae(groups, shape, num_labels)
    if stored == folder.exported:
        load_model(vae, stored)
    else:
        load_parts(vae, folder)
    return FinishedRun(vae.to(device), folder.result)


@contextmanager
def damaged_otherwise(config: Path) -> Iterator[None]:
    """Raises Damaged for whatever a parser makes of any bytes, and a constructor of any values."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise Damaged(config, error) from error


def trusted(config: Path, *groups: str) -> DictConfig:
    """The seed and these groups of a stored configuration, safe to build from.

    Raises UserError if a group names another class than one of its own, if anything below its top is more than a plain
    value, or if the file is damaged.
    """
    register_resolvers()
    with damaged_otherwise(config):
        cfg: Any = OmegaConf.load(config)
        for value in strings(OmegaConf.to_container(cfg)):
            if "${" in INTERPOLATION.sub("", value):
                raise UserError(f"{config} must hold plain values, got {value}")
        stored = BEFORE | {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups if group in cfg}
        seed = int(cfg.get("seed", 0))
    return OmegaConf.create({"seed": seed} | {group: own(config, group, stored.get(group)) for group in groups})


def own(config: Path, group: str, content: Any) -> dict[str, Any]:
    """The group with its class as conf/ names it now. Raises UserError."""
    settings = content if isinstance(content, dict) else {}
    files = shipped(group)
    target, known = settings.get("_target_"), registered(files)
    name = str(target).rpartition(".")[2]
    is_ours = str(target).startswith("svhn_vae.") or target == known.get(name)
    if not is_ours or name not in known or not issubclass(get_class(known[name]), BASES[group]):
        raise UserError(f"{config}: {group} must be a class of svhn_vae, one of {', '.join(known)}, got {target}")
    values = {key: value for key, value in settings.items() if key != "_target_"}
    for value in strings(values):
        if "${" in value or (value.startswith("_") and value.endswith("_")):
            raise UserError(f"{config}: {group} must hold plain values below its class, got {value}")
    found = defaults(files, known[name])
    older = {key: value for key, value in BEFORE_SETTING.items() if key in found}
    return {"_target_": known[name], **found, **older, **values}


@functools.cache
def shipped(group: str) -> list[dict[str, Any]]:
    """The settings of a group in each of its files, in the order of their names."""
    files: list[Any] = [OmegaConf.to_container(OmegaConf.load(path)) for path in sorted((CONF / group).glob("*.yaml"))]
    return [file.get(group, file) for file in files]


def defaults(files: list[dict[str, Any]], target: str) -> dict[str, Any]:
    """The plain settings of a class as conf/ ships them, for a run that is older than one of them."""
    found: dict[str, Any] = {}
    for settings in reversed(files):
        if settings.get("_target_") == target:
            found |= {key: value for key, value in settings.items() if key != "_target_" and "${" not in str(value)}
    found.pop("defaults", None)
    return found


def registered(files: list[dict[str, Any]]) -> dict[str, str]:
    """Name of a class -> where it is now, of all that the files of a group choose."""
    targets = [settings.get("_target_") for settings in files]
    return {target.rpartition(".")[2]: target for target in targets if target}


def strings(content: Any) -> Iterator[str]:
    """Every text in nested mappings and lists, keys included."""
    if isinstance(content, dict | list):
        for each in content:
            yield from strings(each)
            if isinstance(content, dict):
                yield from strings(content[each])
    elif isinstance(content, str):
        yield content


def load_dataset(path: str | Path, data_root: str | None, *, other_images: bool) -> Dataset:
    """The images of the finished run in a folder, read from `data_root` if their files were moved.

    other_images: those found may be others than the run's, to score it on them.
    Raises FileNotFoundError if the run has no result, DataError if there are no images to be had, UserError if they
    are others than the run's.
    """
    folder = RunFolder(Path(path))
    if not folder.result:
        raise FileNotFoundError(f"{path} is not a finished run: there is no result.json")
    cfg = trusted(folder.config, "data").data
    if data_root is not None:
        if "root" not in cfg:
            raise UserError(f"data_root={data_root} is for images from files, and {path} ran on {cfg._target_}")
        cfg.root = data_root
    try:
        with damaged_otherwise(folder.config):
            source = make("data", cfg)
        dataset, expected = load_once(source), folder.result["data"]["digest"]
    except DataError as error:  # whose advice is in train's settings
        problem = str(error).rpartition(": ")[0].replace("data.root", "data_root")
        raise DataError(f"{problem}: set data_root=FOLDER to where its files lie") from None
    if dataset.digest != expected and not other_images:
        advice = "set data_root=FOLDER" if "root" in cfg else f"use the code of {folder.result.get('commit')}"
        raise UserError(f"{path} ran on other images (data {expected}, found {dataset.digest}): {advice}")
    return dataset


def complete_scores(
    folder: RunFolder, dataset: Dataset, judge: Judge | None, *, iw_samples: int, device: torch.device
) -> None:
    """Merges into a finished run's result what `score.completed` finds that it lacks. Under the run's lock."""
    vae = load_run(folder.path, device).vae
    splits = EvaluationSplits(dataset, vae.representation)
    result, columns = completed(folder.result, vae, splits, judge, iw_samples=iw_samples)
    path = folder.path / "per_image.safetensors"
    if columns and path.is_file():
        save_tensors(load_tensors(path) | columns, path)
    write_json(folder.path / "result.json", result)
