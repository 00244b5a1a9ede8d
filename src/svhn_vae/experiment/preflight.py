"""Before anything begins: every job of a command is composed, checked and built without its data.

What is wrong with the last job of a sweep is said before the first one, in a line that names it.
"""

import copy
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from svhn_vae.errors import UserError, did_you_mean, one_line, root_of
from svhn_vae.experiment.build import check_memory, try_build
from svhn_vae.experiment.configuration import OUTPUTS, composing, is_of_training, plain, recognised
from svhn_vae.report.hypotheses import parse
from svhn_vae.runs.identity import Config, flatten

MAX_JOBS = 10_000  # of a command; all are composed before the first begins
LAUNCHER = "hydra/launcher"
PLUGINS = {  # start of a launcher's name -> what is to be installed for it
    "joblib": "-e '.[joblib]'",
    "submitit": "-e '.[submitit]'",
    "ray": "hydra-ray-launcher",
}
KEY = r"[+~]{0,2}[\w./@]+"


class Refused(UserError):
    """What was typed cannot be run; `lines` has one for each fault."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = list(lines)


class Job(NamedTuple):
    """One job of a command. `wrong`: what was misspelt; `impossible`: why it cannot be built."""

    overrides: tuple[str, ...]
    settings: Config  # resolved; {} of one that cannot be composed
    name: str  # of its run folder
    wrong: tuple[str, ...] = ()
    impossible: str = ""
    launcher: str = "basic"  # of Hydra's


def jobs_of(
    words: list[str], *, is_sweep: bool, config_name: str = "train", config_dir: str | None = None
) -> list[Job]:
    """The jobs of a command, in order. Raises Refused if already the command cannot be read."""
    with composing():
        composer = Composer(config_name, config_dir)
        return [composer.job(job) for job in composer.overrides_of_jobs(words, is_sweep=is_sweep)]


def configured(config_name: str, words: list[str], *, is_run: bool = False) -> DictConfig:
    """The checked configuration of a command that runs no jobs, such as evaluate. Raises Refused.

    is_run: it has a run's settings, which are checked and built as a run's are.
    """
    with composing():
        composer = Composer(config_name)
        [words] = composer.overrides_of_jobs([with_home(word) for word in words], is_sweep=False)
        if is_run:
            job = composer.job(words)
            faults = [*job.wrong, *([job.impossible] if job.impossible else [])]
        else:
            faults = composer.faults(words)
        if faults:
            raise Refused(*faults)
        cfg = composer.composed(words)
        if not is_run:
            check_values(plain(cfg), flatten(plain(composer.base(()))))
    return cfg


def with_home(word: str) -> str:
    """KEY=~/path as a shell would give KEY=/home/me/path; Hydra's grammar has no ~."""
    key, sep, value = word.partition("=")
    return f"{key}={os.path.expanduser(value)}" if sep and re.match(r"~(/|$)", value) else word


