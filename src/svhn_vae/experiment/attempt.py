"""One attempt at a run: whether it is to be run, and in a line what became of it.

Nothing that happens in it ends a sweep, but being asked to leave.
"""

import contextlib
import functools
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from svhn_vae.errors import (
    MEANT_FOR_A_PERSON,
    Busy,
    Diverged,
    Interrupted,
    UserError,
    one_line,
    root_of,
    wants_traceback,
)
from svhn_vae.evaluation.score import lacks
from svhn_vae.experiment.build import Request, build_job, fit_device, load_data, load_judge
from svhn_vae.experiment.configuration import choices, plain, quiet, register_resolvers
from svhn_vae.experiment.loading import complete_scores
from svhn_vae.experiment.run import fit, run
from svhn_vae.runs.files import locked, replacing
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import DELETED, differences, identity
from svhn_vae.runs.installation import commit

commit_now = functools.cache(commit)  # what this process has read


class Outcome(NamedTuple):
    """What became of a job: done, diverged, failed, or elsewhere, where another process is at it."""

    name: str
    status: str
    reason: str = ""
    value: float = math.nan  # val/negative_elbo, for Hydra's sweepers


def run_job(request: Request, note_study: Callable[[], None]) -> Outcome:
    """Runs the job unless it is done, or at work in another process. Raises Interrupted."""
    try:
        digest = load_data(request.cfg).digest
        note_study()
        found = known(request, digest)
        if found and found.status == "done":
            complete(request)
        return found or run_alone(request, digest)
    except Busy as busy:
        print(f"  left alone: {busy}", flush=True)
        return Outcome(request.folder.path.name, "elsewhere")
    except Exception as error:  # before it has begun: what is in the folder is not this job's
        return failed(request, error, has_begun=False)


def known(request: Request, digest: str) -> Outcome | None:
    """What a finished run has come to; None if it is to be run. Raises UserError if it is of other images."""
    folder = request.folder
    facts, status = folder.facts, folder.facts.get("status", "")
    if request.cfg.rerun or not facts:
        return None
    if facts.get("data") not in (None, digest):
        raise UserError(
            f"this configuration has run already on other images (data {facts['data']}, now {digest}): "
            "use another study=NAME, or rerun=true"
        )
    check_same_settings(request)
    if not folder.is_finished:
        return None
    said = f", made at commit {facts['commit']}, now {commit_now()}" if is_of_other_code(folder) else ""
    damage = f" ({folder.damage})" if folder.damage else ""
    print(f"  {status} already{said}{damage}; rerun=true makes it anew", flush=True)
    return Outcome(folder.path.name, status, value=folder.result.get("metrics", {}).get("val/negative_elbo", math.nan))


def check_same_settings(request: Request) -> None:
    """Raises UserError where a shipped default has changed since the run was made: its name does not tell."""
    now, then = plain(request.cfg), identity(request.folder.facts.get("config", {}))
    for key, value in differences(now, then).items():
        if key in then and value is not DELETED:
            raise UserError(
                f"this run was made with {key}={then[key]}, a default that is now {value}: "
                "use another study=NAME, or rerun=true"
            )


def complete(request: Request) -> None:
    """Adds scores that are asked for to the result of a finished run, from its weights. Raises Busy."""
    cfg, folder = request.cfg, request.folder
    if not lacks(folder.result, judge=cfg.judge, iw_samples=cfg.iw_samples):
        return
    dataset = load_data(cfg)
    with locked(folder.path):
        judge = load_judge(cfg, dataset) if lacks(folder.result, judge=cfg.judge, iw_samples=0) else None
        if judge is None and not lacks(folder.result, judge=False, iw_samples=cfg.iw_samples):
            return
        complete_scores(folder, dataset, judge, iw_samples=cfg.iw_samples, device=fit_device(cfg))
    print(f"  scored with what is asked for now: {in_words(folder.result)}", flush=True)


def is_of_other_code(folder: RunFolder) -> bool:
    """Whether the commit is known, and another one now."""
    return folder.facts.get("commit") not in (None, commit_now())


def run_alone(request: Request, digest: str) -> Outcome:
    """Under the run's lock. Raises Busy if another process has it, and Interrupted."""
    cfg, folder = request.cfg, request.folder
    with locked(folder.path):
        if (outcome := known(request, digest)) is not None:  # it may have been done in between
            return outcome
        announce_continuation(request)
        try:
            note_configuration(request)
            folder.begin(digest, plain(cfg), request.choices, commit_now())
            result = run(build_job(request))
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
            return failed(request, error, has_begun=True)
    print(f"  {in_words(result)}", flush=True)
    return Outcome(folder.path.name, "done", value=result["metrics"]["val/negative_elbo"])


def announce_continuation(request: Request) -> None:
    """Sets an earlier run aside for rerun=true, and says what is known of the one that goes on."""
    folder = request.folder
    if request.cfg.rerun and folder.facts:
        print(f"  the earlier run is now {folder.set_aside()}", flush=True)
    if folder.damage:
        print(f"  {folder.damage}", flush=True)
    if is_of_other_code(folder):
        print(f"  begun at commit {folder.facts['commit']}, now {commit_now()}; rerun=true starts over", flush=True)


def fit_along(path: Path) -> None:
    """What another process than the first does for a run that the first has begun: fits it with the first."""
    quiet()
    register_resolvers()
    cfg, hydra_cfg = (OmegaConf.load(path / ".hydra" / f"{name}.yaml") for name in ("config", "hydra"))
    request = Request(cfg, choices(hydra_cfg.hydra), RunFolder(path))  # pyright: ignore[reportArgumentType]
    last = request.folder.last_checkpoint
    fit(build_job(request), last if last.is_file() else None)  # the first has looked at it


def in_words(result: dict) -> str:
    bits = result["metrics"].get("test/bits_per_dim")
    score = "no density of pixels, so no bits/dim," if bits is None else f"test {bits:.3f} bits/dim"
    return f"{score} on {result['data']['name']} data, trained in {result['cost']['seconds']:.0f} s"


def failed(request: Request, error: Exception, *, has_begun: bool) -> Outcome:
    """Says it in a line; of a bug the traceback, too, which error.log has in any case. In an except block."""
    folder, cause = request.folder, root_of(error)
    is_expected, reason = isinstance(cause, MEANT_FOR_A_PERSON), one_line(cause)
    if is_out_of_memory(cause):
        is_expected = True
        size = f"batch_size={request.cfg.batch_size}"
        reason = f"out of memory with {size}: lower batch_size, network_scale or data.limit"
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


def note_configuration(request: Request) -> None:
    """What Hydra itself writes into .hydra/, but only once the run begins; with --config-dir among the overrides."""
    hydra_cfg: Any = HydraConfig.instance().cfg
    sources = hydra_cfg.hydra.runtime.config_sources
    places = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    typed = OmegaConf.create([*places, *hydra_cfg.hydra.overrides.task])
    contents = {"config": request.cfg, "hydra": hydra_cfg, "overrides": typed}
    for name, content in contents.items():
        with replacing(request.folder.path / ".hydra" / f"{name}.yaml") as beside:
            beside.write_text(OmegaConf.to_yaml(content), encoding="utf-8")
