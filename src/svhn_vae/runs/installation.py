"""Where the framework lies, in a checkout or installed: its configurations, its commit, how its commands are typed.

Knows neither torch nor Hydra.
"""

import argparse
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

VERSION = "0.2.0"
PACKAGE = Path(__file__).parents[1]
COMMANDS = PACKAGE / "commands"
# The checkout that the package lies in, or None where it was installed from a wheel.
CHECKOUT = PACKAGE.parents[1] if (PACKAGE.parents[1] / "conf" / "train.yaml").is_file() else None
CONF = (CHECKOUT or PACKAGE) / "conf"


def commit() -> str:
    """The framework's commit, with + if files were changed since; its version where it does not lie in a git repository
    of its own, such as a repository that has only an environment with the framework in it."""
    if CHECKOUT is None or not (CHECKOUT / ".git").exists():
        return f"version {VERSION}"
    git = ["git", "-C", str(CHECKOUT)]
    try:
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, check=True, encoding="utf-8").stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return f"version {VERSION}"
    return head + "+" * bool(changed)


def program() -> str:
    """The first words of this process's own command: `python src/train.py`, or `svhn-vae train`."""
    return f"svhn-vae {Path(sys.argv[0]).stem}" if _is_installed_command() else shlex.join(["python", sys.argv[0]])


def command_line() -> str:
    """This process's own command, to be typed again."""
    return f"{program()} {shlex.join(sys.argv[1:])}".rstrip()


def as_typed(text: str) -> str:
    """A text whose commands are typed as this process's was: `python src/train.py`, or from another folder
    `python PATH/src/train.py`, or `svhn-vae train`."""

    def typed(command: re.Match[str]) -> str:
        if _is_installed_command():
            return f"svhn-vae {command[1]}"
        path = Path(sys.argv[0]).with_name(f"{command[1]}.py")
        return shlex.join(["python", str(path)]) if path.resolve().parent == PACKAGE.parent else command[0]

    return re.sub(r"python src/(\w+)\.py", typed, text)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Of a command's own arguments, described as it is typed."""
    return argparse.ArgumentParser(
        prog=program(),
        description=as_typed(inspect.cleandoc(description or "")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _is_installed_command() -> bool:
    return CHECKOUT is None or Path(sys.argv[0]).parent == COMMANDS
