"""What the commands generate, evaluate, judge, baselines and bench share: a configuration from the command line, and an
error or Ctrl-C told in one line."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig

from svhn_vae.errors import MEANT_FOR_A_PERSON, UserError, one_line, printable, root_of
from svhn_vae.experiment.configuration import composing
from svhn_vae.experiment.preflight import Refused, plan
from svhn_vae.experiment.turn import quiet
from svhn_vae.runs.installation import as_typed, program


def run_script(config_name: str, description: str | None, work: Callable[[DictConfig], None]) -> None:
    """Calls `work` with conf/CONFIG_NAME.yaml and what the command line overrides. Exits with 1 and one line after an
    error that is meant for a person, with 130 after Ctrl-C; HYDRA_FULL_ERROR=1 shows the traceback."""
    parser = argparse.ArgumentParser(
        prog=program(), description=as_typed(description or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train.py")
    overrides = parser.parse_args().overrides
    signal.signal(signal.SIGINT, signal.default_int_handler)
    quiet()
    try:
        with composing():
            cfg = compose(config_name, overrides)
        work(cfg)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        cause = root_of(error)
        is_meant = isinstance(cause, (*MEANT_FOR_A_PERSON, Refused)) or isinstance(error, HydraException)
        if not is_meant or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        told = one_line(cause) if isinstance(cause, MEANT_FOR_A_PERSON) else printable(" ".join(str(error).split()))
        sys.exit(f"failed: {told}")


def check_as_a_run(config_name: str, overrides: list[str]) -> None:
    """Raises UserError for settings that train.py would refuse."""
    [job] = plan(overrides, is_sweep=False, config_name=config_name)
    if faults := [*job.wrong, *filter(None, [job.impossible])]:
        raise UserError("; ".join(faults))