class Composer:
    """Composes, checks and builds jobs, each part once."""

    def __init__(self, config_name: str, config_dir: str | None = None) -> None:
        self.config_name, self.own = config_name, Path(config_dir).resolve() if config_dir else None
        self.where = [f"hydra.searchpath=['file://{self.own}']"] if self.own else []
        self.loader = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.groups = list(self._nested_groups())
        self.base, self.parsed, self.options = cache(self._base), cache(self._parsed), cache(self._options)
        self._built: dict[str, str] = {}

    def overrides_of_jobs(self, words: list[str], *, is_sweep: bool) -> list[list[str]]:
        """The overrides of each job, those of the experiment's own sweep included. Raises Refused."""
        parsed = [self.parsed(word) for word in words]
        if launchers := [line for override in parsed if (line := self._fault_of_launcher(override))]:
            raise Refused(*launchers)
        if not is_sweep:
            for override in parsed:
                if override.is_sweep_override():
                    raise Refused(f"{override.input_line} has several values: put -m before it to run them all")
            return [words]
        fixed = [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
        if faults := self.faults(fixed):
            raise Refused(*faults)
        try:
            params = self.base(tuple(fixed)).hydra.sweeper.params or {}
            task = [override for override in parsed if not override.is_hydra_override()]
            swept = [*self.parser.parse_overrides([f"{key}={value}" for key, value in params.items()]), *task]
            check_number(swept)
            batch = product(swept)
        except Exception as error:  # Hydra's and OmegaConf's have no common class
            raise Refused(one_line_of(error)) from None
        if not batch:
            raise Refused(f"{' '.join(words)} has no jobs: a glob, a range or a list in it has no values")
        hydras = [override.input_line for override in parsed if override.is_hydra_override()]
        return [[*hydras, *job] for job in batch]

    def job(self, overrides: list[str]) -> Job:
        if faults := self.faults(overrides):
            return Job(tuple(overrides), {}, "", wrong=tuple(faults))
        try:
            cfg = self.composed(overrides)
            check_keys(cfg, self.base(()))
            found = recognised(cfg)
            check(found.settings, found.defaults)
        except Exception as error:  # Hydra's, OmegaConf's, yaml's and ours
            return Job(tuple(overrides), {}, "", wrong=(one_line_of(error),))
        launcher = cfg.hydra.runtime.choices[LAUNCHER]
        impossible = self._impossible(cfg, found.settings, launcher)
        return Job(tuple(overrides), found.settings, found.name, impossible=impossible, launcher=launcher)

    def composed(self, overrides: list[str]) -> DictConfig:
        """As Hydra composes it: the files, and then the values. Jobs that choose the same files share that part, which
        takes most of the time."""
        chosen = self._choosing(overrides)
        cfg = copy.deepcopy(self.base(chosen))
        for override in (self.parsed(word) for word in overrides if word not in chosen):
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        return cfg

    def faults(self, overrides: list[str]) -> list[str]:
        """A line for each override whose key, group or choice there is not."""
        parsed = [self.parsed(word) for word in overrides]
        if any(override.key_or_group == "hydra.searchpath" for override in parsed):
            return []  # there may be others: Hydra's composition says it
        named = [override for override in parsed if not override.is_hydra_override() and "@" not in override.input_line]
        lines = [self._fault_of_group(override) for override in named if override.key_or_group in self.groups]
        if not any(lines):
            lines = [self._fault_of_key(override, overrides) for override in named]
        return [line for line in lines if line]

    def _parsed(self, word: str) -> Override:
        try:
            return self.parser.parse_overrides([word])[0]
        except Exception as error:  # Hydra's, which says what it expected
            typed = self._quoted(word)
            hint = f"; a text or path with such characters is typed {typed}" if typed else ""
            raise Refused(f"{word} cannot be read, expected KEY=VALUE: {one_line_of(error)[:300]}{hint}") from None

    def _quoted(self, word: str) -> str:
        """The words for a shell that give this value as a text; "" where it has no key."""
        key, sep, value = word.partition("=")
        inner = value.replace("\\", "\\\\").replace('"', '\\"')
        quoted = f'{key}="{inner}"'
        try:
            is_read = sep and re.fullmatch(KEY, key) and self.parser.parse_override(quoted).value() == value
        except Exception:  # not even so
            return ""
        return shlex.quote(quoted) if is_read else ""

    def _fault_of_group(self, override: Override) -> str:
        group, value = override.key_or_group, override.value()
        there_are = self.options(group)
        for choice in value if isinstance(value, list) else [value]:
            if isinstance(choice, str) and choice not in there_are:
                near = did_you_mean(choice, there_are) or f": choose from {', '.join(there_are)}"
                return f"{group}={choice} is no choice{near}"
        return ""

    def _fault_of_launcher(self, override: Override) -> str:
        """Those of plugins are there once they are installed."""
        there_are = self.options(LAUNCHER)
        if override.key_or_group != LAUNCHER or override.value() in there_are:
            return ""
        plugin = next((plugin for start, plugin in PLUGINS.items() if str(override.value()).startswith(start)), None)
        if plugin is None:
            near = did_you_mean(str(override.value()), [*there_are, *PLUGINS])
            return f"{override.input_line} is no choice" + (near or f": choose from {', '.join(there_are)}")
        return f"{override.input_line} needs a plugin that is not installed: pip install {plugin}"

    def _fault_of_key(self, override: Override, overrides: list[str]) -> str:
        key = override.key_or_group
        if key in self.groups or override.is_add() or override.is_force_add():
            return ""
        chosen = tuple(word for word in self._choosing(overrides) if not self.parsed(word).is_delete())
        try:
            base = self.base(chosen)
            is_there = OmegaConf.select(base, key, default=self) is not self  # null is a value
            known = [] if is_there else [*flatten(plain(base)), *plain(base), *self.groups]
        except Exception:  # the job's composition says it
            return ""
        near = did_you_mean(key, known) or ", with these choices; --cfg job prints all"
        return "" if is_there else f"{key} is no setting{near}"

    def _options(self, group: str) -> list[str]:
        inner = [f"{sub}/{name}" for sub in self.loader.list_groups(group) for name in self._options(f"{group}/{sub}")]
        own = sorted(path.stem for path in (self.own / group).glob("*.yaml")) if self.own else []
        return [*self.loader.get_group_options(group), *own, *inner]

    def _nested_groups(self, parent: str = "") -> Iterator[str]:
        """All groups but Hydra's own, those inside others included: experiment/claims/convolutions."""
        for name in self.loader.list_groups(parent):
            group = f"{parent}/{name}".lstrip("/")
            if group != "hydra":
                yield group
                yield from self._nested_groups(group)

    def _choosing(self, overrides: list[str]) -> tuple[str, ...]:
        """All that do more than give a new value to a setting that there is."""
        return tuple(word for word in overrides if not self._is_value(self.parsed(word)))

    def _is_value(self, override: Override) -> bool:
        is_change = not (override.is_add() or override.is_force_add() or override.is_delete())
        return is_change and override.key_or_group not in self.groups and not override.is_hydra_override()

    def _base(self, chosen: tuple[str, ...]) -> DictConfig:
        return compose(self.config_name, [*self.where, *chosen], return_hydra_config=True)

    def _impossible(self, cfg: DictConfig, settings: Config, launcher: str) -> str:
        """Why it cannot be built, or nothing; jobs that differ in their seed alone are built once."""
        parts = {name: value for name, value in settings.items() if name not in ("seed", "study")}
        key = json.dumps(parts, default=str)
        if key not in self._built:
            try:
                module = try_build(cfg)
                if "slurm" not in launcher:  # another machine's memory is not known here
                    check_memory(module)
                self._built[key] = ""
            except Exception as error:  # whatever a constructor says of its settings
                self._built[key] = one_line(root_of(error))
        return self._built[key]


def product(overrides: list[Override]) -> list[list[str]]:
    """The words of each job, as Hydra's own sweeper makes them: of a key that is given twice, the last counts."""
    by_key: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line} has no end of values: list them, or take a range")
        is_swept = override.is_sweep_override()
        values = override.sweep_string_iterator() if is_swept else [override.get_value_element_as_str()]
        by_key[key] = [f"{key}={value}" for value in values]
    return [list(words) for words in itertools.product(*by_key.values())]


