"""What a person types: `svhn-vae COMMAND ...`, or `python src/COMMAND.py ...` in a checkout."""

import importlib
import sys

COMMANDS = {
    "train": "trains VAEs, one run or a sweep, scores them and compares them",
    "report": "writes a study's report, a page, and prints its table",
    "generate": "draws pictures of a finished run",
    "evaluate": "scores a finished run again",
    "export": "writes the model of a finished run to a folder, with a card",
    "baselines": "scores models without a network on a data set",
    "judge": "trains the classifier that judges samples",
    "claims": "prints the verdicts of all studies on what they claim",
    "search": "searches settings that train well",
    "bench": "measures the framework on this machine",
}


def main() -> None:
    """Runs the command that is the first argument. Imports nothing of the others: `svhn-vae report` needs no torch."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        sys.exit(usage())
    if name not in COMMANDS:
        print(f"svhn-vae: no command {name}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    command = importlib.import_module(f"{__name__}.{name}")
    sys.argv[:2] = [str(command.__file__)]  # what Lightning starts its other processes with
    sys.exit(command.main())


def usage() -> None:
    print("usage: svhn-vae COMMAND ...      svhn-vae COMMAND --help says more of one\n")
    for name, what in COMMANDS.items():
        print(f"  {name:<10} {what}")
