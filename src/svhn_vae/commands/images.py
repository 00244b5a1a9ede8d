"""What needs a data set alone: baselines scores models without a network, judge trains the classifier of samples."""

import functools

from omegaconf import DictConfig
from rich.table import Table

from svhn_vae.data.cache import cached_moments
from svhn_vae.data.sources import Dataset, concatenate, digest
from svhn_vae.errors import UserError
from svhn_vae.evaluation.baselines import fitted, score
from svhn_vae.evaluation.causal import CausalCode, bits_of_code
from svhn_vae.evaluation.judge import judge_once, why_no_judge
from svhn_vae.experiment.build import cache_folder, fit_device, load_data, make
from svhn_vae.experiment.preflight import from_command_line
from svhn_vae.report.table import wide_console


def baselines() -> None:
    """Scores models without a network on a data set: python src/baselines.py data.root=FOLDER data.verify=none

    Fitted on the training images, as every run's table has them, and on training and validation images together:
    a baseline has nothing to select, and figures elsewhere are often for whole files. causal=true adds one that
    predicts each value from the pixels before it: no density of dequantised pixels, but a probability of the 256
    levels.
    """
    cfg = from_command_line("baselines", baselines.__doc__, is_run=True)
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


def judge() -> None:
    """Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none

    It is kept in the user's cache folder for every later evaluation on the same images.
    """
    cfg = from_command_line("judge", judge.__doc__, is_run=True)
    settings, dataset = make("judge", cfg.judge), load_data(cfg)
    if reason := why_no_judge(dataset):
        raise UserError(f"{dataset.name} data can have no judge: {reason}")
    found = judge_once(dataset, settings, cache_folder(cfg), fit_device(cfg))
    print(
        f"judge of {dataset.name} data: {found.accuracy:.1%} of {len(dataset.test.labels):,} test images right, "
        f"{found.val_accuracy:.1%} of {len(dataset.val.labels):,} validation images; "
        f"trained on {len(dataset.train.labels):,} in {found.seconds:.0f} s"
    )
    print(
        f"its confidence is off by {found.calibration_error:.1%} on average; it is 90 % or more for "
        f"{found.legible:.1%} of the test images, of which {found.legible_accuracy:.1%} are read right"
    )
