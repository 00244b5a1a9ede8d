"""From a configuration to objects. Hydra makes the leaves, the wiring is Python; no DictConfig leaves this file."""

import re
import time
from pathlib import Path

import lightning as L  # noqa: N812  its usual name
import pooch
import torch
from hydra.experimental.callback import Callback as HydraCallback
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from svhn_vae import runs
from svhn_vae.data.module import DataModule
from svhn_vae.job import Job
from svhn_vae.lit import NUM_DIMS, LitVAE
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs import RunFolder
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.storage import load_best, load_representation
from svhn_vae.vae import VAE

IMAGE_SHAPE = (3, 32, 32)
CONF = Path(__file__).parents[2] / "conf"
assert torch.Size(IMAGE_SHAPE).numel() == NUM_DIMS


def register_resolvers() -> None:
    """What the YAML files compute: `scaled` widths, the run's folder name, the text of --help."""
    for name, resolver in {"scaled": scaled, "run_name": _run_name, "train_help": lambda: help_text(CONF)}.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def scaled(size: int, *, _root_: DictConfig) -> int:
    """A width times network_scale, at least 1."""
    return max(1, round(int(size) * _root_.network_scale))


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


def build_job(cfg: DictConfig, chosen: dict[str, str], folder: RunFolder) -> Job:
    """A whole run, its data loaded and its representation fitted. Raises what is wrong with either, in a line."""
    module = build_module(cfg)
    trainer = build_trainer(cfg, folder)
    data = build_data(cfg, module.vae)
    data.setup()
    return Job(folder, plain(cfg), chosen, data, module, trainer)


def build_vae(cfg: DictConfig) -> VAE:
    """An untrained VAE, its representation not yet fitted; the same weights for the same seed."""
    torch.manual_seed(derive_seed(Stream.WEIGHTS, cfg.seed))
    representation = instantiate(cfg.pca, image_shape=IMAGE_SHAPE)
    variance = instantiate(cfg.variance, event_shape=representation.event_shape, _convert_="all")
    networks = instantiate(
        cfg.model,
        event_shape=representation.event_shape,
        params_per_element=variance.params_per_element,
        params_per_image=representation.residual.params_per_image,
    )
    return VAE(representation, networks, variance)


def build_module(cfg: DictConfig) -> LitVAE:
    vae = build_vae(cfg)
    if cfg.compile:
        vae.networks.encode = torch.compile(vae.networks.encode)
        vae.networks.decode = torch.compile(vae.networks.decode)
    return LitVAE(vae, instantiate(cfg.optimizer, _convert_="all"), seed=cfg.seed)


def build_data(cfg: DictConfig, vae: VAE) -> DataModule:
    """The data in the coordinates of the VAE's representation, which the data's `setup` fits."""
    return DataModule(
        instantiate(cfg.data, _convert_="all"),
        vae.representation,
        batch_size=cfg.batch_size,
        epochs_per_noise=cfg.epochs_per_noise,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
        cache=cache_folder(cfg),
    )


def build_trainer(cfg: DictConfig, folder: RunFolder) -> L.Trainer:
    """Lightning's Trainer, writing into the run's folder alone."""
    if cfg.trainer.devices not in (1, "1"):
        raise ValueError(f"trainer.devices must be 1, got {cfg.trainer.devices}: start one run per device")
    logger = instantiate(cfg.logger, _convert_="all")
    return instantiate(
        cfg.trainer,
        default_root_dir=folder.path,
        logger=logger(save_dir=folder.path),
        callbacks=[*instantiate(cfg.callbacks, _convert_="all").values(), *checkpoints(folder, cfg.monitor)],
        enable_progress_bar=True,  # callbacks.Progress
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # nothing is logged per step: this only keeps a warning about short epochs away
        _convert_="all",
    )


def checkpoints(folder: RunFolder, monitor: str) -> list[Callback]:
    """best.ckpt, weights alone, and last.ckpt, to continue from; each after a validation."""
    common = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    best = ModelCheckpoint(**common, filename="best", monitor=monitor, mode="min", save_weights_only=True)
    return [best, ModelCheckpoint(**common, filename="last")]


def cache_folder(cfg: DictConfig) -> Path:
    return Path(cfg.cache).expanduser() if cfg.cache else Path(pooch.os_cache("svhn-vae"))


def load_run(path: str | Path) -> VAE:
    """The finished run in a folder, wherever it was moved: its best weights, on the CPU, in evaluation mode.

    Raises FileNotFoundError if the folder holds no run with a best checkpoint. Runs no code from the files: YAML
    that names the classes, safetensors, and a checkpoint read with weights_only.
    """
    register_resolvers()
    folder = RunFolder(Path(path))
    config = folder.path / ".hydra" / "config.yaml"
    for needed in (config, folder.representation, folder.best_checkpoint):
        if not needed.is_file():
            raise FileNotFoundError(f"{path} is not a finished run: there is no {needed.relative_to(folder.path)}")
    vae = build_vae(OmegaConf.load(config))
    load_best(vae, folder)
    load_representation(vae, folder)
    return vae.eval()


def help_text(conf: Path) -> str:
    """The text of --help: the groups and their choices, each with the first comment of its file."""
    lines = ["Trains VAEs on house numbers, tests them, and compares them in bits per dimension.", ""]
    lines += [f"  {command}" for command in COMMON_COMMANDS]
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        lines += ["", f"{group.name}="]
        lines += [f"  {path.stem:<16}{described(path)}" for path in sorted(group.glob("*.yaml"))]
    lines += ["", "Every value of a chosen file can be set, too: variance.epsilon=0.001. All of them: --cfg job"]
    return "\n".join(lines)


COMMON_COMMANDS = (
    "python src/train.py                                     the post's network on SVHN, downloaded if missing",
    "python src/train.py trainer=demo data=synthetic         a run of a minute on any machine",
    "python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true      all combinations",
    "python src/train.py data.root=FOLDER data.verify=none   your own .mat files",
    "python src/train.py study=NAME ...                      collect runs in outputs/NAME",
    "python src/train.py ... seed=0,1,2 -m                   the same over seeds",
    "tensorboard --logdir outputs                            watch",
)


def described(path: Path) -> str:
    """The first comment of a YAML file that says something to a person."""
    comments = re.findall(r"^# (?!@package)(.*)$", path.read_text(), re.MULTILINE)
    return comments[0] if comments else ""


class StudyTable(HydraCallback):
    """At the end of a run or a sweep: the table of its study; exit code 1 if one of its runs failed."""

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        self._start = time.time()

    on_multirun_start = on_run_start

    def on_run_end(self, config: DictConfig, **kwargs: object) -> None:
        study = Path("outputs") / config.study
        print_study(study, wide_console())
        if any(log.stat().st_mtime >= self._start for log in study.glob("*/error.log")):
            raise SystemExit(1)

    on_multirun_end = on_run_end
