"""Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none

It is kept in the user's cache folder for every later evaluation on the same images.
"""

import argparse
import sys

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from svhn_vae.data.sources import load_once
from svhn_vae.errors import DataError
from svhn_vae.evaluation.judge import judge_once
from svhn_vae.experiment.build import cache_folder
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.runs.installation import CONF, as_typed, program


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program(), description=as_typed(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as for train.py and of conf/judge.yaml: judge.epochs=30, ...")
    register_resolvers()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("judge", parser.parse_args().overrides)
        print(report(cfg))
    except (HydraException, DataError) as error:
        sys.exit(f"failed: {' '.join(str(error).split())}")


def report(cfg: DictConfig) -> str:
    dataset = load_once(instantiate(cfg.data, _convert_="all"))
    device = "cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    judge = judge_once(dataset, instantiate(cfg.judge), cache_folder(cfg), device)
    return (
        f"judge of {dataset.name} data: {judge.test_accuracy:.1%} of {len(dataset.test.labels):,} test images right, "
        f"{judge.val_accuracy:.1%} of {len(dataset.val.labels):,} validation images; "
        f"trained on {len(dataset.train.labels):,} in {judge.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
