"""One run, from its configuration to its result: whether it is to be run, fit, test, draw, write; what came of it.

Nothing that happens in a run ends a sweep, but being asked to leave.
"""

import contextlib
import functools
import importlib.metadata
import logging
import math
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L  # noqa: N812  its usual name
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.data.moments import spaced
from svhn_vae.data.sources import Dataset
from svhn_vae.errors import (
    MEANT_FOR_A_PERSON,
    Busy,
    Damaged,
    Diverged,
    Interrupted,
    UserError,
    one_line,
    root_of,
    wants_traceback,
)
from svhn_vae.evaluation import calibration
from svhn_vae.evaluation.baselines import baselines, gaussian_post_loss
from svhn_vae.evaluation.bound import split_metrics
from svhn_vae.evaluation.judged import judged
from svhn_vae.evaluation.latents import posteriors_of
from svhn_vae.evaluation.score import Score, score_run
from svhn_vae.experiment.build import Job, build_job, load_data
from svhn_vae.experiment.configuration import plain, register_resolvers
from svhn_vae.experiment.ranks import Place, num_ranks, run_on_ranks
from svhn_vae.model.vae import VAE
from svhn_vae.pictures import gallery
from svhn_vae.pictures.gallery import Subject
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs.files import replacing
from svhn_vae.runs.folder import RunFolder, write_json
from svhn_vae.runs.identity import DELETED, Config, differences, identity
from svhn_vae.runs.lock import locked
from svhn_vae.runs.study import commit
from svhn_vae.runs.tensors import save_tensors
from svhn_vae.runs.weights import load_best, save_prior, save_representation
from svhn_vae.seeds import Stream, derive_seed
from svhn_vae.training.callbacks import OrderOfLearning, Progress
from svhn_vae.training.checkpoints import Last, continuation, history_of
from svhn_vae.training.divergence import load_last_finite
from svhn_vae.training.interruption import INTERRUPTION

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "scikit-learn", "scipy")
MAX_FITTED = 50_000  # images that a prior is fitted on: more would not change it
DRAWN = ("data", "samples", "reconstructions", "analogies")  # at a run's end; src/generate.py draws them all


commit_now = functools.cache(commit)  # what this process has read


class Outcome(NamedTuple):
    """What became of a job: done, diverged, failed, or elsewhere, where another process is at it."""

    name: str
    status: str
    reason: str = ""
    value: float = math.nan  # val/negative_elbo, for Hydra's sweepers


def run_job(cfg: DictConfig, chosen: dict[str, str], folder: RunFolder, note_study: Callable[[], None]) -> Outcome:
    """Runs the job unless it is done, or at work in another process. Raises Interrupted."""
    try:
        digest = load_data(cfg).digest
        note_command(folder, note_study)
        return known(cfg, folder, digest) or run_alone(cfg, chosen, folder, digest)
    except Busy as busy:
        print(f"  left alone: {busy}", flush=True)
        return Outcome(folder.path.name, "elsewhere")
    except Exception as error:  # before it has begun: what is in the folder is not this job's
        return failed(cfg, folder, error, has_begun=False)


def note_command(folder: RunFolder, note_study: Callable[[], None]) -> None:
    """Says so where that cannot be: a finished run is told all the same, another says itself what it cannot write."""
    try:
        note_study()
    except (OSError, Busy) as error:
        print(f"  the command cannot be noted in {folder.path.parent}: {one_line(error)}", flush=True)


def known(cfg: DictConfig, folder: RunFolder, digest: str) -> Outcome | None:
    """What a finished run has come to; None if it is to be run. Raises UserError if it is of other images."""
    facts, status = folder.facts, folder.facts.get("status", "")
    if cfg.rerun or not facts:
        return None
    if facts.get("data") not in (None, digest):
        raise UserError(
            f"this configuration has run already on other images (data {facts['data']}, now {digest}): "
            "use another study=NAME, or rerun=true"
        )
    check_same_settings(cfg, facts)
    if not folder.is_finished:
        return None
    said = f", made at commit {facts['commit']}, now {commit_now()}" if is_of_other_code(folder) else ""
    damage = f" ({folder.damage})" if folder.damage else ""
    print(f"  {status} already{said}{damage}; rerun=true makes it anew", flush=True)
    return Outcome(folder.path.name, status, value=folder.result.get("metrics", {}).get("val/negative_elbo", math.nan))


