"""One run: fit, test the best checkpoint, draw, write the result."""

import contextlib
import importlib.metadata
import json
import math
import platform
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch

from svhn_vae.data.batches import EvaluationBatches, every_nth
from svhn_vae.data.sources import Dataset
from svhn_vae.errors import Damaged, Diverged, Interrupted, UserError, counted
from svhn_vae.evaluation import calibration
from svhn_vae.evaluation.baselines import baselines, gaussian_post_loss
from svhn_vae.evaluation.bound import split_metrics
from svhn_vae.evaluation.latents import posteriors_of
from svhn_vae.evaluation.samples import sample_scores
from svhn_vae.evaluation.score import Score, score_run
from svhn_vae.experiment.build import Job, load_judge
from svhn_vae.experiment.processes import PROCESSES
from svhn_vae.experiment.settings import NULLABLE
from svhn_vae.model.vae import VAE
from svhn_vae.pictures import gallery
from svhn_vae.pictures.gallery import Subject
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs.files import write_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import Config, flatten, identity
from svhn_vae.runs.installation import commit
from svhn_vae.runs.tensors import save_tensors
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.training.callbacks import OrderOfLearning, Progress
from svhn_vae.training.checkpoints import Last, continuation, load_weights, save_prior, save_representation
from svhn_vae.training.interruption import INTERRUPTION
from svhn_vae.training.loggers import History, MLflow, TensorBoard, Wandb

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "scikit-learn", "scipy")
MAX_FITTED = 50_000  # images that a prior is fitted on: more would not change it
DRAWN = ("data", "samples", "reconstructions", "analogies", "digits")  # at a run's end; src/generate.py draws them all


def run(job: Job) -> Config:
    """Trains (from the last checkpoint if there is one), tests, draws; returns what it wrote to result.json.

    A run that was interrupted after its training is not trained any further.

    Raises lit.Diverged for weights or losses that are not finite, and leaves what the run was before that. Raises
    Interrupted if the process was asked to leave. The test images are touched here and nowhere else, once.
    """
    status = "failed"
    try:
        result, status = train_and_score(job), "success"
        return result
    except Diverged:
        try:
            leave_partial_result(job)
        except Exception as error:  # the divergence is the result
            print(f"  its last finite state could not be scored: {type(error).__name__}: {error}", flush=True)
        raise
    finally:
        end_loggers(job, status)


def train_and_score(job: Job) -> Config:
    folder = job.folder
    if not is_trained(job):
        train(job)
    load_weights(job.module.vae, folder.best_checkpoint)
    save_representation(job.module.vae, folder)
    if job.module.vae.prior.is_fitted_last:
        fit_prior(job)
    val = validate(job)
    score = score_test(job)
    if not math.isfinite(score.metrics["test/negative_elbo"]):
        raise Diverged(folder.facts["cost"]["steps"], "the best checkpoint's test score is not finite")
    draw_calibration(job, score)
    draw(job)
    folder.check_there()
    others = folder.facts["learnt"] | bound_of(job, "seen")
    if job.config["judge"] and (judge := load_judge(job.request.cfg, job.data.dataset)) is not None:
        scores = sample_scores(job.module.vae, job.data.dataset, judge)
        log(job, scores.metrics)
        others, score.details["posterior_predictive"] = others | scores.metrics, scores.checks
    result = result_of(job, val | others, score, folder.facts["cost"])
    folder.check_there()
    write_json(folder.path / "result.json", result)
    return result


def is_trained(job: Job) -> bool:
    """Whether an earlier process has trained it, and left the weights whole; else its training is no longer noted."""
    if not {"cost", "learnt"} <= set(job.folder.facts):
        return False
    try:
        load_weights(job.module.vae, job.folder.best_checkpoint)
    except (Damaged, FileNotFoundError) as error:
        print(f"  {error}: trained again", flush=True)
        job.folder.trains_again()
        return False
    return True


def train(job: Job) -> None:
    """From the last checkpoint, or from the beginning."""
    announce_hyperparameters(job)
    resume = continuation(job.folder, job.module, job.data.dataset.digest)
    if resume:
        print(f"  continues from {resume}", flush=True)
    fit(job, resume)
    if INTERRUPTION.is_requested:
        raise Interrupted(INTERRUPTION.signum, "when its training was over")  # pyright: ignore[reportArgumentType]


