"""What a person at the command line gets besides a run: the help, checks of what was typed, the table at the end."""

import re
import shlex
import sys
import time
from pathlib import Path, PurePath
from typing import Any

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs import flatten
from svhn_vae.study import note_command

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
MONITORED = ("negative_elbo", "bits_per_dim", "post_loss")
MONITORS = tuple(f"{split}/{name}" for split in ("val", "train") for name in MONITORED)
COMMON_COMMANDS = (
    "python src/train.py                                     the post's network on SVHN, downloaded if missing",
    "python src/train.py trainer=demo data=synthetic         a run of a minute on any machine",
    "python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true      all combinations; -m comes first",
    "python src/train.py -m seed=0,1,2 ...                   the same over seeds",
    "python src/train.py data.root=FOLDER data.verify=none   your own .mat files",
    "python src/train.py study=NAME ...                      collect runs in outputs/NAME",
    "tensorboard --logdir outputs                            watch",
)


def check(cfg: DictConfig, overrides: list[str], choices: dict[str, str]) -> None:
    """Raises ValueError for what was typed and cannot be meant, in a line.

    YAML takes any word for a text, and Python takes any text for true: pca.whiten=maybe would whiten.
    """
    chosen = [word for word in overrides if word.split("=")[0].lstrip("+~") in choices]
    defaults = flatten(OmegaConf.to_container(compose("train", chosen), resolve=True))
    for key, value in flatten(OmegaConf.to_container(cfg, resolve=True)).items():
        if key in defaults and not fits(value, defaults[key]):
            raise ValueError(f"{key} must be {in_words(defaults[key])}, got {value}")
    trainer = cfg.trainer
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {trainer.precision}")
    if cfg.monitor not in MONITORS:
        raise ValueError(f"monitor must be one of {', '.join(MONITORS)}, got {cfg.monitor}")
    if not 1 <= trainer.check_val_every_n_epoch <= trainer.max_epochs:
        raise ValueError(
            f"trainer.check_val_every_n_epoch must be in 1..{trainer.max_epochs}, trainer.max_epochs, so that a run "
            f"validates at least once, got {trainer.check_val_every_n_epoch}"
        )
    if cfg.seed < 0:
        raise ValueError(f"seed must be 0 or more, got {cfg.seed}")
    if PurePath(cfg.study).is_absolute() or ".." in PurePath(cfg.study).parts:
        raise ValueError(f"study must be a name under outputs/, got {cfg.study}")


def fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default; where that is null or a text, any will do."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and (isinstance(default, bool) or default is None)
    if isinstance(default, int | float):
        return isinstance(value, int) or (isinstance(value, float) and isinstance(default, float))
    return isinstance(value, list) if isinstance(default, list) else True


def in_words(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    return f"a list such as {default}" if isinstance(default, list) else "a text"


def help_text(conf: Path) -> str:
    """The text of --help: the groups and their choices, each with the first comment of its file."""
    lines = ["Trains VAEs on house numbers, tests them, and compares them in bits per dimension.", ""]
    lines += [f"  {command}" for command in COMMON_COMMANDS]
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        lines += ["", f"{group.name}="]
        lines += [f"  {path.stem:<22}{described(path)}" for path in sorted(group.glob("*.yaml"))]
    lines += ["", "Every value of a chosen file can be set, too: variance.epsilon=0.001. All of them: --cfg job"]
    return "\n".join(lines)


def described(path: Path) -> str:
    """The first comment of a YAML file that says something to a person."""
    comments = re.findall(r"^# (?!@package)(.*)$", path.read_text(), re.MULTILINE)
    return comments[0] if comments else ""


def command() -> str:
    """This process's own, to be typed again."""
    return shlex.join(["python", *sys.argv])


class StudyTable(Callback):
    """Notes the command in its study, and at the end prints the study's table; exit code 1 if a run of it failed."""

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        self._start = time.time()
        hypotheses = OmegaConf.to_container(config.hypotheses, resolve=True)
        note_command(Path("outputs") / config.study, command(), config.question, hypotheses)

    on_multirun_start = on_run_start

    def on_run_end(self, config: DictConfig, **kwargs: object) -> None:
        self._end_if_failed(config)  # it has said why: a table of other runs below would hide it
        print_study(Path("outputs") / config.study, wide_console())

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        print_study(Path("outputs") / config.study, wide_console())
        self._end_if_failed(config)

    def _end_if_failed(self, config: DictConfig) -> None:
        logs = (Path("outputs") / config.study).glob("*/error.log")
        if any(log.stat().st_mtime >= self._start for log in logs):
            raise SystemExit(1)