def check_same_settings(cfg: DictConfig, facts: Config) -> None:
    """Raises UserError where a shipped default has changed since the run was made: its name does not tell."""
    now, then = plain(cfg), identity(facts.get("config", {}))
    found = {key: value for key, value in differences(now, then).items() if key in then and value is not DELETED}
    for key, value in found.items():
        raise UserError(
            f"this run was made with {key}={then[key]}, a default that is now {value}: "
            "use another study=NAME, or rerun=true"
        )


def is_of_other_code(folder: RunFolder) -> bool:
    """Whether the commit is known, and another one now."""
    return folder.facts.get("commit") not in (None, commit_now()) and commit_now() is not None


def run_alone(cfg: DictConfig, chosen: dict[str, str], folder: RunFolder, digest: str) -> Outcome:
    """Under the run's lock. Raises Busy if another process has it, and Interrupted."""
    with locked(folder.path):
        if (outcome := known(cfg, folder, digest)) is not None:  # it may have been done in between
            return outcome
        announce_continuation(cfg, folder)
        try:
            note_configuration(folder, cfg)
            folder.begin(digest, plain(cfg), chosen, commit_now())
            result = run(divided(build_job(cfg, chosen, folder), cfg))
            folder.end("done")
        except Diverged as error:
            print(f"  diverged: {error}", flush=True)
            note_end(folder, "diverged", str(error), error.step, state=error.state)
            return Outcome(folder.path.name, "diverged", str(error))
        except (Interrupted, KeyboardInterrupt) as error:
            how = f"the same command{' without rerun=true' if cfg.rerun else ''} continues it"
            print(f"  interrupted{f' {error}' if str(error) else ''}: {how}", flush=True)
            note_end(folder, "interrupted", how)
            raise
        except Exception as error:
            return failed(cfg, folder, error, has_begun=True)
    print(f"  {in_words(result)}", flush=True)
    return Outcome(folder.path.name, "done", value=result["metrics"]["val/negative_elbo"])


def announce_continuation(cfg: DictConfig, folder: RunFolder) -> None:
    """Sets an earlier run aside for rerun=true, and says what is known of the one that goes on."""
    if cfg.rerun and folder.facts:
        print(f"  the earlier run is now {folder.set_aside()}", flush=True)
    if folder.damage:
        print(f"  {folder.damage}", flush=True)
    if is_of_other_code(folder):
        print(f"  begun at commit {folder.facts['commit']}, now {commit_now()}; rerun=true starts over", flush=True)


def divided(built: Job, cfg: DictConfig) -> Job:
    """The job as it is, or one that is fitted in several processes."""
    num = num_ranks(cfg.trainer.devices, cfg.trainer.strategy, cfg.batch_size)
    if num == 1:
        return built
    described = (cfg, HydraConfig.instance().cfg, built.choices, built.folder)
    return built._replace(
        fit_on_ranks=lambda resume: run_on_ranks(functools.partial(fit_rank, *described, resume), num)
    )


def fit_rank(
    cfg: DictConfig, hydra_cfg: DictConfig, chosen: dict[str, str], folder: RunFolder, resume: Path | None, place: Place
) -> None:
    """What each of these processes does: builds the run anew, and fits it."""
    quiet()
    register_resolvers()
    HydraConfig.instance().set_config(hydra_cfg)
    fit(build_job(cfg, chosen, folder, place), resume)


def in_words(result: dict) -> str:
    bits = result["metrics"].get("test/bits_per_dim")
    score = "no density of pixels, so no bits/dim," if bits is None else f"test {bits:.3f} bits/dim"
    return f"{score} on {result['data']['name']} data, trained in {result['cost']['seconds']:.0f} s"


