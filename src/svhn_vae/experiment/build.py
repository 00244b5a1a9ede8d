"""From a configuration to objects: each group names one class, the wiring is Python.

`_target_` is read at the top of a group alone, and never below it: what is nested stays a plain value.
"""

import contextlib
import functools
import importlib.util
import inspect
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L  # noqa: N812  its usual name
import pooch
import torch
from hydra.utils import get_class
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from svhn_vae.data.batches import Batching
from svhn_vae.data.module import DataModule
from svhn_vae.data.sources import Dataset, Mapped, Source, load_once
from svhn_vae.errors import UserError, did_you_mean, how_to_install
from svhn_vae.evaluation.judge import Judge, judge_once, why_no_judge
from svhn_vae.experiment.configuration import CONF, OUTPUTS, is_of_training, plain
from svhn_vae.experiment.processes import num_processes
from svhn_vae.model.condition import LabelledNetworks, LabelledPrior
from svhn_vae.model.networks import Sizes
from svhn_vae.model.vae import VAE
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import Config
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.training.checkpoints import Best, Last, WholeCheckpoints
from svhn_vae.training.loggers import History
from svhn_vae.training.module import LitVAE

EXTRAS = ("mlflow", "wandb")  # loggers whose library comes with the extra of their name


class Request(NamedTuple):
    """A run that is asked for."""

    cfg: DictConfig
    choices: dict[str, str]  # group -> file
    folder: RunFolder
    shown: Sequence[str] = ()  # the settings by which TensorBoard tells runs apart


class Job(NamedTuple):
    """Everything of a run, built."""

    request: Request
    folder: RunFolder
    config: Config  # resolved, plain
    data: DataModule  # set up
    module: LitVAE
    trainer: L.Trainer


def make(group: str, node: DictConfig, **wired: Any) -> Any:
    """The object of a group: its class with the settings of its file, and what other objects give it.

    Raises UserError for settings that the class lacks, or does not have: an experiment may set them for another.
    """
    settings = checked(group, node)
    build = get_class(node._target_)
    if node.get("_partial_"):
        return functools.partial(build, **settings)
    with naming(group):
        return build(**settings, **wired)


@contextlib.contextmanager
def naming(group: str) -> Iterator[None]:
    """Whose settings they are, noted where a library does not say it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        error.add_note(group)
        raise


def checked(group: str, node: DictConfig) -> dict[str, Any]:
    """The settings of a group, plain, if its class takes them."""
    if node is None:
        raise UserError(f"{group} must be there: leave it away with '~{group}'")
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise UserError(f"{group} must be settings of a class, its _target_, got {node}")
    content: Any = OmegaConf.to_container(node, resolve=True)
    settings = {key: value for key, value in content.items() if key[0] != "_"}
    with naming(f"{group}._target_"):
        chosen = get_class(node._target_)
    parameters = inspect.signature(chosen).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in settings if name not in parameters]
    if unknown and not takes_any:
        named = ", ".join(f"{group}.{name}" for name in unknown)
        raise UserError(
            f"{named}: the chosen {group} ({chosen.__name__}) has no such setting"
            f"{did_you_mean(unknown[0], parameters) or ', and an experiment or override sets it for another'}; "
            f"leave it away with '~{group}.{unknown[0]}', or choose another {group}"
        )
    return settings


def try_build(cfg: DictConfig) -> LitVAE:
    """Builds all of a run but its data, in no time and memory; raises what is wrong with it."""
    make("data", cfg.data)
    with torch.device("meta"):
        module = build_module(cfg)
        with naming("optimizer"):
            module.configure_optimizers()
    check_together(cfg, module.vae)
    build_data(cfg, module.vae)
    check_loggers(cfg)
    build_trainer(cfg, RunFolder(OUTPUTS / "not written"), [])
    return module


def check_together(cfg: DictConfig, vae: VAE) -> None:
    """Raises UserError for settings of which each is right, and that do not go together."""
    if cfg.batch_size == 1 and any(isinstance(part, nn.BatchNorm1d) for part in vae.modules()):
        raise UserError("batch_size must be 2 or more with batch normalisation, got 1: or use model.normalisation=none")
    stopping = "callbacks.early_stopping.monitor"
    for key, monitor in (("monitor", cfg.monitor), (stopping, OmegaConf.select(cfg, stopping))):
        if not vae.variance.is_density and str(monitor).endswith("bits_per_dim"):
            name = type(vae.variance).__name__
            raise UserError(f"{key}={monitor} needs a density of pixels, and variance={name} is none: use post_loss")
    if cfg.ema is not None and cfg.trainer.strategy == "ddp":
        raise UserError("ema must be null with trainer.strategy=ddp: it would begin before the basis is shared")
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    if cfg.compile and not any(shutil.which(compiler) for compiler in compilers if compiler):
        raise UserError("compile=true needs a C++ compiler, and there is none: install g++, or set CXX")


def check_memory(module: LitVAE) -> None:
    """Raises UserError for weights that this machine cannot hold with their gradients."""
    num = sum(parameter.numel() for parameter in module.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if torch.cuda.is_available():
        memory = max(memory, torch.cuda.get_device_properties(0).total_memory)
    if 8 * num > memory:
        raise UserError(
            f"the model has {num:,} weights, which take {8 * num / 1e9:,.0f} GB with their gradients, more than this "
            f"machine's {memory / 1e9:,.0f} GB: lower network_scale, or the model's widths"
        )


def load_data(cfg: DictConfig) -> Dataset:
    """The run's images, loaded once per process."""
    return load_once(source_of(cfg))


