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
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from svhn_vae.errors import UserError, did_you_mean, how_to_install, one_line, root_of
from svhn_vae.experiment.build import check_memory, try_build
from svhn_vae.experiment.configuration import OUTPUTS, composing, plain, quiet, recognised, without_hydras
from svhn_vae.experiment.settings import check, check_keys, check_values
from svhn_vae.runs.identity import Config, flatten
from svhn_vae.runs.installation import CONF, as_typed, parser_of

MAX_JOBS = 10_000  # of a command; all are composed before the first begins
LAUNCHER = "hydra/launcher"
PLUGINS = ("joblib", "submitit")  # how launchers begin that are there once the extra of this name is installed
MAX_LINE = 1000  # characters of what a library says of settings


class Job(NamedTuple):
    """One job of a command."""

    overrides: tuple[str, ...]
    settings: Config  # resolved; {} of one that cannot be composed
    name: str  # of its run folder
    wrong: str = ""  # what was misspelt, in a line
    impossible: str = ""  # why it cannot be built, in a line
    launcher: str = "basic"  # of Hydra's

    @property
    def path(self) -> Path:
        """Of its run folder."""
        return OUTPUTS / str(self.settings["study"]) / self.name


def jobs_of(
    words: list[str], *, is_sweep: bool, config_name: str = "train", config_dir: str | None = None
) -> list[Job]:
    """The jobs of a command, in order. Raises UserError if already the command cannot be read."""
    with composing():
        composer = Composer(config_name, config_dir)
        return [composer.job(job) for job in composer.overrides_of_jobs(words, is_sweep=is_sweep)]


def from_command_line(config_name: str, description: str | None, *, is_run: bool = False) -> DictConfig:
    """The checked configuration of a command that was typed as KEY=VALUE ..., see `configured`. Raises UserError."""
    parser = parser_of(description)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train.py")
    asked, flags = parser.parse_known_args()
    if flags:
        raise UserError(f"{flags[0]} is no option here: expected KEY=VALUE, and -m is of train alone")
    quiet()
    return configured(config_name, asked.overrides, is_run=is_run)


def configured(config_name: str, words: list[str], *, is_run: bool = False) -> DictConfig:
    """The checked configuration of a command that runs no jobs, such as evaluate. Raises UserError.

    is_run: it has a run's settings, which are checked and built as a run's are.
    """
    with composing():
        composer = Composer(config_name)
        [words] = composer.overrides_of_jobs(words, is_sweep=False)
        if is_run:
            job = composer.job(words)
            if fault := job.wrong or job.impossible:
                raise UserError(fault)
        cfg = composer.composed(words)
        if not is_run:
            check_values(plain(cfg), flatten(plain(composer.base(()))))
    return without_hydras(cfg)


def with_home(word: str) -> str:
    """KEY=~/path as a shell would give KEY=/home/me/path, in quotes and lists, too; Hydra's grammar has no ~."""
    return re.sub(r"""(?<=[=,\[])(['"]?)~(?=[/,\]'"]|$)""", lambda found: found[1] + os.path.expanduser("~"), word)


def unreadable(word: str, error: Exception) -> str:
    """What to type instead of a word that is outside of Hydra's grammar."""
    if "=" not in word:
        return f"{word} cannot be read, expected KEY=VALUE, or GROUP=CHOICE: {one_line_of(error)[:300]}"
    return f"{word} cannot be read as Hydra's grammar has it: as a text it is typed {quoted(word)}"


def quoted(word: str) -> str:
    """KEY=VALUE so that a shell and then Hydra read VALUE as a text."""
    key, _, value = word.partition("=")
    value = value.strip("'\"").replace('"', '\\"')
    return shlex.quote(f'{key}="{value}"')


