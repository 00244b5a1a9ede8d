"""One run from start to end: fit, test the best checkpoint, draw, write the result. Nothing here knows Hydra."""

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import lightning as L  # noqa: N812  its usual name
import torch
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard.summary import hparams

from svhn_vae.atomic import replacing
from svhn_vae.callbacks import Progress
from svhn_vae.data.dataset import Dataset
from svhn_vae.data.module import DataModule
from svhn_vae.evaluation import calibration, order_of_learning
from svhn_vae.evaluation.baselines import baselines, gaussian_post_loss
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.judged import judged
from svhn_vae.evaluation.score import Score, score_run, score_seen
from svhn_vae.history import read_history
from svhn_vae.lit import Diverged, LitVAE
from svhn_vae.pictures import gallery
from svhn_vae.pictures.gallery import Subject
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs import Config, RunFolder, identity, write_json
from svhn_vae.storage import load_best, save_representation
from svhn_vae.study import commit

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "scikit-learn", "scipy")
DRAWN = ("data", "samples", "reconstructions", "analogies")  # at a run's end; src/generate.py draws them all
HPARAMS_METRICS = ("val/negative_elbo", "val/bits_per_dim", "test/bits_per_dim", "test/kl", "test/active_units")

# TensorBoard's custom scalars: category -> chart -> the metrics in it
DASHBOARD = {
    "the bound": {
        "bits/dim": ["Multiline", ["train/bits_per_dim", "val/bits_per_dim"]],
        "negative ELBO, nats": ["Multiline", ["train/negative_elbo", "val/negative_elbo"]],
        "KL, nats": ["Multiline", ["train/kl", "val/kl"]],
        "log p(y | z), nats": ["Multiline", ["train/log_likelihood", "val/log_likelihood"]],
        "log p(r | z), nats": ["Multiline", ["train/residual", "val/residual"]],
        "the post's loss, nats": ["Multiline", ["train/post_loss", "val/post_loss"]],
    },
    "sigma": {
        "share of elements": ["Multiline", [f"val/sigma/{name}_fraction" for name in ("floor", "ceiling", "dead")]]
    },
    "latents and gradients": {
        "active units": ["Multiline", ["val/active_units"]],
        "norm of an epoch's last gradient": ["Multiline", ["train/gradient_norm"]],
        "skipped updates": ["Multiline", ["train/skipped_updates"]],
    },
}


class Job(NamedTuple):
    """Everything of a run, built."""

    folder: RunFolder
    config: Config  # resolved, plain
    choices: dict[str, str]  # group -> file
    data: DataModule  # set up
    module: LitVAE
    trainer: L.Trainer
    judge: Callable[[Dataset], Judge] | None  # loads it, or trains it


def run(job: Job) -> Config:
    """Trains (from the last checkpoint if there is one), tests, draws; returns what it wrote to result.json.

    A run that was interrupted after its training is not trained any further.

    Raises lit.Diverged if a loss is not finite. The test images are touched here and nowhere else, once.
    """
    folder, trainer = job.folder, job.trainer
    if "cost" not in folder.facts:
        train(job)
    load_best(job.module.vae, folder)
    [val] = trainer.validate(job.module, datamodule=job.data, verbose=False)
    score = score_test(job)
    if not math.isfinite(score.metrics["test/negative_elbo"]):
        raise Diverged(trainer.global_step, "the best checkpoint's test score is not finite")
    draw(job, score)
    others = learning_metrics(folder) | score_seen(job.module.vae, job.data.dataset)
    if job.judge is not None:
        others |= judged(job.module.vae, job.data.dataset, job.judge(job.data.dataset)).metrics
    result = result_of(job, val | others, score, folder.facts["cost"])
    write_json(folder.path / "result.json", result)
    return result