def check_number(overrides: list[Override]) -> None:
    """Raises UserError for more than MAX_JOBS jobs, before any is made.

    Of a key that is given twice the last values count, but Hydra makes the others, too.
    """
    by_key = {override.get_key_element(): num_values(override) for override in overrides}
    counts = [math.prod(by_key.values()), *map(num_values, overrides)]
    if not all(count <= MAX_JOBS for count in counts):  # nor where it is no number
        words = ", ".join(override.input_line for override in overrides if override.is_sweep_override())
        raise UserError(f"{words}: more than {MAX_JOBS:,} jobs, take fewer values or several commands")


def num_values(override: Override) -> float:
    """How many it has, without making those of a range, which may be a billion; not a number if it never ends."""
    if not override.is_discrete_sweep():
        return 1
    values = override.value()
    if not isinstance(values, RangeSweep):
        return len(list(override.sweep_iterator()))
    count = -((values.start - values.stop) // (values.step or 1))  # a step of 0 is Hydra's to refuse
    return 0 if count < 0 else count


def one_line_of(error: BaseException) -> str:
    """Hydra's messages stand in several lines, with the reason in its cause."""
    texts = [str(error), str(error.__cause__ or "")]
    return " ".join(" ".join(text.split()) for text in texts if text)


# --- what a setting may be --------------------------------------------------------------------------------------------

MONITORS = tuple(
    f"{split}/{name}" for split in ("val", "train") for name in ("negative_elbo", "bits_per_dim", "post_loss")
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
