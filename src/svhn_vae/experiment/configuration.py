"""What Hydra composes from conf/, and what of it is a run's: plain values, choices, defaults, its name."""

import functools
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from svhn_vae.errors import UserError
from svhn_vae.runs.identity import Config, flatten, run_name
from svhn_vae.runs.installation import CONF, as_typed

OUTPUTS = Path("outputs")
OVERRIDES_ALONE = ("experiment",)  # groups whose files set values of others, and are nothing themselves
COMMON_COMMANDS = (
    "python src/train.py                                     the post's network on SVHN, downloaded if missing",
    "python src/train.py trainer=demo data=synthetic         a run of a minute on any machine",
    "python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true      all combinations; -m comes first",
    "python src/train.py -m seed=0,1,2 ...                   the same over seeds",
    "python src/train.py -m hydra/launcher=joblib hydra.launcher.n_jobs=4 ...   four runs at a time, in processes",
    "python src/train.py data.root=FOLDER data.verify=none   your own .mat files",
    "python src/train.py study=NAME ...                      collect runs in outputs/NAME",
    "tensorboard --logdir outputs                            watch",
)


def register_resolvers() -> None:
    """What the YAML files compute: widths, what a metric is of, the run's folder name, the text of --help."""
    resolvers = {
        "scaled": scaled,
        "is_of_training": is_of_training,
        "run_name": lambda *, _root_: recognised(_root_).name,
        "train_help": help_text,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def scaled(size: int, *, _root_: DictConfig) -> int:
    """A width times network_scale, at least 1."""
    scale = _root_.network_scale
    if isinstance(scale, str) or not 0 < scale < math.inf:
        raise UserError(f"network_scale must be a number above 0, got {scale}")
    return max(1, round(int(size) * scale))


def is_of_training(metric: str) -> bool:
    """Such a metric is there when an epoch has wholly ended, the others after a validation."""
    return metric.startswith("train/")


@contextmanager
def composing() -> Iterator[None]:
    """Hydra ready to compose as in src/train.py."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name="train"):
        yield


def without_hydras(cfg: DictConfig) -> DictConfig:
    """A copy of the configuration without Hydra's own part."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def plain(cfg: DictConfig, *, resolve: bool = True) -> Config:
    """The configuration without Hydra's own part, as plain dicts and lists."""
    return OmegaConf.to_container(without_hydras(cfg), resolve=resolve)  # pyright: ignore[reportReturnType]


def choices(hydra_cfg: Any) -> dict[str, str]:
    """Group -> the file chosen in it, from Hydra's own part of the configuration."""
    chosen: Any = OmegaConf.to_container(hydra_cfg.runtime.choices)
    return {group: choice for group, choice in chosen.items() if "/" not in group and choice and "@" not in group}


class Recognised(NamedTuple):
    """What a composed configuration is."""

    settings: Config  # resolved, plain
    defaults: Config  # dotted key -> value, of the chosen files with nothing else given
    name: str  # of the run: see runs/identity.py


def recognised(cfg: DictConfig) -> Recognised:
    """`cfg` has Hydra's part."""
    chosen = extended_choices(cfg)
    name = cfg.hydra.job.config_name
    name = name if (CONF / f"{name}.yaml").is_file() else "train"  # somebody's own extends it
    words = tuple(f"{group}={choice}" for group, choice in chosen.items())
    shipped = shipped_files(name, words, tuple(cfg.hydra.searchpath))
    settings, defaults = plain(cfg), expected(cfg, shipped)
    default_choices = extended_choices(shipped_files(name, (), ()))
    try:
        name = run_name(settings, chosen, defaults, default_choices)
    except KeyError:  # of a setting that is left away, which is refused elsewhere
        name = ""
    return Recognised(settings, defaults, name)


def extended_choices(cfg: DictConfig) -> dict[str, str]:
    """Group -> the file that its choice extends, or the choice."""
    chosen = {group: extended(group, choice) for group, choice in choices(cfg.hydra).items()}
    return {group: choice for group, choice in chosen.items() if group not in OVERRIDES_ALONE}


@functools.cache
def extended(group: str, choice: str) -> str:
    """The file of the same group that a preset extends, by its defaults list; else the choice itself."""
    path = CONF / group / f"{choice}.yaml"
    file: Any = OmegaConf.load(path) if path.is_file() else {}
    entries = file.get("defaults", [])
    names = [entry.partition("@")[0] for entry in entries if isinstance(entry, str) and entry != "_self_"]
    return extended(group, names[0]) if names else choice


@functools.cache
def shipped_files(name: str, chosen: tuple[str, ...], searchpath: tuple[str, ...]) -> DictConfig:
    """The configuration of these choices, with nothing else given."""
    words = [*chosen, *([f"hydra.searchpath=[{','.join(map(repr, searchpath))}]"] if searchpath else [])]
    if GlobalHydra.instance().is_initialized():
        return compose(name, words, return_hydra_config=True)
    with composing():
        return compose(name, words, return_hydra_config=True)


def expected(cfg: DictConfig, shipped: DictConfig) -> Config:
    """The shipped values, flat. What is computed in them, as widths are, is computed from the values of `cfg`."""
    mixed = OmegaConf.create(plain(cfg, resolve=False))
    found: Config = {}
    for key, value in flatten(plain(shipped, resolve=False)).items():
        if isinstance(value, str) and "${" in value:
            try:
                OmegaConf.update(mixed, key, value, force_add=True)
                value = OmegaConf.select(mixed, key)
            except OmegaConfBaseException:  # of a value that is refused elsewhere
                continue
        found[key] = value
    return found


def help_text() -> str:
    """The text of --help: the groups and their choices, each with the first comment of its file."""
    lines = ["Trains VAEs on house numbers, tests them, and compares them in bits per dimension.", ""]
    lines += [f"  {command}" for command in COMMON_COMMANDS]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir()):
        lines += ["", f"{group.name}="]
        lines += [f"  {path.stem:<22}{described(path)}" for path in sorted(group.glob("*.yaml"))]
    lines += ["", "Every value of a chosen file can be set, too: variance.epsilon=0.001. All of them: --cfg job"]
    return as_typed("\n".join(lines))


def described(path: Path) -> str:
    """The first comment of a YAML file that says something to a person."""
    comments = re.findall(r"^# (?!@package)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return comments[0] if comments else ""


def quiet() -> None:
    """Leaves out what libraries say about choices that are made here on purpose, for the rest of this process."""
    threading.excepthook = tell_of_thread
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells that its cache is built
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # what it logs as an error, it raises as well
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")  # Lightning on torch 2.13
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")  # torch 2.13
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")  # joblib's has grown
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


def tell_of_thread(args: threading.ExceptHookArgs) -> None:
    """An OSError of TensorBoard's thread is left out, because the logger's next write raises it as well."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)