def train(job: Job) -> None:
    """Fits the model and notes what it cost."""
    folder, trainer = job.folder, job.trainer
    save_representation(job.module.vae, folder)
    announce_hyperparameters(job)
    resume = str(folder.last_checkpoint) if folder.last_checkpoint.is_file() else None
    if resume:
        print(f"  continues from {resume}", flush=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    trainer.fit(job.module, datamodule=job.data, ckpt_path=resume, weights_only=True)
    if profile := trainer.profiler.summary():  # Lightning prints it where we keep it quiet
        print(profile, flush=True)
    folder.trained(cost_of(job, time.monotonic() - start) | {"continued": resume is not None})


def announce_hyperparameters(job: Job) -> None:
    """Writes the layout of TensorBoard's custom scalars, and the HPARAMS tab's entry with the tags of the real metrics,
    which get their values when they are logged.

    Lightning's own way logs a placeholder value, which then stands in the curves.
    """
    settings = {**identity(job.config), **job.choices}
    values = {key: value for key, value in settings.items() if is_hyperparameter(key, value)}
    board = job.trainer.logger.experiment
    for summary in hparams(values, dict.fromkeys(HPARAMS_METRICS, 0.0)):
        board.file_writer.add_summary(summary)
    board.add_custom_scalars(DASHBOARD)


def is_hyperparameter(key: str, value: object) -> bool:
    """A number, a switch or a name that one would sweep."""
    inner = key.startswith("callbacks") or key.rpartition(".")[2].startswith("_")
    return isinstance(value, bool | int | float | str) and not inner


def score_test(job: Job) -> Score:
    """Scores the test images, for TensorBoard and image by image for the run folder."""
    vae, logger = job.module.vae.to(job.trainer.strategy.root_device), job.trainer.logger
    score = score_run(vae, job.data.dataset, split="test", iw_samples=job.config["iw_samples"])
    vae.cpu()  # so that pictures do not depend on the device
    logger.log_metrics(score.metrics, job.trainer.global_step)
    logger.finalize("success")
    with replacing(job.folder.path / "per_image.safetensors") as beside:
        save_file(score.per_image, beside)
    if score.calibration:
        with replacing(job.folder.path / "calibration.safetensors") as beside:
            save_file(calibration.by_component(score.calibration, vae.representation), beside)
    return score


def learning_metrics(folder: RunFolder) -> dict[str, float]:
    """Of the training: the last epoch's `train/` metrics, dropout and batch statistics included, and its order."""
    rows = read_history(folder.path / "history.csv")
    last = max((row for row in rows if "train/objective" in row), key=lambda row: row["step"], default={})
    metrics = {name: value for name, value in last.items() if name.startswith("train/")}
    if (path := folder.path / "order_of_learning.safetensors").is_file():
        order = order_of_learning.rank_correlation(**load_file(path))
        metrics |= {} if order is None else {"order/rank_correlation": order}
    return metrics


def draw(job: Job, score: Score) -> None:
    """The plot of sigma's calibration on the test images, and the cheaper pictures of training and validation images;
    src/generate.py draws them all."""
    name, figures = job.folder.path.name, job.folder.figures
    if score.calibration:
        write_png(calibration.draw(score.calibration, f"test images, {name}"), figures / "calibration.png")
    subject = Subject(job.module.vae.eval(), job.data.dataset, name, seed=0)
    for drawn in DRAWN:
        write_png(gallery.draw(subject, drawn), figures / f"{drawn}.png")


def result_of(job: Job, metrics: dict[str, float], score: Score, cost: Config) -> Config:
    """`metrics`: all but the test's."""
    dataset, representation = job.data.dataset, job.module.vae.representation
    num_components = representation.event_shape.numel() if representation.is_projection else None
    return {
        "name": job.folder.path.name,
        "seed": job.config["seed"],
        "choices": job.choices,
        "data": data_facts(dataset),
        "metrics": metrics | score.metrics,
        "parts": score.parts,
        "details": score.details | {"post_loss_of_gaussian": gaussian_post_loss(job.module.vae, dataset)},
        "baselines": baselines(dataset, job.data.moments, num_components, job.data.cache),
        "cost": cost,
        "commit": commit(),
        "versions": versions(),
        "config": job.config,
    }


def data_facts(dataset: Dataset) -> Config:
    return {
        "name": dataset.name,
        "synthetic": dataset.is_synthetic,
        "digest": dataset.digest,
        "num_train": len(dataset.train.labels),
        "num_val": len(dataset.val.labels),
        "num_test": len(dataset.test.labels),
    }


def cost_of(job: Job, seconds: float) -> Config:
    """What `fit` took, validation and checkpoints included; of a continued run, its last part."""
    trainer = job.trainer
    progress = next(callback for callback in trainer.callbacks if isinstance(callback, Progress))
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    return {
        "seconds": seconds,
        "images_per_second": progress.num_images / seconds,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "num_parameters": sum(p.numel() for p in job.module.parameters() if p.requires_grad),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads",
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}
