"""Trains, tests and compares VAEs: python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true"""

# ruff: noqa: E402
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while libraries are imported

import sys

import hydra

from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.sweep import Sweep
from svhn_vae.runs.installation import CONF

register_resolvers()
SWEEP = Sweep()
# A bound method, because launchers of other processes pickle it, and with it what they need of the sweep.
JOB = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(SWEEP.run_job)


def main() -> None:
    sys.exit(SWEEP.launch(JOB))


if __name__ == "__main__":
    main()
