"""One run from start to end: fit, test the best checkpoint, draw, write the result. Nothing here knows Hydra."""

import importlib.metadata
import math
import platform
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import lightning as L  # noqa: N812  its usual name
import torch
from safetensors.torch import save_file
from torch.utils.tensorboard.summary import hparams

from svhn_vae.callbacks import Progress
from svhn_vae.data.dataset import Dataset
from svhn_vae.data.module import DataModule
from svhn_vae.evaluation import calibration
from svhn_vae.evaluation.baselines import baselines
from svhn_vae.evaluation.score import Score, score_run
from svhn_vae.lit import Diverged, LitVAE
from svhn_vae.pictures import gallery
from svhn_vae.pictures.gallery import Subject
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs import Config, RunFolder, identity, write_json
from svhn_vae.storage import load_best, save_representation

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "scikit-learn", "scipy")
DRAWN = ("data", "samples", "reconstructions")  # at a run's end; src/generate.py draws them all
HPARAMS_METRICS = ("val/negative_elbo", "val/bits_per_dim", "test/bits_per_dim", "test/kl", "test/active_units")


class Job(NamedTuple):
    """Everything of a run, built."""

    folder: RunFolder
    config: Config  # resolved, plain
    choices: dict[str, str]  # group -> file
    data: DataModule  # set up
    module: LitVAE
    trainer: L.Trainer


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
    result = result_of(job, val, score, folder.facts["cost"])
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
    """Writes the HPARAMS tab's entry with the tags of the real metrics, which get their values when they are logged.

    Lightning's own way logs a placeholder value, which then stands in the curves.
    """
    settings = {**identity(job.config), **job.choices}
    values = {key: value for key, value in settings.items() if is_hyperparameter(key, value)}
    for summary in hparams(values, dict.fromkeys(HPARAMS_METRICS, 0.0)):
        job.trainer.logger.experiment.file_writer.add_summary(summary)


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
    save_file(score.per_image, job.folder.path / "per_image.safetensors")
    return score


def draw(job: Job, score: Score) -> None:
    """The plot of sigma's calibration on the test images, and the cheaper pictures of training and validation images;
    src/generate.py draws them all."""
    name, figures = job.folder.path.name, job.folder.figures
    if score.calibration:
        write_png(calibration.draw(score.calibration, f"test images, {name}"), figures / "calibration.png")
    subject = Subject(job.module.vae.eval(), job.data.dataset, name, seed=0)
    for drawn in DRAWN:
        write_png(gallery.draw(subject, drawn), figures / f"{drawn}.png")


def result_of(job: Job, val: dict[str, float], score: Score, cost: Config) -> Config:
    dataset, representation = job.data.dataset, job.module.vae.representation
    num_components = representation.event_shape.numel() if representation.is_projection else None
    return {
        "name": job.folder.path.name,
        "seed": job.config["seed"],
        "choices": job.choices,
        "data": data_facts(dataset),
        "metrics": val | score.metrics,
        "parts": score.parts,
        "details": score.details,
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


def commit() -> str | None:
    """The framework's commit, with + if files were changed since; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + "+" * bool(changed.strip())