def source_of(cfg: DictConfig) -> Source | Mapped:
    source = make("data", cfg.data)
    return Mapped(source, cache_folder(cfg)) if cfg.memory_map else source


def build_job(request: Request) -> Job:
    """A whole run, its data loaded and its representation fitted. Raises what is wrong with either, in a line."""
    cfg, folder = request.cfg, request.folder
    module = build_module(cfg)
    trainer = build_trainer(cfg, folder, build_loggers(cfg, folder))
    data = build_data(cfg, module.vae)
    data.setup()
    if rank_zero_only.rank == 0:  # and gives the others what it starts with: see LitVAE
        module.vae.prior.start(data.evaluation.seen)
        module.vae.variance.start(data.evaluation.seen)
    return Job(request, folder, plain(cfg), data, module, trainer)


def build_vae(cfg: DictConfig, image_shape: Sequence[int] | None = None, num_labels: int | None = None) -> VAE:
    """An untrained VAE, its representation not yet fitted; the same weights for the same seed.

    image_shape: (C, H, W); None: that of the configuration's data, and so of num_labels where it is conditional.
    """
    image_shape = image_shape or make("data", cfg.data).image_shape
    num_labels = (num_labels or count_labels(cfg)) if get_class(cfg.condition._target_).needs_labels else 0
    torch.manual_seed(derive_seed(Stream.WEIGHTS, cfg.seed))
    representation = make("pca", cfg.pca, image_shape=image_shape)
    variance = make("variance", cfg.variance, event_shape=representation.event_shape)
    sizes = Sizes(representation.event_shape, variance.params_per_element, representation.residual.params_per_image)
    networks = make("model", with_labels(cfg.model, num_labels), sizes=sizes)
    if num_labels:
        networks = LabelledNetworks(networks, num_labels)
        prior = LabelledPrior([make("prior", cfg.prior, networks=networks) for _ in range(num_labels)])
    else:
        prior = make("prior", cfg.prior, networks=networks)
    wired = {"representation": representation, "networks": networks, "variance": variance, "prior": prior}
    return make("condition", cfg.condition, **wired)


def count_labels(cfg: DictConfig) -> int:
    """Raises UserError where the images have none."""
    with torch.device("cpu"):
        found = make("data", cfg.data).num_labels
    if found < 2:
        raise UserError(f"condition=digit needs images of two labels or more, got {found}: use condition=none")
    return found


def with_labels(model: DictConfig, num_labels: int) -> DictConfig:
    """The settings of networks whose decoder is told one of so many labels; 0: as they are."""
    if num_labels and "latent_dim" in model:
        return OmegaConf.merge(model, {"latent_dim": model.latent_dim + num_labels})  # pyright: ignore[reportReturnType]
    return model


def build_module(cfg: DictConfig) -> LitVAE:
    vae = build_vae(cfg)
    return LitVAE(
        vae,
        make("optimizer", cfg.optimizer),
        make("objective", cfg.objective),
        make("skips", cfg.skips),
        make("schedule", cfg.schedule),
        seed=cfg.seed,
        clip=cfg.trainer.gradient_clip_val,
        compile_mode=cfg.compile_mode if cfg.compile else None,
    )


def build_data(cfg: DictConfig, vae: VAE) -> DataModule:
    """The data in the coordinates of the VAE's representation, which the data's `setup` fits."""
    batching = Batching(
        batch_size=cfg.batch_size,
        per_step=1 if is_one_per_step(cfg) else cfg.updates_per_step,
        augmentation=make("augmentation", cfg.augmentation),
        add_noise=cfg.dequantise,
        epochs_per_noise=cfg.epochs_per_noise,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
    )
    places = {"cache": cache_folder(cfg), "fit_device": fit_device(cfg)}
    return DataModule(source_of(cfg), vae.representation, batching, labels=cfg.labels, **places)