def failed(cfg: DictConfig, folder: RunFolder, error: Exception, *, has_begun: bool) -> Outcome:
    """Says it in a line; of a bug the traceback, too, which error.log has in any case. In an except block."""
    cause = root_of(error)
    is_expected, reason = isinstance(cause, MEANT_FOR_A_PERSON), one_line(cause)
    if is_out_of_memory(cause):
        is_expected = True
        reason = f"out of memory with batch_size={cfg.batch_size}: lower batch_size, network_scale or data.limit"
    if (has_begun or not is_expected) and folder.path.is_dir():
        with contextlib.suppress(OSError):
            folder.error_log.write_text(traceback.format_exc(), encoding="utf-8")
    if wants_traceback() or not is_expected:
        print(traceback.format_exc(), flush=True)
    print(f"  failed: {reason}", flush=True)
    if has_begun:
        note_end(folder, "failed", reason)
    return Outcome(folder.path.name, "failed", reason)


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device or of the machine, where torch has no class of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def note_end(folder: RunFolder, status: str, reason: str, step: int | None = None, **facts: object) -> None:
    """Says so where it cannot be written: what happened has been said. A folder that was removed stays so."""
    if not folder.path.is_dir():
        return
    try:
        folder.end(status, reason, step, **facts)
    except OSError as error:
        print(f"  this cannot be noted in its folder: {one_line(error)}", flush=True)


def note_configuration(folder: RunFolder, cfg: DictConfig) -> None:
    """What Hydra itself writes into .hydra/, but only once the run begins."""
    hydra_cfg = HydraConfig.instance().cfg
    contents = {"config": cfg, "hydra": hydra_cfg, "overrides": hydra_cfg.hydra.overrides.task}
    for name, content in contents.items():
        with replacing(folder.path / ".hydra" / f"{name}.yaml") as beside:
            beside.write_text(OmegaConf.to_yaml(content), encoding="utf-8")


def quiet() -> None:
    """Leaves out what libraries say about choices that are made here on purpose."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # what it logs as an error, it raises as well
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")  # Lightning on torch 2.13
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")  # joblib's has grown
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


# --- training, scoring, drawing ---------------------------------------------------------------------------------------


def run(job: Job) -> Config:
    """Trains (from the last checkpoint if there is one), tests, draws; returns what it wrote to result.json.

    A run that was interrupted after its training is not trained any further.

    Raises lit.Diverged for weights or losses that are not finite, and leaves what the run was before that. Raises
    Interrupted if the process was asked to leave. The test images are touched here and nowhere else, once.
    """
    try:
        return train_and_score(job)
    except Diverged:
        try:
            leave_partial_result(job)
        except Exception as error:  # the divergence is the result
            print(f"  its last finite state could not be scored: {type(error).__name__}: {error}", flush=True)
        raise


def train_and_score(job: Job) -> Config:
    folder = job.folder
    if not is_trained(job):
        train(job)
    load_best(job.module.vae, folder)
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
    if job.judge is not None:
        others |= judged(job.module.vae, job.data.dataset, job.judge(job.data.dataset)).metrics
    result = result_of(job, val | others, score, folder.facts["cost"])
    folder.check_there()
    write_json(folder.path / "result.json", result)
    return result


def is_trained(job: Job) -> bool:
    """Whether an earlier process has trained it, and left the weights whole; else its training is no longer noted."""
    if not {"cost", "learnt"} <= set(job.folder.facts):
        return False
    try:
        load_best(job.module.vae, job.folder)
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
    if job.fit_on_ranks is None:
        fit(job, resume)
    else:
        job.fit_on_ranks(resume)
    if INTERRUPTION.is_requested:
        raise Interrupted(INTERRUPTION.signum, "when its training was over")


def fit(job: Job, resume: Path | None) -> None:
    """Fits the model and notes what it cost and what was learnt: of several processes, the first notes it."""
    folder, trainer = job.folder, job.trainer
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.monotonic()
    trainer.fit(job.module, datamodule=job.data, ckpt_path=resume, weights_only=True)
    if profile := trainer.profiler.summary():  # Lightning prints it where we keep it quiet
        print(profile, flush=True)
    if epochs := callback(trainer, Last).interrupted_after:
        raise Interrupted(INTERRUPTION.signum, f"after {epochs} epochs")
    if not trainer.is_global_zero:
        return
    order = callback(trainer, OrderOfLearning)
    if order is not None:
        order.write(folder.path, job.module.vae)
    cost = cost_of(job, time.monotonic() - start) | {"continued": resume is not None}
    folder.trained(cost, learnt(trainer))


def callback(trainer: L.Trainer, kind: type) -> Any:
    """The trainer's callback of this class, or None."""
    return next((found for found in trainer.callbacks if isinstance(found, kind)), None)


