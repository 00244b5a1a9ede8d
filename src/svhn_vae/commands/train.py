"""Trains, tests and compares VAEs: python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true"""

# ruff: noqa: E402
import gc

gc.disable()  # a million objects are made by the imports, none of them garbage: looking for it took a quarter of them

import sys

import hydra
from omegaconf import DictConfig

from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.sweep import Sweep

gc.enable()
gc.freeze()  # nor is it looked for among them later, after each run of a sweep
register_resolvers()
SWEEP = Sweep()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One run of a sweep. Returns its val/negative_elbo, NaN if it diverged or failed: a sweep goes on."""
    return SWEEP.run_job(cfg)


if __name__ == "__main__":
    sys.exit(SWEEP.launch(main))
