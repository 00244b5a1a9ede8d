"""Every error that this framework raises on purpose, and what an error says to a person in a line.

Imports nothing of the package, and no torch: the report reads it, too.
"""

import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """What a person typed, or has on disk, cannot be used: one line says what was expected, what came, what to do.

    Any other ValueError is a bug, of this framework or of a library, and shows its traceback.
    """


class DataError(UserError):
    """There are no images to be had, or they are not as they should be."""


class Damaged(UserError):
    """A file that is not what was written."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path} is damaged: {' '.join(str(why).split())[:200]}")


class Busy(Exception):
    """Another process has the lock; the message names that process."""


class Diverged(ArithmeticError):
    """The loss or the weights are not finite. A result of the run, not a fault of the program.

    state: what is known of the moment: the last finite loss, and where the head stood.
    """

    def __init__(self, step: int, what: str, state: dict[str, object] | None = None) -> None:
        super().__init__(what)
        self.step, self.state = step, state or {}

    def __reduce__(self) -> tuple:
        return Diverged, (self.step, str(self), self.state)  # from one process of a run to another


class Interrupted(BaseException):
    """The process was asked to leave. Not an Exception: nothing on its way takes it for a failure."""

    def __init__(self, signum: int, when: str = "") -> None:
        super().__init__(when)
        self.signum = signum

    def __reduce__(self) -> tuple:
        return Interrupted, (self.signum, str(self))  # from one process of a run to another


MEANT_FOR_A_PERSON = (UserError, OSError)
TRACEBACKS = "SVHN_VAE_TRACEBACKS"  # what a person has set, for processes in which Hydra's own switch is always on


def wants_traceback() -> bool:
    """Whether HYDRA_FULL_ERROR=1 was set: then the traceback of every error is shown."""
    return os.environ.get(TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR")) == "1"


def run_command(main: Callable[[], int | None]) -> int:
    """Calls a command's main, and returns the exit code. What a person can mend is one line, and so is Ctrl-C; a bug
    shows its traceback."""
    sys.stdout, sys.stderr = Steadfast(sys.stdout), Steadfast(sys.stderr)
    try:
        code = int(main() or 0)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, Interrupted):
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        cause = root_of(error)
        if wants_traceback() or not isinstance(cause, MEANT_FOR_A_PERSON):
            raise
        print(f"failed: {one_line(cause)}", file=sys.stderr)
        return 1


class Steadfast:
    """A stream whose reader may leave, as head and a closed terminal do: what is written after that goes nowhere, and
    the command goes on. Letters that the locale lacks are escaped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # it was closed
        self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._steadily(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        self._steadily(self._stream.flush)

    def _steadily(self, act: Callable[[], int | None]) -> int | None:
        try:
            return act()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: of a terminal
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None


def root_of(error: BaseException) -> BaseException:
    """The first error that was meant for a person, else the first cause; Hydra wraps what a constructor raises."""
    while not isinstance(error, MEANT_FOR_A_PERSON) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    message = printable(" ".join(str(error).split()))
    return message if isinstance(error, MEANT_FOR_A_PERSON) else f"{type(error).__name__}: {message}"


def printable(text: str) -> str:
    """With escapes for what would move the cursor or colour the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`: did you mean NAME?` with the nearest of the names, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f": did you mean {near[0]}?" if near else ""


def at_least(group: str, minimum: float, **settings: float) -> None:
    """Raises UserError for a setting of a group that is not; as do the checks below."""
    for name, value in settings.items():
        if not value >= minimum:
            raise UserError(f"{group}.{name} must be at least {minimum}, got {value}")


def how_to_install(extra: str) -> str:
    """Of what pyproject.toml has as an extra: the package is in no registry."""
    return f"pip install '.[{extra}]' in the checkout"


def above_zero(group: str, **settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise UserError(f"{group}.{name} must be above 0, got {value}")


def fraction(group: str, **settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise UserError(f"{group}.{name} must be in 0..1, got {value}")


def one_of(group: str, choices: Collection[object], **settings: object) -> None:
    for name, value in settings.items():
        if value not in choices:
            raise UserError(f"{group}.{name} must be one of {', '.join(map(str, choices))}, got {value}")