def announce_hyperparameters(job: Job) -> None:
    """To TensorBoard: the choices, and what was typed or swept."""
    settings = {**identity(job.config), **job.choices}
    shown = (*job.choices, "seed", *job.typed)
    values = {key: settings[key] for key in shown if isinstance(settings.get(key), bool | int | float | str)}
    job.trainer.logger.experiment.announce(values)


def fit_prior(job: Job) -> None:
    """On the posteriors of training images, everything else being as it is."""
    images = spaced(job.data.dataset.train.images, MAX_FITTED)
    with on_device(job) as vae:
        posteriors = posteriors_of(vae, EvaluationBatches(images, vae.representation, keep=False))
        vae.prior.fit(*posteriors, derive_seed(Stream.PRIOR, job.config["seed"]))
    save_prior(job.module.vae, job.folder)


def validate(job: Job) -> dict[str, float | None]:
    """The best checkpoint's `val/` metrics, which TensorBoard has as `best/`: they are no part of the curves."""
    metrics = bound_of(job, "val")
    best = {f"best/{name.removeprefix('val/')}": value for name, value in metrics.items() if value is not None}
    job.trainer.logger.log_metrics(best, job.folder.facts["cost"]["steps"])
    return metrics


def score_test(job: Job) -> Score:
    """Scores the test images, for TensorBoard and image by image for the run folder."""
    logger = job.trainer.logger
    with on_device(job) as vae:
        score = score_run(vae, job.data.represented, split="test", iw_samples=job.config["iw_samples"])
    logger.log_metrics(score.metrics, job.folder.facts["cost"]["steps"])
    logger.finalize("success")
    save_tensors(score.per_image, job.folder.path / "per_image.safetensors")
    if score.calibration:
        by_component = calibration.by_component(score.calibration, job.module.vae.representation)
        save_tensors(by_component, job.folder.path / "calibration.safetensors")
    return score


def bound_of(job: Job, split: str) -> dict[str, float | None]:
    """The metrics of `val`, or of `seen`, training images scored as test images are: their excess is overfitting."""
    with on_device(job) as vae:
        return split_metrics(vae, getattr(job.data.represented, split), split)


@contextlib.contextmanager
def on_device(job: Job) -> Iterator[VAE]:
    """The model on the run's device; after that it is on the CPU, so that pictures do not depend on the device."""
    yield job.module.vae.to(job.trainer.strategy.root_device)
    job.module.vae.cpu()


def learnt(trainer: L.Trainer) -> dict[str, float]:
    """Of the training: the last epoch's `train/` metrics, dropout and batch statistics included, and its order."""
    rows = [row for row in history_of(trainer).rows if "train/objective" in row]
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
    """The cheaper pictures of training and validation images; src/generate.py draws them all."""
    name = job.folder.path.name
    subject = Subject(job.module.vae.eval(), job.data.dataset, name, seed=0, temperature=1.0)
    for drawn in DRAWN:
        write_png(gallery.draw(subject, drawn), job.folder.figures / f"{drawn}.png")


def leave_partial_result(job: Job) -> None:
    """partial_result.json and pictures of the last finite checkpoint, if there is one. The test images stay unseen."""
    path = load_last_finite(job.module.vae, job.folder)
    if path is None:
        return
    save_representation(job.module.vae, job.folder)
    content = {"checkpoint": path.name, "metrics": bound_of(job, "val"), **described(job)}
    write_json(job.folder.path / "partial_result.json", content)
    draw(job)


def result_of(job: Job, metrics: dict[str, float], score: Score, cost: Config) -> Config:
    """`metrics`: all but the test's."""
    dataset, representation = job.data.dataset, job.module.vae.representation
    num_components = representation.event_shape.numel() if representation.is_projection else None
    return {
        **described(job),
        "metrics": metrics | score.metrics,
        "parts": score.parts,
        "details": score.details | {"post_loss_of_gaussian": gaussian_post_loss(job.module.vae, job.data.represented)},
        "baselines": baselines(dataset, job.data.moments, num_components, job.data.cache),
        "cost": cost,
    }


def described(job: Job) -> Config:
    """What a result is of."""
    return {
        "name": job.folder.path.name,
        "seed": job.config["seed"],
        "choices": job.choices,
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