def is_one_per_step(cfg: DictConfig) -> bool:
    """limit_train_batches limits steps, ddp averages the gradients of a step's first update alone, and Lightning
    averages weights after each step."""
    is_limited = cfg.trainer.limit_train_batches != 1.0 or cfg.ema is not None
    return is_limited or cfg.trainer.devices * cfg.trainer.num_nodes > 1


def fit_device(cfg: DictConfig) -> torch.device:
    """The GPU of a run that has one; of several devices none: they are for the processes that train on them. Raises
    UserError where the settings name a GPU and there is none."""
    name, there_is = cfg.trainer.accelerator, torch.cuda.is_available()
    if name in ("gpu", "cuda") and not there_is and not (name == "gpu" and torch.backends.mps.is_available()):
        raise UserError(f"trainer.accelerator={name} needs a GPU, and torch finds none: use auto, or cpu")
    is_wanted = name in ("auto", "gpu", "cuda") and cfg.trainer.strategy != "ddp"
    return torch.device("cuda" if is_wanted and there_is else "cpu")


def check_loggers(cfg: DictConfig) -> None:
    """Raises UserError for settings that a logger does not have, and for libraries that are not installed. A logger
    itself is not built before its run begins, because some make files."""
    for name, node in loggers_of(cfg).items():
        checked(f"logger.{name}", node)
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise UserError(f"logger={name} needs {name}: {how_to_install(name)}, or logger=tensorboard")


def build_loggers(cfg: DictConfig, folder: RunFolder) -> list[Logger]:
    loggers = loggers_of(cfg).items()
    return [make(f"logger.{name}", node)(save_dir=folder.path) for name, node in loggers]


def loggers_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """By the names of their files; {} where ~logger left them away."""
    return dict(cfg.logger) if "logger" in cfg else {}


def build_trainer(cfg: DictConfig, folder: RunFolder, loggers: list[Logger]) -> L.Trainer:
    """Lightning's Trainer, writing into the run's folder alone."""
    settings = checked("trainer", cfg.trainer)
    num, on_gpu = num_processes(settings, cfg.batch_size), cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    callbacks = [make(f"callbacks.{name}", node) for name, node in cfg.callbacks.items()]
    if cfg.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg.ema))
    # Any weights may be without a gradient, where a head takes no parameters of images. Buffers are the basis, too:
    # those that differ are shared before validations, see LitVAE.
    ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    wired: dict[str, Any] = {
        "strategy": ddp if num > 1 else "auto",
        "sync_batchnorm": num > 1 and on_gpu and torch.cuda.is_available(),
        "gradient_clip_val": None,  # the module clips: it makes the updates
        "default_root_dir": folder.path,
        "logger": loggers,
        "callbacks": [*callbacks, History(folder.path / "history.csv"), *checkpoints(folder, cfg)],
        # One process has the plain environment: SLURM's would requeue by itself, see interruption.py.
        "plugins": [WholeCheckpoints(folder), *([LightningEnvironment()] if num == 1 else [])],
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,  # nothing is logged per step: this only keeps a warning about short epochs away
    }
    with naming("trainer"):
        return L.Trainer(**(settings | wired))


def checkpoints(folder: RunFolder, cfg: DictConfig) -> list[Callback]:
    """last.ckpt is written when an epoch has wholly ended: the continuation begins with the next one."""
    best = Best(
        dirpath=folder.checkpoints,
        filename="best",
        monitor=cfg.monitor,
        save_weights_only=cfg.ema is None,  # else Lightning keeps the weights themselves, not their average
        save_on_train_epoch_end=is_of_training(cfg.monitor),
        enable_version_counter=False,
    )
    return [best, Last(folder.last_checkpoint, every_n_epochs=cfg.checkpoint_every_n_epochs)]


def cache_folder(cfg: DictConfig) -> Path:
    """Where images, bases and judges are kept. Raises UserError where the user's home folder is not known."""
    folder = os.path.expanduser(cfg.cache or str(pooch.os_cache("svhn-vae")))
    if folder.startswith("~"):
        also = "" if "data_root" in cfg else " and data.root=FOLDER"  # evaluate has the first
        raise UserError(f"the home folder of {folder} is not known: set HOME, or cache=FOLDER{also}")
    return Path(folder)


def load_judge(cfg: DictConfig, dataset: Dataset) -> Judge | None:
    """The data set's judge with the settings of conf/judge.yaml: kept in the cache folder, or trained now. None, and a
    line that says why, where its labels make none."""
    if reason := why_no_judge(dataset):
        print(f"  samples are not judged: {reason}", flush=True)
        return None
    settings = make("judge", OmegaConf.load(CONF / "judge.yaml").judge)
    return judge_once(dataset, settings, cache_folder(cfg), fit_device(cfg))
