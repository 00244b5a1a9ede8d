"""What an error says to a person, in a line."""

import difflib
from collections.abc import Iterable

import torch

from svhn_vae.data.mat import DataError

MEANT_FOR_A_PERSON = (ValueError, OSError, DataError)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device or of the machine, where torch has no class of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`: did you mean NAME?` with the nearest of the names, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f": did you mean {near[0]}?" if near else ""
