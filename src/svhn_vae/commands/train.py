"""Trains, tests and compares VAEs."""

import hydra

from svhn_vae.commands import run
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.sweep import Sweep
from svhn_vae.runs.installation import CONF

register_resolvers()
SWEEP = Sweep()
# A bound method, because launchers of other processes pickle it, and with it what they need of the sweep.
JOB = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(SWEEP.run_job)


def train() -> int:
    return SWEEP.launch(JOB)


if __name__ == "__main__":  # Lightning starts the other processes of an installed command so
    run("train")