class Composer:
    """Composes, checks and builds jobs, each part once."""

    def __init__(self, config_name: str, config_dir: str | None = None) -> None:
        self.config_name = config_name
        self.where = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []
        self.loader = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.parsed, self.composition = cache(self._parsed), cache(self._composition)
        self._built: dict[str, str] = {}

    def overrides_of_jobs(self, words: list[str], *, is_sweep: bool) -> list[list[str]]:
        """The overrides of each job, those of the experiment's own sweep included. Raises UserError."""
        words = [with_home(word) for word in words]
        parsed = [self.parsed(word) for word in words]
        if not is_sweep:
            for override in parsed:
                if override.is_sweep_override():
                    raise UserError(f"{override.input_line} has several values: put -m before it to run them all")
            return [words]
        fixed = [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
        try:
            params = self.composed(fixed).hydra.sweeper.params or {}
            task = [override for override in parsed if not override.is_hydra_override()]
            swept = [*self.parser.parse_overrides([f"{key}={value}" for key, value in params.items()]), *task]
            batch = product(swept)
        except Exception as error:  # Hydra's and OmegaConf's have no common class
            raise UserError(one_line_of(error)) from None
        if not batch:
            raise UserError(f"{' '.join(words)} has no jobs: a glob, a range or a list in it has no values")
        hydras = [override.input_line for override in parsed if override.is_hydra_override()]
        return [[*hydras, *job] for job in batch]  # pyright: ignore[reportReturnType]

    def job(self, overrides: list[str]) -> Job:
        try:
            cfg = self.composed(overrides)
            check_keys(cfg, self.base(()))
            found = recognised(cfg)
            check(found.settings, found.defaults)
        except Exception as error:  # Hydra's, OmegaConf's, yaml's and ours
            return Job(tuple(overrides), {}, "", wrong=one_line_of(error))
        launcher = cfg.hydra.runtime.choices[LAUNCHER]
        impossible = self._impossible(cfg, found.settings, launcher)
        return Job(tuple(overrides), found.settings, found.name, impossible=impossible, launcher=launcher)

    def composed(self, overrides: list[str]) -> DictConfig:
        """As Hydra composes it: the files, and then the values. Jobs that choose the same files share that part, which
        takes most of the time. Raises UserError."""
        chosen = tuple(word for word in overrides if not self._is_value(self.parsed(word)))
        cfg = copy.deepcopy(self.base(chosen))
        for override in (self.parsed(word) for word in overrides if word not in chosen):
            try:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            except (ConfigKeyError, ConfigAttributeError):
                raise UserError(self._no_setting(override.key_or_group, chosen)) from None
        return cfg

    def base(self, chosen: tuple[str, ...]) -> DictConfig:
        """What is composed of these choices, with no value given. Raises UserError."""
        found = self.composition(chosen)
        if isinstance(found, str):
            raise UserError(found)
        return found

    def _composition(self, chosen: tuple[str, ...]) -> DictConfig | str:
        """Or the line that says why there is none."""
        try:
            return compose(self.config_name, [*self.where, *chosen], return_hydra_config=True)
        except MissingConfigException as error:
            return self._no_choice(error, chosen)
        except Exception as error:  # Hydra's and OmegaConf's have no common class
            deleted = re.match(r"Could not delete from config\. '([\w.]+)'", str(error))
            return self._no_setting(deleted[1], ()) if deleted else f"{' '.join(chosen)}: {one_line_of(error)}"

    def _no_choice(self, error: MissingConfigException, chosen: tuple[str, ...]) -> str:
        missing, options = str(error.missing_cfg_file), list(error.options or ())
        word = next((word for word in chosen if word.replace("=", "/", 1) == missing), missing)
        for plugin in PLUGINS:
            if missing.startswith(f"{LAUNCHER}/{plugin}"):
                return f"{word} needs a plugin: {how_to_install(plugin)}"
        some = f": choose from {', '.join(options)}" if options else ""
        return f"{word} is no choice{did_you_mean(missing.rpartition('/')[2], options) or some}"

    def _no_setting(self, key: str, chosen: tuple[str, ...]) -> str:
        known = plain(self.base(chosen), resolve=False)
        if key in flatten(known):  # it is null, which Hydra deletes as little
            return f"{key} must be there: it cannot be left away"
        near = did_you_mean(key, [*flatten(known), *known, *self.loader.list_groups("")])
        every = f"; {CONF / self.config_name}.yaml has all"
        if "variance" in known:  # of a run
            every = f", with these choices; {as_typed('python src/train.py')} --cfg job prints all"
        return f"{key} is no setting{near or every}"

    def _parsed(self, word: str) -> Override:
        try:
            return self.parser.parse_overrides([word])[0]
        except Exception as error:  # Hydra's, which says what it expected
            raise UserError(unreadable(word, error)) from None

    def _is_value(self, override: Override) -> bool:
        """Whether it does no more than give a new value to a setting that there is."""
        is_choice = override.is_hydra_override() or bool(self.loader.get_group_options(override.key_or_group))
        return not (is_choice or override.is_add() or override.is_force_add() or override.is_delete())

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
                cause = root_of(error)
                self._built[key] = ": ".join([*getattr(cause, "__notes__", ()), one_line(cause)])[:MAX_LINE]
        return self._built[key]


def product(overrides: list[Override]) -> list[list[str]]:
    """The words of each job, as Hydra's own sweeper makes them: of a key that is given twice, the last counts. Raises
    UserError for more than MAX_JOBS, before they are made: a range may have a billion values, or no end."""
    by_key: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line} has no end of values: list them, or take a range")
        is_swept = override.is_sweep_override()
        values = override.sweep_string_iterator() if is_swept else [override.get_value_element_as_str()]
        by_key[key] = [f"{key}={value}" for value in itertools.islice(values, MAX_JOBS + 1)]
    if math.prod(map(len, by_key.values())) > MAX_JOBS:
        words = ", ".join(str(override.input_line) for override in overrides if override.is_sweep_override())
        raise UserError(f"{words}: more than {MAX_JOBS:,} jobs, take fewer values or several commands")
    return [list(words) for words in itertools.product(*by_key.values())]


def one_line_of(error: BaseException) -> str:
    """Hydra's messages stand in several lines, with the reason in its cause."""
    texts = [str(error), str(error.__cause__ or "")]
    return " ".join(" ".join(text.split()) for text in texts if text)
