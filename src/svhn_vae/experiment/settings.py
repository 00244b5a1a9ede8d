"""What a setting may be: there, of its default's type, a number that counts, one of few words. All before any data."""

import re
from pathlib import PurePath
from typing import Any

import numpy as np
from omegaconf import DictConfig

from svhn_vae.errors import UserError, did_you_mean
from svhn_vae.experiment.configuration import OUTPUTS, is_of_training
from svhn_vae.report.hypotheses import parse
from svhn_vae.runs.identity import Config, flatten

MONITORS = tuple(
    f"{split}/{name}"
    for split in ("val", "train")
    for name in ("negative_elbo", "bits_per_dim", "post_loss", "objective")
)
ONE_OF = {
    "compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "trainer.precision": ("32-true", "bf16-mixed"),
    "trainer.strategy": ("auto", "ddp"),
    "monitor": MONITORS,
    "callbacks.early_stopping.monitor": MONITORS,
    "impossible": ("refuse", "skip"),
    "on_error": ("continue", "stop"),
}
AT_LEAST = {
    "batch_size": 1, "checkpoint_every_n_epochs": 1, "epochs_per_noise": 1, "updates_per_step": 1,
    "trainer.max_epochs": 1, "trainer.check_val_every_n_epoch": 1, "callbacks.pictures.every_n_validations": 1,
    "callbacks.order_of_learning.times_per_doubling": 1,
}  # fmt: skip
ABOVE_0 = ("network_scale", "trainer.limit_train_batches", "trainer.gradient_clip_val", "skips.max_gradient_norm")
AT_MOST = {  # patterns -> what no run of this framework needs, and some machine would try for hours
    r"model\.(num_|.*depth).*": 1000,
    r".*\.num_bands|variance\.(rank|num_mixtures)|.*times_per_doubling": 3072,
    r"iw_samples|updates_per_step|data\.drawing_seed": 1_000_000,
    r"data\.num_(train|test)": 10_000_000,
    r".*": 2**53,  # where floating-point numbers stop telling whole ones apart
}
# What null stands for, of settings whose default it is.
NULLABLE: dict[str, type | tuple[type, ...]] = {
    "trainer.gradient_clip_val": (int, float), "skips.max_gradient_norm": (int, float), "data.limit": (int, float),
    "updates_per_step": int, "cache": str, "data.root": str, "question": str, "trainer.profiler": str,
}  # fmt: skip
# Of Lightning's Trainer: what runs are made for, besides what trainer=default has.
SUPPORTED = ("max_steps", "max_time", "deterministic", "benchmark", "num_nodes", "sync_batchnorm")
FREE = ("study", "hypotheses")  # checked by what reads them


def check_keys(cfg: DictConfig, known: DictConfig) -> None:
    """Raises UserError for settings at the root that nothing reads, which a file may add, and for those left away."""
    for key in cfg:
        if key not in known:
            raise UserError(f"{key} is no setting{did_you_mean(str(key), map(str, known))}")
    for key in known:
        if key not in cfg:
            raise UserError(f"{key} must be there: it cannot be left away")


def check(settings: Config, defaults: Config) -> None:
    """Raises UserError, in a line, for what was typed or written in a file and cannot be meant.

    settings: resolved. defaults: dotted key -> value, of the chosen files with nothing else typed.
    """
    check_values(settings, defaults)
    values = flatten(settings)
    for key, value in values.items():
        if key.startswith("trainer.") and key not in defaults and key.removeprefix("trainer.") not in SUPPORTED:
            raise UserError(f"{key} is no setting of a run{did_you_mean(key, defaults)}")
        if value is not None and key in AT_LEAST and value < AT_LEAST[key]:
            raise UserError(f"{key} must be {AT_LEAST[key]} or more, got {value}")
        if value is not None and key in ABOVE_0 and not value > 0:
            raise UserError(f"{key} must be above 0, got {value}")
        if key in ONE_OF and value not in ONE_OF[key]:
            raise UserError(f"{key} must be one of {', '.join(ONE_OF[key])}, got {value}")
    every_n, last = values["trainer.check_val_every_n_epoch"], values["trainer.max_epochs"]
    if every_n > last:
        raise UserError(
            f"trainer.check_val_every_n_epoch must be in 1..{last}, trainer.max_epochs, so that a run validates at "
            f"least once, got {every_n}"
        )
    stopping, when = settings["callbacks"].get("early_stopping"), "callbacks.early_stopping.check_on_train_epoch_end"
    if stopping and stopping["check_on_train_epoch_end"] != is_of_training(stopping["monitor"]):
        raise UserError(f"{when} must be {str(is_of_training(stopping['monitor'])).lower()} with its monitor")
    check_study(settings["study"])
    if not isinstance(settings["hypotheses"], list):
        raise UserError(f"hypotheses must be a list, got {settings['hypotheses']}")
    for hypothesis in settings["hypotheses"]:
        parse(hypothesis)


