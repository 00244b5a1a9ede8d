"""Scores models without a network on a data set: python src/baselines.py data.root=FOLDER data.verify=none

Fitted on the training images, as every run's table has them, and on training and validation images together:
a baseline has nothing to select, and figures elsewhere are often for whole files.
"""

import argparse
import functools
import sys

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from svhn_vae.data.cache import cached_moments
from svhn_vae.data.sources import Dataset, concatenate, digest, load_once
from svhn_vae.errors import DataError
from svhn_vae.evaluation.baselines import diagonal_post_loss, fitted, score
from svhn_vae.experiment.build import cache_folder, fit_device
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.report.table import wide_console
from svhn_vae.runs.installation import CONF, as_typed, program

POST_COMPONENTS, POST_EPSILON = 500, 0.010  # of the 2017 post, whose network reached -266.1 in training


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program(), description=as_typed(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as for train.py: data=synthetic, pca.n_components=1000, ...")
    register_resolvers()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("train", parser.parse_args().overrides)
        dataset = load_once(instantiate(cfg.data, _convert_="all"))
        wide_console().print(baseline_table(cfg, dataset))
        print(post_loss_line(cfg, dataset))
    except (HydraException, DataError) as error:
        sys.exit(f"failed: {' '.join(str(error).split())}")


def baseline_table(cfg: DictConfig, dataset: Dataset) -> Table:
    table = Table(
        title=f"{dataset.name} data, bits/dim of {len(dataset.test.labels):,} test images", title_justify="left"
    )
    table.add_column("model without a network")
    columns = []
    for images in (dataset.train, concatenate([dataset.train, dataset.val])):
        where = {"cache": cache_folder(cfg), "device": fit_device(cfg)}
        moments = functools.partial(cached_moments, images.images, digest(images), **where)
        densities = fitted(images.images, moments, cfg.pca.n_components)
        columns.append(score(dataset.test.images, densities))
        table.add_column(f"fitted on {len(images.labels):,}", justify="right")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(f"{column[name]:.3f}" if name in column else "-" for column in columns))
    return table


def post_loss_line(cfg: DictConfig, dataset: Dataset) -> str:
    """The post's own loss without a network, fitted on all images that are not for the test."""
    images = concatenate([dataset.train, dataset.val])
    moments = cached_moments(images.images, digest(images), "sample", cache_folder(cfg), fit_device(cfg))
    train, test = (
        diagonal_post_loss(part, moments, POST_COMPONENTS, POST_EPSILON)
        for part in (images.images, dataset.test.images)
    )
    return (
        f"post_loss of a diagonal Gaussian, variance at least {POST_EPSILON}, in nats of {POST_COMPONENTS} raw "
        f"coordinates of pixels / 255: train {train:.1f}, test {test:.1f}"
    )


if __name__ == "__main__":
    main()