def fit(job: Job, resume: Path | None) -> None:
    """Fits the model and notes what it cost and what was learnt: of several processes, the first notes it."""
    folder, trainer = job.folder, job.trainer
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.monotonic()
    with PROCESSES.training(trainer.world_size, folder, trainer.strategy.launcher):
        trainer.fit(job.module, datamodule=job.data, ckpt_path=resume, weights_only=True)
    if profile := trainer.profiler.summary():  # Lightning prints it where we keep it quiet  # pyright: ignore[reportAttributeAccessIssue]
        print(profile, flush=True)
    if epochs := callback(trainer, Last).interrupted_after:
        raise Interrupted(INTERRUPTION.signum or signal.SIGTERM, f"after {counted(epochs, 'epoch')}")
    if not trainer.is_global_zero:
        return
    if not folder.best_checkpoint.is_file():
        raise UserError("training ended before the first validation: raise trainer.max_time")
    order = callback(trainer, OrderOfLearning)
    if order is not None:
        order.write(folder.path, job.module.vae)
    cost = cost_of(job, time.monotonic() - start) | {"continued": resume is not None}
    folder.trained(cost, learnt(trainer))


def callback(trainer: L.Trainer, kind: type) -> Any:
    """The trainer's callback of this class, or None."""
    return next((found for found in trainer.callbacks if isinstance(found, kind)), None)  # pyright: ignore[reportAttributeAccessIssue]


def announce_hyperparameters(job: Job) -> None:
    """To TensorBoard what tells the runs of a sweep apart, so that its table opens with this; to other loggers all."""
    choices, settings = job.request.choices, flatten(job.config) | job.request.choices
    shown = {key: of_one_type(key, settings.get(key, "deleted")) for key in job.request.shown}
    for logger in job.trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.announce(shown, job.trainer.max_epochs or -1)
        else:
            logger.log_hyperparams(identity(job.config) | choices)  # pyright: ignore[reportArgumentType]


def of_one_type(key: str, value: Any) -> Any:
    """A setting that is null in other runs as text: TensorBoard's table sorts no column of numbers and texts."""
    return value if key not in NULLABLE or isinstance(value, str) else json.dumps(value)


def log(job: Job, metrics: Mapping[str, float]) -> None:
    """To all loggers, at the end of training."""
    for logger in job.trainer.loggers:
        logger.log_metrics(dict(metrics), num_steps(job))
        logger.save()


def num_steps(job: Job) -> int:
    """Of the training, by this process or by an earlier one."""
    return job.folder.facts.get("cost", {}).get("steps", job.trainer.global_step)


def end_loggers(job: Job, status: str) -> None:
    for logger in job.trainer.loggers:
        logger.finalize(status)
        if isinstance(logger, Wandb):
            logger.end()


def fit_prior(job: Job) -> None:
    """On the posteriors of training images, everything else being as it is."""
    images = every_nth(job.data.dataset.train.images, MAX_FITTED)
    with on_device(job) as vae:
        posteriors = posteriors_of(vae, EvaluationBatches(images, vae.representation))
        vae.prior.fit(*posteriors, derive_seed(Stream.PRIOR, job.config["seed"]))  # pyright: ignore[reportCallIssue]
    save_prior(job.module.vae, job.folder)


def validate(job: Job) -> dict[str, float | None]:
    """The best checkpoint's `val/` metrics, which loggers have as `best/`: they are no part of the curves."""
    metrics = bound_of(job, "val")
    log(job, {f"best/{name.removeprefix('val/')}": value for name, value in metrics.items() if value is not None})
    return metrics


def score_test(job: Job) -> Score:
    """Scores the test images, for loggers and image by image for the run folder."""
    with on_device(job) as vae:
        score = score_run(vae, job.data.evaluation, split="test", iw_samples=job.config["iw_samples"])
    log(job, score.metrics)
    save_tensors(score.per_image, job.folder.path / "per_image.safetensors")
    return score


def bound_of(job: Job, split: str) -> dict[str, float | None]:
    """The metrics of `val`, or of `seen`, training images scored as test images are: their excess is overfitting."""
    with on_device(job) as vae:
        return split_metrics(vae, getattr(job.data.evaluation, split), split)


@contextlib.contextmanager
def on_device(job: Job) -> Iterator[VAE]:
    """The model on the run's device; after that it is on the CPU, so that pictures do not depend on the device."""
    yield job.module.vae.to(job.trainer.strategy.root_device)
    job.module.vae.cpu()


