"""Trains, tests and compares VAEs: python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true"""

import logging
import math
import traceback
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from svhn_vae import job
from svhn_vae.build import build_job, choices, register_resolvers
from svhn_vae.commandline import check
from svhn_vae.data.mat import DataError
from svhn_vae.lit import Diverged
from svhn_vae.runs import RunFolder

MEANT_FOR_A_PERSON = (ValueError, OSError, DataError)
register_resolvers()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One run of a sweep. Returns its val/negative_elbo, NaN if it diverged or failed: a sweep goes on."""
    quiet()
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    print(f"\n{folder.path.name}", flush=True)
    try:
        return train(cfg, folder)
    except Diverged as error:
        folder.end("diverged", str(error), error.step)
        print(f"  diverged: {error}", flush=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
        if not folder.is_finished:
            folder.end("interrupted", "the same command continues it")
        print("  interrupted: the same command continues it", flush=True)
        raise
    except Exception as error:
        cause = root_of(error)
        reason = one_line(cause)
        folder.error_log.write_text(traceback.format_exc())
        if not folder.is_finished:
            folder.end("failed", reason)
        where = "" if isinstance(cause, MEANT_FOR_A_PERSON) else f" (traceback: {folder.error_log})"
        print(f"  failed: {reason}{where}", flush=True)
    return math.nan


def train(cfg: DictConfig, folder: RunFolder) -> float:
    """Runs the job, or says why it need not run."""
    hydra_cfg = HydraConfig.get()
    chosen = choices(hydra_cfg)
    check(cfg, list(hydra_cfg.overrides.task), chosen)
    built = build_job(cfg, chosen, folder)
    dataset, before = built.data.dataset, folder.facts.get("data")
    if before not in (None, dataset.digest) and not cfg.rerun:
        raise ValueError(
            f"this configuration has run already on other images (data {before}, now {dataset.digest}): "
            "use another study=NAME, or rerun=true"
        )
    if folder.is_finished and not cfg.rerun:
        return finished(folder)
    if cfg.rerun and folder.facts:
        print(f"  the earlier run is now {folder.set_aside()}", flush=True)
    folder.begin(dataset.digest, built.config, chosen)
    result = job.run(built)
    folder.end("done")
    metrics, seconds = result["metrics"], result["cost"]["seconds"]
    bits = metrics.get("test/bits_per_dim")
    score = "no density of pixels, so no bits/dim," if bits is None else f"test {bits:.3f} bits/dim"
    print(f"  {score} on {dataset.name} data, trained in {seconds:.0f} s", flush=True)
    return metrics["val/negative_elbo"]


def finished(folder: RunFolder) -> float:
    """A finished run is not run again."""
    status = folder.facts["status"]
    print(f"  {status} already; rerun=true to start over", flush=True)
    return folder.result["metrics"]["val/negative_elbo"] if status == "done" else math.nan


def root_of(error: BaseException) -> BaseException:
    """The first error that was meant for a person, else the first cause; Hydra wraps what a constructor raises."""
    while not isinstance(error, MEANT_FOR_A_PERSON) and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return message if isinstance(error, MEANT_FOR_A_PERSON) else f"{type(error).__name__}: {message}"


def quiet() -> None:
    """Leaves out what libraries say about choices that are made here on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")  # Lightning on torch 2.13
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


if __name__ == "__main__":
    main()
