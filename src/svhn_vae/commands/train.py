"""Trains, tests and compares VAEs: python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true"""

# ruff: noqa: E402
import gc

gc.disable()  # a million objects are made by the imports, none of them garbage: looking for it took a quarter of them

import sys

import hydra

from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.sweep import Sweep
from svhn_vae.runs.installation import CONF

gc.enable()
gc.freeze()  # nor is it looked for among them later, after each run of a sweep
register_resolvers()
SWEEP = Sweep()
# A bound method, because launchers of other processes pickle it, and with it what they need of the sweep.
JOB = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(SWEEP.run_job)


def main() -> None:
    sys.exit(SWEEP.launch(JOB))


if __name__ == "__main__":
    main()
