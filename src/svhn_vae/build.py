"""From a configuration to objects. Hydra makes the leaves, the wiring is Python; no DictConfig leaves this file."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import pooch
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from svhn_vae import runs
from svhn_vae.checkpoints import Best, Last, WholeCheckpoints
from svhn_vae.commandline import help_text
from svhn_vae.data.dataset import Dataset, Source, load_once
from svhn_vae.data.mapped import Mapped
from svhn_vae.data.module import DataModule
from svhn_vae.errors import did_you_mean, one_line
from svhn_vae.evaluation.judge import Judge, judge_once
from svhn_vae.history import History
from svhn_vae.job import Job
from svhn_vae.lit import NUM_DIMS, LitVAE
from svhn_vae.ranks import Place, num_ranks
from svhn_vae.runs import RunFolder
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.storage import load_best, load_representation
from svhn_vae.vae import VAE
from svhn_vae.whole_batch_layers import WholeBatchLayers

IMAGE_SHAPE = (3, 32, 32)
BUILT = ("data", "pca", "model", "variance", "objective", "optimizer", "logger", "trainer")  # groups of one class each
CONF = Path(__file__).parents[2] / "conf"
assert torch.Size(IMAGE_SHAPE).numel() == NUM_DIMS


def register_resolvers() -> None:
    """What the YAML files compute: widths, what a metric is of, the run's folder name, the text of --help."""
    resolvers = {
        "scaled": scaled,
        "is_of_training": is_of_training,
        "run_name": _run_name,
        "train_help": lambda: help_text(CONF),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def scaled(size: int, *, _root_: DictConfig) -> int:
    """A width times network_scale, at least 1."""
    return max(1, round(int(size) * _root_.network_scale))


def is_of_training(metric: str) -> bool:
    """Such a metric is there when an epoch has wholly ended, the others after a validation."""
    return metric.startswith("train/")


def _run_name(*, _root_: DictConfig) -> str:
    return runs.run_name(plain(_root_), choices(_root_.hydra))


def plain(cfg: DictConfig) -> runs.Config:
    """The resolved configuration without Hydra's own part, as plain dicts and lists."""
    own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    own._set_parent(None)
    return OmegaConf.to_container(own, resolve=True)


def choices(hydra_cfg: DictConfig) -> dict[str, str]:
    """Group -> the file chosen in it, from Hydra's own part of the configuration."""
    chosen = OmegaConf.to_container(hydra_cfg.runtime.choices)
    return {group: choice for group, choice in chosen.items() if "/" not in group and choice and "@" not in group}


def try_build(cfg: DictConfig) -> None:
    """Builds all of a run but its data, in no time and memory; raises what is wrong with it."""
    for group in BUILT:
        check_settings(group, cfg[group])
    for name, node in cfg.callbacks.items():
        check_settings(f"callbacks.{name}", node)
    instantiate(cfg.data, _convert_="all")
    with torch.device("meta"):
        module = build_module(cfg)
        try:
            module.configure_optimizers()
        except ValueError as error:  # torch's do not say whose setting it is
            raise ValueError(f"optimizer: {error}") from None
    build_trainer(cfg, RunFolder(Path("outputs") / "not written"))


def load_data(cfg: DictConfig) -> Dataset:
    """The run's images, loaded once per process."""
    return load_once(source_of(cfg))


def source_of(cfg: DictConfig) -> Source | Mapped:
    source = instantiate(cfg.data, _convert_="all")
    return Mapped(source, cache_folder(cfg)) if cfg.memory_map else source


def build_job(cfg: DictConfig, chosen: dict[str, str], folder: RunFolder, place: Place | None = None) -> Job:
    """A whole run, its data loaded and its representation fitted. Raises what is wrong with either, in a line."""
    module = build_module(cfg)
    trainer = build_trainer(cfg, folder, place)
    data = build_data(cfg, module.vae)
    data.setup()
    judge = (lambda dataset: load_judge(dataset, cache_folder(cfg))) if cfg.judge else None
    typed = [word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task]
    return Job(folder, plain(cfg), chosen, data, module, trainer, judge, typed)


def build_vae(cfg: DictConfig) -> VAE:
    """An untrained VAE, its representation not yet fitted; the same weights for the same seed."""
    torch.manual_seed(derive_seed(Stream.WEIGHTS, cfg.seed))
    for group in ("pca", "variance", "model"):
        check_settings(group, cfg[group])
    representation = instantiate(cfg.pca, image_shape=IMAGE_SHAPE)
    variance = instantiate(cfg.variance, event_shape=representation.event_shape, _convert_="all")
    networks = instantiate(
        cfg.model,
        event_shape=representation.event_shape,
        params_per_element=variance.params_per_element,
        params_per_image=representation.residual.params_per_image,
    )
    return VAE(representation, networks, variance)


def check_settings(group: str, node: DictConfig) -> None:
    """Raises ValueError for settings that the chosen class does not have: an experiment may set them for another."""
    if node is None:
        raise ValueError(f"{group} must be there: leave it away with '~{group}'")
    chosen = get_class(node._target_)
    parameters = inspect.signature(chosen).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in node if not name.startswith("_") and name not in parameters]
    if unknown and not takes_any:
        named = ", ".join(f"{group}.{name}" for name in unknown)
        raise ValueError(
            f"{named}: the chosen {group} ({chosen.__name__}) has no such setting"
            f"{did_you_mean(unknown[0], parameters) or ', and an experiment or override sets it for another'}; "
            f"leave it away with '~{group}.{unknown[0]}', or choose another {group}"
        )


