"""Finished runs, read again: their model, their images. They may be a stranger's: nothing of theirs is executed."""

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from svhn_vae.data.represented import Represented
from svhn_vae.data.sources import Dataset, load_once
from svhn_vae.errors import UserError, one_line
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.score import completed
from svhn_vae.experiment.build import build_vae, register_resolvers
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder, write_json
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.runs.weights import load_best, load_representation


def load_run(path: str | Path) -> VAE:
    """The finished run in a folder, wherever it was moved: its best weights, on the CPU, in evaluation mode.

    Raises FileNotFoundError if the folder holds no run with a best checkpoint, ValueError if its configuration names
    classes of others. Nothing is unpickled: safetensors, and a checkpoint read with weights_only.
    """
    register_resolvers()
    folder = RunFolder(Path(path))
    config = folder.path / ".hydra" / "config.yaml"
    for needed in (config, folder.representation, folder.best_checkpoint):
        if not needed.is_file():
            raise FileNotFoundError(f"{path} is not a finished run: there is no {needed.relative_to(folder.path)}")
    try:
        vae = build_vae(trusted(config, "pca", "model", "variance"))
    except InstantiationException as error:
        raise UserError(f"{config} is damaged: {one_line(error.__cause__ or error)}") from None
    load_best(vae, folder)
    load_representation(vae, folder)
    return vae.eval()


def trusted(config: Path, *groups: str) -> DictConfig:
    """A run's configuration, after a look at those groups of it: it may be a stranger's, and building calls what it
    names. Raises UserError if that is no class of svhn_vae, or if the file is damaged."""
    try:
        cfg = OmegaConf.load(config)
        resolved = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    except OSError:
        raise
    except Exception as error:  # whatever a parser makes of any bytes
        raise UserError(f"{config} is damaged: {' '.join(str(error).split())[:200]}") from None
    for group, content in resolved.items():
        for key, value in [("_target_", content.get("_target_")), *leaves(content)]:
            if key == "_target_" and not is_own_class(value):
                raise UserError(f"{config}: {group} must be a class of svhn_vae, got {value}")
            if "${" in str(value):  # hidden from the look by an escape
                raise UserError(f"{config}: {group} must hold plain values, got {value}")
        cfg[group] = content  # what was looked at is what is built
    return cfg


def leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings and lists, with the key that it has, or its list."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else ((key, value) for value in content)
        yield from (leaf for name, value in items for leaf in leaves(value, name))
    else:
        yield key, content


def is_own_class(target: Any) -> bool:
    """Whether it is a class of svhn_vae, and not what one of its modules imports, as svhn_vae.runs.files.os.system."""
    if not isinstance(target, str) or not target.startswith("svhn_vae."):
        return False
    try:
        return pkgutil.resolve_name(target).__module__.startswith("svhn_vae.")
    except Exception:  # there is none of this name
        return False


def load_dataset(path: str | Path, data_root: str | None, *, other_images: bool) -> Dataset:
    """The images of the finished run in a folder, read from `data_root` if their files were moved.

    other_images: those found may be others than the run's, to score it on them.
    Raises FileNotFoundError if the run has no result, DataError if there are no images to be had, ValueError if they
    are others than the run's.
    """
    folder = RunFolder(Path(path))
    if not folder.result:
        raise FileNotFoundError(f"{path} is not a finished run: there is no result.json")
    cfg = trusted(folder.path / ".hydra" / "config.yaml", "data").data
    if data_root is not None:
        if "root" not in cfg:
            raise UserError(f"data_root={data_root} is for images from files, and {path} ran on {cfg._target_}")
        cfg.root = data_root
    try:
        source = instantiate(cfg, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"{path}: its configuration is damaged: {one_line(error.__cause__ or error)}") from None
    dataset, expected = load_once(source), folder.result["data"]["digest"]
    if dataset.digest != expected and not other_images:
        raise UserError(f"{path} ran on other images (data {expected}, found {dataset.digest}): set data_root=FOLDER")
    return dataset


def complete_scores(
    folder: RunFolder, dataset: Dataset, judge: Judge | None, *, iw_samples: int, device: torch.device
) -> None:
    """Merges into a finished run's result what `score.completed` finds that it lacks. Under the run's lock."""
    vae = load_run(folder.path).to(device)
    represented = Represented(dataset, vae.representation)
    result, columns = completed(folder.result, vae, represented, judge, iw_samples=iw_samples)
    path = folder.path / "per_image.safetensors"
    if columns and path.is_file():
        save_tensors(load_tensors(path) | columns, path)
    write_json(folder.path / "result.json", result)
