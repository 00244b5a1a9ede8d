"""What a person at the command line gets besides a run: the help, checks of what was typed, the table at the end."""

import time
from pathlib import Path, PurePath
from typing import Any

from svhn_vae.errors import UserError, did_you_mean, one_line
from svhn_vae.report.hypotheses import parse
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.files import locked
from svhn_vae.runs.folder import note_command, noted_times
from svhn_vae.runs.identity import Config, flatten
from svhn_vae.runs.installation import command_line

PRECISIONS = ("32-true", "bf16-mixed")
MONITORED = ("negative_elbo", "bits_per_dim", "post_loss", "objective")
MONITORS = tuple(f"{split}/{name}" for split in ("val", "train") for name in MONITORED)
OUTPUTS = Path("outputs")
ONE_OF = {
    "compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "trainer.precision": PRECISIONS,
    "trainer.strategy": ("auto", "ddp"),
    "monitor": MONITORS,
    "impossible": ("refuse", "skip"),
    "on_error": ("continue", "stop"),
}
AT_LEAST = {"seed": 0, "iw_samples": 0, "batch_size": 1, "checkpoint_every_n_epochs": 1, "trainer.max_epochs": 1}


def check(settings: Config, defaults: Config) -> None:
    """Raises UserError for what was typed or written in a file and cannot be meant, in a line.

    YAML takes any word for a text, and Python takes any text for true: pca.whiten=maybe would whiten.
    Both are resolved; `defaults` is of the same groups' choices, with nothing else typed.
    """
    values, expected = flatten(settings), flatten(defaults)
    for key, value in values.items():
        if key in expected and not fits(value, expected[key]):
            raise UserError(f"{key} must be {in_words(expected[key])}, got {value}")
    for key, allowed in ONE_OF.items():
        if values[key] not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}, got {values[key]}")
    for key, least in AT_LEAST.items():
        if values[key] < least:
            raise UserError(f"{key} must be {least} or more, got {values[key]}")
    every_n, last = values["trainer.check_val_every_n_epoch"], values["trainer.max_epochs"]
    if not 1 <= every_n <= last:
        raise UserError(
            f"trainer.check_val_every_n_epoch must be in 1..{last}, trainer.max_epochs, so that a run validates at "
            f"least once, got {every_n}"
        )
    check_study(settings["study"])
    for hypothesis in settings["hypotheses"]:
        parse(hypothesis)


def check_keys(settings: Config, known: Config) -> None:
    """Raises UserError for settings at the root that nothing reads: a file may add any, and so may `+`."""
    for key in settings:
        if key not in known:
            raise UserError(f"{key} is no setting{did_you_mean(key, known)}")


def check_study(name: Any) -> None:
    """Raises UserError if it is no name, or names, inside outputs/: nor by way of a link."""
    path = PurePath(str(name))
    is_name = isinstance(name, str | int | float) and path.parts and str(name).isprintable() and not path.is_absolute()
    if not is_name or any(part.startswith(".") for part in path.parts):
        raise UserError(f"study must be a name under outputs/, such as heads or claims/01, got {name}")
    if not (OUTPUTS / path).resolve().is_relative_to(OUTPUTS.resolve()):
        raise UserError(f"study must be a name under outputs/: {OUTPUTS / path} is a link to elsewhere")


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


class StudyTable:
    """Notes the command in its study, and at the end prints the study's table and writes its report."""

    def __init__(self, settings: Config) -> None:
        self.study = OUTPUTS / str(settings["study"])
        self._command, self._time = command_line(), time.time()
        self._asked = (settings["question"], settings["hypotheses"])
        self._has_noted = False  # in this process

    def begin(self) -> None:
        """When the first of its jobs has its data, in whatever process; before, there is nothing to note. Raises Busy,
        or OSError where it cannot be written, once."""
        if self._has_begun():
            return
        self._has_noted = True  # even where it cannot be noted: that is said once, and what is there has its table
        with locked(self.study / "study.json", wait=10):  # another sweep or job of the same study may be at it
            if self._time not in noted_times(self.study):
                note_command(self.study, self._command, self._time, *self._asked)

    def _has_begun(self) -> bool:
        return self._has_noted or self._time in noted_times(self.study)

    def end(self) -> None:
        if not self._has_begun():
            return
        try:
            print_study(self.study, wide_console())
            print(f"report:      {write_report(self.study)}", flush=True)
        except Exception as error:  # the runs are there, and so is what follows
            print(f"the report of {self.study} cannot be made: {one_line(error)}", flush=True)
