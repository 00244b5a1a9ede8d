"""What the commands generate, evaluate, judge, baselines and bench share: a checked configuration from the command
line, and an error or Ctrl-C told in one line."""

import argparse
import signal
import sys
from collections.abc import Callable

from omegaconf import DictConfig

from svhn_vae.errors import run_command
from svhn_vae.experiment.attempt import quiet
from svhn_vae.experiment.preflight import configured
from svhn_vae.runs.installation import as_typed, program


def run_script(
    config_name: str, description: str | None, work: Callable[[DictConfig], None], *, is_run: bool = False
) -> None:
    """Calls `work` with conf/CONFIG_NAME.yaml and what the command line overrides, and exits: see `run_command`.

    is_run: the settings are a run's, and train.py's checks are made of them.
    """
    parser = argparse.ArgumentParser(
        prog=program(), description=as_typed(description or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train.py")
    overrides = parser.parse_args().overrides
    signal.signal(signal.SIGINT, signal.default_int_handler)
    quiet()
    sys.exit(run_command(lambda: work(configured(config_name, overrides, is_run=is_run))))
