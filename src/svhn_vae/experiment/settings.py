"""What a setting may be: there, of its default's type, a number in its range, one of few words. All before any data.

Every command's settings come through here; what only a class knows of its settings, its constructor checks.
"""

import re
from pathlib import PurePath
from typing import Any

import numpy as np
from omegaconf import DictConfig

from svhn_vae.errors import UserError, did_you_mean
from svhn_vae.experiment.configuration import OUTPUTS, is_of_training
from svhn_vae.report.hypotheses import parse
from svhn_vae.runs.identity import Config, flatten

MONITORS = [
    f"{split}/{name}"
    for split in ("val", "train")
    for name in ("negative_elbo", "bits_per_dim", "post_loss", "objective")
]
ONE_OF = {
    "compile_mode": ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
    "trainer.precision": ["32-true", "bf16-mixed"],
    "trainer.strategy": ["auto", "ddp"],
    "trainer.accelerator": ["auto", "cpu", "gpu", "cuda", "mps"],
    "trainer.profiler": ["simple", "advanced", None],
    "monitor": MONITORS,
    "callbacks.early_stopping.monitor": MONITORS,
    "callbacks.early_stopping.mode": ["min"],
    "impossible": ["refuse", "skip"],
    "on_error": ["continue", "stop"],
    "split": ["test", "val"],
    "device": ["auto", "cpu", "cuda"],
}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
NULLABLE = {  # what null, their default, stands for
    "trainer.gradient_clip_val": float, "skips.max_gradient_norm": float, "data.limit": float, "ema": float,
    "updates_per_step": int, "iw_samples": int, "data.size": int, "data.channels": int, "cache": str, "data.root": str,
    "data_root": str, "run": str, "to": str, "question": str, "trainer.profiler": str,
    "trainer.max_time": str,
}  # fmt: skip
FREE = ("study", "hypotheses")  # checked by what reads them
# Least values; all others are 0, but where the default is negative.
ONE_OR_MORE = re.compile(
    r"batch_size|.*_every_n_epochs?|.*every_n_validations|epochs_per_noise|updates_per_step|repeats|trainer\.(max_epochs|devices|num_nodes)"
    r"|.*times_per_doubling|data\.num_(train|test)"
)
ABOVE_0 = re.compile(
    r"network_scale|data\.limit|trainer\.limit_train_batches|trainer\.gradient_clip_val|skips\.max_gradient_norm"
)
ANY_SIGN = re.compile(r".*\.min_delta")
PAIR = re.compile(r".*_range|optimizer\.betas")
AT_MOST = {  # patterns -> what no run of this framework needs, and some machine would try for hours
    r"optimizer\.(momentum|alpha)": 1,  # torch asks for no range
    r"model\.(num_|.*depth).*|network_scale|judge\.width": 1000,
    r".*\.num_bands|variance\.(rank|num_mixtures)|.*times_per_doubling": 3072,
    r"iw_samples|updates_per_step|data\.drawing_seed|sampler_seed|(model|variance|prior)\..*": 1_000_000,
    r"data\.(num_train|num_test|limit)": 10_000_000,
    r".*gradient.*": 2**53,  # a threshold that nothing reaches is one, too
}


def check_keys(cfg: DictConfig, known: DictConfig) -> None:
    """Raises UserError for settings at the root that nothing reads, which a file may add, and for those left away;
    loggers may be."""
    for key in cfg:
        if key not in known:
            raise UserError(f"{key} is no setting{did_you_mean(str(key), map(str, known))}")
    for key in known:
        if key not in cfg and key != "logger":
            raise UserError(f"{key} must be there: it cannot be left away")


def check(settings: Config, defaults: Config) -> None:
    """Raises UserError, in a line, for what was typed or written in a file and cannot be meant, of a run's settings.

    settings: resolved. defaults: dotted key -> value, of the chosen files with nothing else typed.
    """
    check_values(settings, defaults)
    values = flatten(settings)
    for key in values:
        if key.startswith("trainer.") and key not in defaults:
            raise UserError(f"{key} is no setting of a run{did_you_mean(key, defaults)}")
    if not 0 < values["labels"] <= 1:
        raise UserError(f"labels must be a share of the training images, above 0 and up to 1, got {values['labels']}")
    if values["ema"] is not None and not 0 < values["ema"] < 1:
        raise UserError(f"ema must be above 0 and below 1, or null, got {values['ema']}")
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
    """Raises UserError for a setting that is missing, of another type than its default's, out of its range, or none of
    its words.

    YAML takes any word for a text, and Python takes any text for true: pca.whiten=maybe would whiten.
    """
    values = flatten(settings)
    for key, default in defaults.items():
        if key not in values and not _is_in_deleted_entry(settings, key):
            raise UserError(f"{key} must be there, {in_words(key, default)}: it cannot be left away")
    for key, value in values.items():
        if key.split(".")[0] in FREE:
            continue
        default = defaults.get(key)
        if key in defaults and not fits(key, value, default):
            raise UserError(f"{key} must be {in_words(key, default)}, got {value}")
        for number in value if isinstance(value, list) else [value]:
            check_size(key, number, default)
        if key in ONE_OF and value not in ONE_OF[key]:
            raise UserError(f"{key} must be one of {', '.join(map(str, ONE_OF[key]))}, got {value}")


def check_size(key: str, number: Any, default: Any) -> None:
    """Raises UserError for what float32 cannot hold, and for a number out of its setting's range."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    numbers = default if isinstance(default, list) else [default]
    has_negative = any(isinstance(each, int | float) and each < 0 for each in numbers) or ANY_SIGN.fullmatch(key)
    # Whole numbers are told apart up to 2**53; what is measured, weighed or learnt with needs no more than a million.
    otherwise = 1_000_000 if isinstance(number, float) or _kind(key, default) is float else 2**53
    most = next((most for pattern, most in AT_MOST.items() if re.fullmatch(pattern, key)), otherwise)
    least = 1 if ONE_OR_MORE.fullmatch(key) else -most if has_negative else 0
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(f"{key} must be a number that float32 can hold, got {number}")
    if number < least:
        raise UserError(f"{key} must be {least:,} or more, got {number}")
    if not number and ABOVE_0.fullmatch(key):
        raise UserError(f"{key} must be above 0, got {number}")
    if number > most:
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
    """Whether a value has the type of the default; where that is null, null or what NULLABLE says, or anything."""
    kind = _kind(key, default)
    if isinstance(default, list):
        is_long = isinstance(value, list) and (len(value) == len(default) or not PAIR.fullmatch(key))
        return is_long and all(_is_a(kind, each) for each in value)
    return _is_a(kind, value) or (value is None and key in NULLABLE)


def in_words(key: str, default: Any) -> str:
    """What it must be."""
    if isinstance(default, list):
        return f"a list such as {default}"
    return WORDS.get(_kind(key, default), "a value") + " or null" * (key in NULLABLE and default is None)


def _kind(key: str, default: Any) -> type:
    if default is None or default == []:
        return NULLABLE.get(key, object)
    return type(default[0] if isinstance(default, list) else default)


def _is_a(kind: type, value: Any) -> bool:
    """A whole number is a number, and true is none."""
    if kind is not object and isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _is_in_deleted_entry(settings: Config, key: str) -> bool:
    """Callbacks, loggers and what the benchmark measures may be fewer than the files name."""
    group, _, rest = key.partition(".")
    return (
        group in ("callbacks", "logger", "sizes", "variants")
        and isinstance(settings.get(group, {}), dict)
        and rest.split(".")[0] not in settings.get(group, {})
    )