def learnt(trainer: L.Trainer) -> dict[str, float]:
    """Of the training: the last epoch's `train/` metrics, dropout and batch statistics included, and its order."""
    rows = [row for row in callback(trainer, History).rows if "train/objective" in row]
    last = max(rows, key=lambda row: row["step"], default={})
    metrics = {name: value for name, value in last.items() if name.startswith("train/")}
    order = callback(trainer, OrderOfLearning)
    return metrics | (order.rank_correlation() if order is not None else {})


def draw_calibration(job: Job, score: Score) -> None:
    """The plot of sigma's calibration on the test images."""
    if score.calibration:
        picture = calibration.draw(score.calibration, f"test images, {job.folder.path.name}")
        write_png(picture, job.folder.figures / "calibration.png")


def draw(job: Job) -> None:
    """The cheaper pictures of training and validation images, for loggers, too; src/generate.py draws them all."""
    name = job.folder.path.name
    subject = Subject(job.module.vae.eval(), job.data.dataset, name, seed=0, temperature=1.0)
    for drawn in (name for name in DRAWN if name in gallery.possible(subject.vae)):
        picture = gallery.draw(subject, drawn)
        write_png(picture, job.folder.figures / f"{drawn}.png")
        for logger in job.trainer.loggers:
            if isinstance(logger, TensorBoard | MLflow | Wandb):  # a table has no pictures
                logger.log_picture(drawn, picture, num_steps(job))


def leave_partial_result(job: Job) -> None:
    """partial_result.json and pictures of the last finite checkpoint, if there is one. The test images stay unseen."""
    path = load_last_finite(job.module.vae, job.folder)
    if path is None:
        return
    save_representation(job.module.vae, job.folder)
    content = {"checkpoint": path.name, "metrics": bound_of(job, "val"), **described(job)}
    write_json(job.folder.path / "partial_result.json", content)
    draw(job)


def load_last_finite(vae: VAE, folder: RunFolder) -> Path | None:
    """The best checkpoint's weights, or else the last one's; None if there is neither. All on disk are finite."""
    for path in (folder.best_checkpoint, folder.last_checkpoint):
        try:
            load_weights(vae, path)
        except (Damaged, FileNotFoundError):
            continue
        return path
    return None


def result_of(job: Job, metrics: dict[str, float], score: Score, cost: Config) -> Config:
    """`metrics`: all but the test's."""
    dataset, representation = job.data.dataset, job.module.vae.representation
    num_components = representation.event_shape.numel() if representation.is_projection else None
    return {
        **described(job),
        "metrics": metrics | score.metrics,
        "parts": score.parts,
        "details": score.details | {"post_loss_of_gaussian": gaussian_post_loss(job.module.vae, job.data.evaluation)},
        "baselines": baselines(dataset, job.data.moments, num_components, job.data.cache),
        "cost": cost,
    }


def described(job: Job) -> Config:
    """What a result is of."""
    return {
        "name": job.folder.path.name,
        "seed": job.config["seed"],
        "choices": job.request.choices,
        "data": data_facts(job.data.dataset),
        "commit": job.folder.facts.get("commit", commit()),
        "versions": versions(),
        "config": job.config,
    }


def data_facts(dataset: Dataset) -> Config:
    return {
        "name": dataset.name,
        "synthetic": dataset.is_synthetic,
        "digest": dataset.digest,
        "train_digest": dataset.train_digest,
        "test_digest": dataset.test_digest,
        "image_shape": list(dataset.image_shape),
        "num_train": len(dataset.train.labels),
        "num_val": len(dataset.val.labels),
        "num_test": len(dataset.test.labels),
    }


def cost_of(job: Job, seconds: float) -> Config:
    """What `fit` took, validation and checkpoints included; of a continued run, its last part."""
    trainer = job.trainer
    device = trainer.strategy.root_device
    on_gpu, progress = device.type == "cuda", callback(trainer, Progress)
    name = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    return {
        "seconds": seconds,
        "images_per_second": progress.num_images / seconds if progress else None,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "num_parameters": sum(p.numel() for p in job.module.parameters() if p.requires_grad),
        "device": name if trainer.world_size == 1 else f"{trainer.world_size} x {name}",
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}
