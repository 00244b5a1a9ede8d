"""Scores a finished run again: python src/evaluate.py run=outputs/STUDY/RUN [iw_samples=64] [split=val] [judge=true]

With the run's own iw_samples it gives the figures of its result.json, to the last digit on the same device.
"""

import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from rich.table import Table

from svhn_vae.data.module import EvaluationSplits
from svhn_vae.errors import DataError, UserError
from svhn_vae.evaluation.judged import Judged, judged
from svhn_vae.evaluation.samples import Agreement
from svhn_vae.evaluation.score import SPLITS, Score, score_run
from svhn_vae.experiment.build import cache_folder, load_judge
from svhn_vae.experiment.loading import load_dataset, load_run
from svhn_vae.report.table import wide_console
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.installation import CONF

MEANING = {
    "elbo": "nats per image, as the terms below",
    "bits_per_dim": "by the bound with one sample",
    "iw_bits_per_dim": "by the bound with iw_k samples",
    "effective_sample_size": "of iw_k samples: near 1, one decides",
    "active_units": "latents whose mean varies",
    "mutual_information": "nats, latents and image; at most log of their number",
    "aggregate_kl": "nats, aggregate posterior to prior",
    "probe_accuracy": "digit, linear in the posterior's mean",
    "calibration/residual_variance": "1 is right; below, sigma is too large",
}
JUDGED = {"samples": "samples", "noisy_samples": "with the decoder's noise", "validation": "validation images"}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    try:
        evaluate(cfg)
    except (ValueError, OSError, DataError) as error:
        sys.exit(f"failed: {' '.join(str(error).split())}")


def evaluate(cfg: DictConfig) -> None:
    check(cfg)
    folder = RunFolder(Path(cfg.run))
    vae = load_run(folder.path).to("cuda" if torch.cuda.is_available() else "cpu")
    dataset = load_dataset(folder.path, cfg.data_root, other_images=cfg.other_images)
    is_its_own = dataset.digest == folder.result["data"]["digest"]
    represented = EvaluationSplits(dataset, vae.representation)
    score = score_run(vae, represented, split=cfg.split, iw_samples=cfg.iw_samples)
    console = wide_console()
    baselines = folder.result["baselines"] if cfg.split == "test" and is_its_own else {}
    others = "" if is_its_own else f" that are not the run's: {dataset.name} data {dataset.digest}"
    name = f"{folder.path.resolve().name}, {len(score.per_image['elbo']):,} {cfg.split} images{others}"
    console.print(score_table(name, score, baselines))
    if score.details.get("iw_curve"):
        console.print(curve_table(score))
    if cfg.judge:
        found = judged(vae, dataset, load_judge(dataset, cache_folder(cfg)))
        console.print(judge_table(found, len(dataset.val.labels)))
        console.print(analogies_line(found.analogies), soft_wrap=True)


def check(cfg: DictConfig) -> None:
    """Raises UserError for what cannot be meant."""
    if cfg.run is None:
        raise UserError("run=FOLDER is missing, a finished run's folder: run=outputs/STUDY/RUN")
    if cfg.split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {cfg.split}")
    for switch in ("judge", "other_images"):
        if not isinstance(cfg[switch], bool):
            raise UserError(f"{switch} must be true or false, got {cfg[switch]}")
    if not isinstance(cfg.iw_samples, int) or isinstance(cfg.iw_samples, bool) or cfg.iw_samples < 0:
        raise UserError(f"iw_samples must be a whole number, 0 or more, got {cfg.iw_samples}")


def score_table(title: str, score: Score, baselines: dict[str, float]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_column("")
    for name, value in score.metrics.items():
        quantity = name.partition("/")[2]
        table.add_row(quantity, f"{value:.4f}", MEANING.get(quantity, ""))
    for name, value in score.parts.items():
        table.add_row(f"bits_per_dim: {name}", f"{value:.4f}", "part of it")
    for name, value in sorted(baselines.items(), key=lambda item: item[1]):
        table.add_row(f"(-) {name}", f"{value:.4f}", "bits/dim of a model without a network")
    return table


def curve_table(score: Score) -> Table:
    table = Table(title="the importance-weighted bound from k samples per image", title_justify="left")
    for name in ("k", "elbo, nats", "bits/dim", "effective sample size"):
        table.add_column(name, justify="right")
    for point in score.details["iw_curve"]:
        bits = "no density" if point["bits_per_dim"] is None else f"{point['bits_per_dim']:.4f}"
        table.add_row(f"{point['k']}", f"{point['elbo']:.1f}", bits, f"{point['effective_sample_size']:.2f}")
    return table


def judge_table(found: Judged, num: int) -> Table:
    title = f"{num:,} samples, by a judge that reads {found.accuracy:.1%} of the test images' digits"
    table = Table(title=title, title_justify="left")
    table.add_column("quantity")
    for kind in found.scores:
        table.add_column(JUDGED[kind], justify="right")
    for name in found.scores["samples"]:
        table.add_row(name, *(f"{scores[name]:.3f}" for scores in found.scores.values()))
    return table


def analogies_line(found: Agreement) -> str:
    """How far the post's analogies keep the digit and the colour of the image that they come from."""
    return (
        f"analogies of one image per digit: the judge sees the source's digit in {found.digit:.1%}; their mean colour "
        f"is {found.colour_distance:.3f} from the source's, and {found.colour_distance_of_others:.3f} from the others'"
    )


if __name__ == "__main__":
    main()