def check_values(settings: Config, defaults: Config) -> None:
    """Raises UserError for a setting that is missing, of another type than its default's, or no number that counts.

    YAML takes any word for a text, and Python takes any text for true: pca.whiten=maybe would whiten.
    """
    values = flatten(settings)
    for key, default in defaults.items():
        if key not in values and not _is_in_deleted_callback(settings, key):
            raise UserError(f"{key} must be there, {in_words(key, default)}: it cannot be left away")
    for key, value in values.items():
        if key in FREE or key.split(".")[0] in FREE:
            continue
        if key in defaults and not fits(key, value, defaults[key]):
            raise UserError(f"{key} must be {in_words(key, defaults[key])}, got {value}")
        for number in value if isinstance(value, list) else [value]:
            check_size(key, number, may_be_negative=_has_negative(defaults.get(key)) or key.endswith(".min_delta"))


def check_size(key: str, number: Any, *, may_be_negative: bool) -> None:
    """Raises UserError for inf, NaN, what float32 cannot hold, numbers below 0 and counts beyond any use."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(f"{key} must be a number that float32 can hold, got {number}")
    if number < 0 and not may_be_negative:
        raise UserError(f"{key} must be 0 or more, got {number}")
    most = next(most for pattern, most in AT_MOST.items() if re.fullmatch(pattern, key))
    if isinstance(number, int) and number > most:
        raise UserError(f"{key} must be at most {most:,}, got {number}")


def check_study(name: Any) -> None:
    """Raises UserError if it is no name, or names, inside outputs/: nor by way of a link."""
    path = PurePath(str(name))
    is_name = isinstance(name, str | int | float) and path.parts and str(name).isprintable() and not path.is_absolute()
    if not is_name or any(part.startswith(".") for part in path.parts):
        raise UserError(f"study must be a name under outputs/, such as heads or claims/01, got {name}")
    if not (OUTPUTS / path).resolve().is_relative_to(OUTPUTS.resolve()):
        raise UserError(f"study must be a name under outputs/: {OUTPUTS / path} is a link to elsewhere")


def fits(key: str, value: Any, default: Any) -> bool:
    """Whether a value has the type of the default; where that is null, one of NULLABLE, or any."""
    if default is None:
        kind = NULLABLE.get(key, object)
        return value is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not object))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int | float):
        return isinstance(value, int) or (isinstance(value, float) and isinstance(default, float))
    if isinstance(default, list):
        return isinstance(value, list) and all(fits(key, each, default[0]) for each in value if default)
    return isinstance(value, str)


def in_words(key: str, default: Any) -> str:
    if default is None:
        kind = NULLABLE.get(key, object)
        return {str: "a text or null", int: "a whole number or null", object: "a value"}.get(kind, "a number or null")
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    return f"a list such as {default}" if isinstance(default, list) else "a text"


def _is_in_deleted_callback(settings: Config, key: str) -> bool:
    group, _, rest = key.partition(".")
    return group == "callbacks" and isinstance(settings.get(group), dict) and rest.split(".")[0] not in settings[group]


def _has_negative(default: Any) -> bool:
    numbers = default if isinstance(default, list) else [default]
    return any(isinstance(number, int | float) and number < 0 for number in numbers)
