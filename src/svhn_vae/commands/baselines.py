"""Scores models without a network on a data set: python src/baselines.py data.root=FOLDER data.verify=none

Fitted on the training images, as every run's table has them, and on training and validation images together:
a baseline has nothing to select, and figures elsewhere are often for whole files. causal=true adds one that predicts
each value from the pixels before it: no density of dequantised pixels, but a probability of the 256 levels.
"""

# ruff: noqa: E402
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while libraries are imported

import functools

from omegaconf import DictConfig
from rich.table import Table

from svhn_vae.data.cache import cached_moments
from svhn_vae.data.sources import Dataset, concatenate, digest
from svhn_vae.errors import UserError
from svhn_vae.evaluation.baselines import fitted, score
from svhn_vae.evaluation.causal import CausalCode, bits_of_code
from svhn_vae.experiment.build import cache_folder, fit_device, load_data
from svhn_vae.experiment.script import run_script
from svhn_vae.report.table import wide_console


def print_baselines(cfg: DictConfig) -> None:
    if not isinstance(cfg.causal, bool):
        raise UserError(f"causal must be true or false, got {cfg.causal}")
    dataset = load_data(cfg)
    wide_console().print(baseline_table(cfg, dataset))


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
        if cfg.causal:
            code = CausalCode(images.images.shape[1:])
            code.fit(images.images)
            columns[-1]["causal prediction: a probability of levels"] = bits_of_code(code, dataset.test.images)
        table.add_column(f"fitted on {len(images.labels):,}", justify="right")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(f"{column[name]:.3f}" if name in column else "-" for column in columns))
    return table


def main() -> None:
    run_script("baselines", __doc__, print_baselines, is_run=True)


if __name__ == "__main__":
    main()
