"""A sweep before its first job: every job composed, checked and built without its data.

Hydra would find what is wrong with the last job when it comes to it, and says it in several lines.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from svhn_vae.errors import UserError, did_you_mean, one_line, root_of
from svhn_vae.experiment.build import try_build
from svhn_vae.experiment.commandline import check, check_keys
from svhn_vae.experiment.configuration import CONF, name_of, plain
from svhn_vae.runs.identity import Config, flatten

MAX_JOBS = 10_000  # of a command; all are composed before the first begins, 8 ms each
LAUNCHER = "hydra/launcher"
PLUGINS = {  # start of a launcher's name -> what is to be installed for it
    "joblib": "-e '.[joblib]'",
    "submitit": "-e '.[submitit]'",
    "ray": "hydra-ray-launcher",
}


class Planned(NamedTuple):
    """One job of a sweep. `wrong`: what was misspelt; `impossible`: why it cannot be built."""

    overrides: tuple[str, ...]
    settings: Config  # resolved; {} of one that cannot be composed
    name: str  # of its run folder
    wrong: tuple[str, ...] = ()
    impossible: str = ""
    launcher: str = "basic"  # of Hydra's, which is asked of a sweep alone


class Base(NamedTuple):
    """A configuration of chosen files, before values are given; Hydra's own part is in `cfg` alone."""

    cfg: DictConfig
    settings: Config


class Refused(Exception):
    """What was typed names no sweep; `lines` has one for each fault."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


def plan(
    overrides: list[str], *, is_sweep: bool, config_name: str = "train", config_dir: str | None = None
) -> list[Planned]:
    """The jobs of a command, in order. Raises Refused if already the command cannot be read."""
    with composing(config_dir) as loader:
        planner = Planner(loader, config_name)
        return [planner.job(job) for job in planner.jobs(overrides, is_sweep=is_sweep)]


@contextmanager
def composing(config_dir: str | None = None) -> Iterator[ConfigLoader]:
    """Hydra's configuration as @hydra.main of src/train.py has it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name="train"):
        loader = GlobalHydra.instance().config_loader()
        if config_dir is not None:
            path = loader.get_search_path()
            path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
            loader.repository.initialize_sources(path)
        yield loader


class Planner:
    """Composes, checks and builds jobs, each part once."""

    def __init__(self, loader: ConfigLoader, config_name: str) -> None:
        self.loader, self.config_name = loader, config_name
        self.parser = OverridesParser.create(config_loader=loader)
        self.groups = list(nested_groups(loader))
        self.base = cache(self._base)
        self.parsed = cache(self._parsed)
        self.options = cache(self._options)
        self._built: dict[str, str] = {}

    def jobs(self, overrides: list[str], *, is_sweep: bool) -> list[list[str]]:
        """The overrides of each job, the experiment's own sweep included. Raises Refused."""
        parsed = [self.parsed(word) for word in overrides]
        launchers = [self._fault_of_launcher(override) for override in parsed if override.key_or_group == LAUNCHER]
        if any(launchers):
            raise Refused(*launchers)
        if not is_sweep:
            for override in parsed:
                if override.is_sweep_override():
                    raise Refused(f"{override.input_line} has several values: put -m before it to run them all")
            return [overrides]
        fixed = [word for word, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]
        if faults := self.faults(fixed):
            raise Refused(*faults)
        try:
            master = self.loader.load_configuration(self.config_name, overrides, RunMode.MULTIRUN)
            own = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
            swept = self.parser.parse_overrides([*own, *task(parsed)])
            check_number(swept)
            [batch] = BasicSweeper.split_arguments(swept, None)
        except Exception as error:  # Hydra's and OmegaConf's have no common class
            raise Refused(one_line_of(error)) from None
        if not batch:
            raise Refused(f"{' '.join(overrides)} has no jobs: a glob, a range or a list in it has no values")
        hydras = [override.input_line for override in parsed if override.is_hydra_override()]
        return [[*hydras, *job] for job in batch]

    def job(self, overrides: list[str]) -> Planned:
        if faults := self.faults(overrides):
            return Planned(tuple(overrides), {}, "", wrong=tuple(faults))
        try:
            cfg = self.composed(overrides)
            settings = plain(cfg)
            check_keys(settings, self.base(()).settings)
            check(settings, self.base(self._choosing(overrides)).settings)
            name = name_of(cfg)
        except Exception as error:  # Hydra's, OmegaConf's, yaml's and ours
            return Planned(tuple(overrides), {}, "", wrong=(one_line_of(error),))
        launcher = cfg.hydra.runtime.choices["hydra/launcher"]
        return Planned(tuple(overrides), settings, name, impossible=self._impossible(cfg, settings), launcher=launcher)

    def composed(self, overrides: list[str]) -> DictConfig:
        """As Hydra composes it: the files, and then the values. Jobs that choose the same files share that part, which
        takes most of the time."""
        chosen = self._choosing(overrides)
        cfg = copy.deepcopy(self.base(chosen).cfg)
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
        if any(lines):
            return [line for line in lines if line]
        lines = [self._fault_of_key(override, overrides) for override in named]
        return [line for line in lines if line]

    def _parsed(self, word: str) -> Override:
        try:
            return self.parser.parse_override(word)
        except Exception as error:  # Hydra's, which says what it expected
            raise Refused(f"{word} cannot be read, expected KEY=VALUE: {one_line_of(error)}") from None

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
        if override.value() in there_are:
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
        except Exception:  # the job's composition says it
            return ""
        if OmegaConf.select(base.cfg, key, default=self) is not self:  # null is a value
            return ""
        known = [*flatten(base.settings), *base.settings, *self.groups]
        return f"{key} is no setting{did_you_mean(key, known) or ', with these choices; --cfg job prints all'}"

    def _options(self, group: str) -> list[str]:
        inner = [f"{sub}/{name}" for sub in self.loader.list_groups(group) for name in self._options(f"{group}/{sub}")]
        return [*self.loader.get_group_options(group), *inner]

    def _choosing(self, overrides: list[str]) -> tuple[str, ...]:
        """All that do more than give a new value to a setting that there is."""
        return tuple(word for word in overrides if not self._is_value(self.parsed(word)))

    def _is_value(self, override: Override) -> bool:
        is_change = not (override.is_add() or override.is_force_add() or override.is_delete())
        return is_change and override.key_or_group not in self.groups and not override.is_hydra_override()

    def _base(self, chosen: tuple[str, ...]) -> Base:
        cfg = compose(self.config_name, list(chosen), return_hydra_config=True)
        return Base(cfg, plain(cfg))

    def _impossible(self, cfg: DictConfig, settings: Config) -> str:
        """Why it cannot be built, or nothing; jobs that differ in their seed alone are built once."""
        parts = {name: value for name, value in settings.items() if name not in ("seed", "study")}
        key = json.dumps(parts, default=str)
        if key not in self._built:
            try:
                try_build(cfg)
                self._built[key] = ""
            except Exception as error:  # whatever a constructor says of its settings
                self._built[key] = one_line(root_of(error))
        return self._built[key]


def nested_groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    """All groups but Hydra's own, those inside others included: experiment/claims/convolutions."""
    for name in loader.list_groups(parent):
        group = f"{parent}/{name}".lstrip("/")
        if group != "hydra":
            yield group
            yield from nested_groups(loader, group)


def task(parsed: list[Override]) -> list[str]:
    return [override.input_line for override in parsed if not override.is_hydra_override()]


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
