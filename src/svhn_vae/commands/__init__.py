"""What a person types: `svhn-vae COMMAND ...`, or `python src/COMMAND.py ...` in a checkout."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

COMMANDS = {  # name, which is its function's -> its module, what it does
    "train": ("train", "trains VAEs, one run or a sweep, scores them and compares them"),
    "report": ("studies", "writes a study's report, a page, and prints its table"),
    "generate": ("scores", "draws pictures of a finished run"),
    "evaluate": ("scores", "scores a finished run again"),
    "export": ("export", "writes the model of a finished run to a folder, with a card"),
    "baselines": ("scores", "scores models without a network on a data set"),
    "judge": ("scores", "trains the classifier that judges samples"),
    "claims": ("studies", "prints the verdicts of all studies on what they claim"),
    "runs": ("studies", "lists studies and their runs, with status, age, figure and size"),
    "clean": ("studies", "deletes runs that failed or are named, once it is told yes=true"),
    "search": ("search", "searches settings that train well"),
    "bench": ("bench", "measures the framework on this machine"),
}


def run(name: str) -> None:
    """Runs a command and exits. Imports the module of this command alone: `svhn-vae report` needs no torch."""
    on_ctrl_c(leave)
    import importlib  # only now, because Ctrl-C would show where an import stands

    from svhn_vae.errors import run_command

    command = getattr(importlib.import_module(f"{__name__}.{COMMANDS[name][0]}"), name)
    on_ctrl_c(signal.default_int_handler)
    code = run_command(command)
    on_ctrl_c(leave)
    gc.freeze()  # else Python looks through all objects of the libraries once more: a second, also after Ctrl-C
    sys.exit(code)


def on_ctrl_c(act: Callable[[int, FrameType | None], object]) -> None:
    """Sets what Ctrl-C does, unless the parent process ignores it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, act)


def leave(signum: int, frame: FrameType | None) -> None:
    """At once, with a line: there is nothing to be put in order."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(128 + signum)


def main() -> None:
    """Runs the command that is the first argument."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        sys.exit(usage())
    if name not in COMMANDS:
        print(f"svhn-vae: no command {name}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    # Of train, what Lightning starts its other processes with.
    sys.argv[:2] = [os.path.join(os.path.dirname(__file__), f"{name}.py")]
    run(name)


def usage() -> None:
    print("usage: svhn-vae COMMAND ...      svhn-vae COMMAND --help says more of one\n")
    for name, (_, what) in COMMANDS.items():
        print(f"  {name:<10} {what}")