def build_module(cfg: DictConfig) -> LitVAE:
    vae = build_vae(cfg)
    if cfg.compile:
        vae.networks.compile()
    return LitVAE(vae, instantiate(cfg.optimizer, _convert_="all"), instantiate(cfg.objective), seed=cfg.seed)


def build_data(cfg: DictConfig, vae: VAE) -> DataModule:
    """The data in the coordinates of the VAE's representation, which the data's `setup` fits."""
    return DataModule(
        source_of(cfg),
        vae.representation,
        batch_size=cfg.batch_size,
        dequantise=cfg.dequantise,
        epochs_per_noise=cfg.epochs_per_noise,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
        cache=cache_folder(cfg),
        memory_map=cfg.memory_map,
    )


def build_trainer(cfg: DictConfig, folder: RunFolder, place: Place | None = None) -> L.Trainer:
    """Lightning's Trainer, writing into the run's folder alone. Of several for one run, the first is watched."""
    num = num_ranks(cfg.trainer.devices, cfg.trainer.strategy, cfg.batch_size)
    place, logger = place or Place(0, num), instantiate(cfg.logger, _convert_="all")
    watchers = {name for name in cfg.callbacks if f"callbacks.{name}" in runs.NOT_IDENTITY} if place.rank else set()
    callbacks = [instantiate(node, _convert_="all") for name, node in cfg.callbacks.items() if name not in watchers]
    # Any weights may be without a gradient, as in a mean's warm-up; no buffer ever differs between the processes.
    ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    return instantiate(
        cfg.trainer,
        strategy=ddp if num > 1 else "auto",
        default_root_dir=folder.path,
        logger=[*([] if place.rank else [logger(save_dir=folder.path)]), History(folder.path / "history.csv")],
        callbacks=[*callbacks, *checkpoints(folder, cfg)],
        # The plain environment: SLURM's would leave in mid-epoch and requeue by itself; see interruption.py.
        plugins=[place, WholeCheckpoints(folder), *([WholeBatchLayers()] if num > 1 else [])],
        enable_progress_bar=not place.rank,  # callbacks.Progress
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # nothing is logged per step: this only keeps a warning about short epochs away
        _convert_="all",
    )


def checkpoints(folder: RunFolder, cfg: DictConfig) -> list[Callback]:
    """last.ckpt is written when an epoch has wholly ended: the continuation begins with the next one."""
    common = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    at_epoch_end, every_n = is_of_training(cfg.monitor), cfg.checkpoint_every_n_epochs
    best = {"filename": "best", "monitor": cfg.monitor, "save_weights_only": True}
    return [
        Best(**common, **best, save_on_train_epoch_end=at_epoch_end),
        Last(**common, filename="last", every_n_epochs=every_n, save_on_train_epoch_end=True),
    ]


def cache_folder(cfg: DictConfig) -> Path:
    return Path(cfg.cache).expanduser() if cfg.cache else Path(pooch.os_cache("svhn-vae"))


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
        raise ValueError(f"{config} is damaged: {one_line(error.__cause__ or error)}") from None
    load_best(vae, folder)
    load_representation(vae, folder)
    return vae.eval()


def trusted(config: Path, *groups: str) -> DictConfig:
    """A run's configuration, after a look at those groups of it: it may be a stranger's, and building calls what it
    names. Raises ValueError if that is no class of svhn_vae, or if the file is damaged."""
    try:
        cfg = OmegaConf.load(config)
        resolved = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    except OSError:
        raise
    except Exception as error:  # whatever a parser makes of any bytes
        raise ValueError(f"{config} is damaged: {' '.join(str(error).split())[:200]}") from None
    for group, content in resolved.items():
        for key, value in [("_target_", content.get("_target_")), *leaves(content)]:
            if key == "_target_" and not is_own_class(value):
                raise ValueError(f"{config}: {group} must be a class of svhn_vae, got {value}")
            if "${" in str(value):  # hidden from the look by an escape
                raise ValueError(f"{config}: {group} must hold plain values, got {value}")
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
    """Whether it is a class of svhn_vae, and not what one of its modules imports, as svhn_vae.atomic.os.system."""
    if not isinstance(target, str) or not target.startswith("svhn_vae."):
        return False
    try:
        return get_class(target).__module__.startswith("svhn_vae.")
    except Exception:  # there is none of this name
        return False


def load_judge(dataset: Dataset, cache: Path) -> Judge:
    """The data set's judge with the settings of conf/judge.yaml: the one kept in the cache folder, or trained now."""
    settings = instantiate(OmegaConf.load(CONF / "judge.yaml").judge)
    return judge_once(dataset, settings, cache, "cuda" if torch.cuda.is_available() else "cpu")


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
            raise ValueError(f"data_root={data_root} is for images from files, and {path} ran on {cfg._target_}")
        cfg.root = data_root
    try:
        source = instantiate(cfg, _convert_="all")
    except InstantiationException as error:
        raise ValueError(f"{path}: its configuration is damaged: {one_line(error.__cause__ or error)}") from None
    dataset, expected = load_once(source), folder.result["data"]["digest"]
    if dataset.digest != expected and not other_images:
        raise ValueError(f"{path} ran on other images (data {expected}, found {dataset.digest}): set data_root=FOLDER")
    return dataset
