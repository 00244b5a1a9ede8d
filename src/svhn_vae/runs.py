"""A run is its configuration: its identity, its folder, its status. Knows neither torch nor Hydra.

outputs/<study>/<readable name>-<hash>/ holds status.json, result.json, checkpoints, TensorBoard events and figures/.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svhn_vae.atomic import replacing

Config = dict[str, Any]

# What does not change a result: where things lie, who watches, on what it runs.
NOT_IDENTITY = (
    "study", "question", "hypotheses", "rerun", "judge", "cache", "logger", "callbacks.progress", "callbacks.pictures",
    "callbacks.order_of_learning", "data.root", "data.verify", "data.url", "trainer.accelerator", "trainer.devices",
    "trainer.profiler", "trainer.detect_anomaly", "compile", "checkpoint_every_n_epochs", "iw_samples",
)  # fmt: skip


def flatten(config: Mapping[str, Any], prefix: str = "") -> Config:
    """Nested mappings -> one level with dotted keys, in order."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(config: Mapping[str, Any]) -> Config:
    """The part of a resolved configuration that decides its result, flat."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
    }


def run_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """A readable name and the hash of the identity, for instance dense-logvar-pca500-white-spectrum-seed0-1a2b3c4d."""
    pca = config["pca"]
    words = [choices["model"], choices["variance"]]
    words += ["synthetic"] if choices["data"] == "synthetic" else []
    if pca.get("n_components") is None:
        words += ["pixels"]
    else:
        basis = "pca" if choices["pca"] == "default" else choices["pca"]
        words += [f"{basis}{pca['n_components']}", "white" if pca["whiten"] else "raw", str(pca["residual"])]
    text = json.dumps(identity(config), sort_keys=True, default=str)
    return "-".join([*words, f"seed{config['seed']}", hashlib.sha256(text.encode()).hexdigest()[:8]])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as beside, beside.open("w") as file:
        json.dump(content, file, indent=2)


def read_json(path: Path) -> Config:
    """The file's object, or {} where there is none or a damaged one."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


KEPT = ("started", "data", "config", "choices", "cost")  # facts that outlast a change of status


class RunFolder:
    """One run's folder: its status and its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.representation = path / "representation.safetensors"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.error_log = path / "error.log"

    @property
    def facts(self) -> Config:
        """status (running, interrupted, done, diverged, failed), reason, step, started, ended, the data's digest,
        configuration and choices, and the cost once training has ended; {} before it begins."""
        return read_json(self.path / "status.json")

    @property
    def is_finished(self) -> bool:
        """It has its result, and nothing that happens later may take it away."""
        status = self.facts.get("status")
        return status == "diverged" or (status == "done" and bool(self.result))

    @property
    def result(self) -> Config:
        return read_json(self.path / "result.json")

    def begin(self, data: str, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        """`data` is the digest of the images, `choices` the file chosen in each group."""
        self._write_status("running", started=time.time(), data=data, config=config, choices=choices)

    def trained(self, cost: Config) -> None:
        """Training has ended: what is left is to evaluate."""
        self._write_status("running", cost=cost)

    def end(self, status: str, reason: str = "", step: int | None = None) -> None:
        """The run is over for now; `reason` in a line, `step` where it happened."""
        self._write_status(status, reason=reason, step=step, ended=time.time())

    def _write_status(self, status: str, **facts: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in self.facts.items() if name in KEPT}
        write_json(self.path / "status.json", {**kept, "status": status, **facts})

    def set_aside(self) -> Path:
        """Renames the folder, so that a run can start over without deleting the old one; returns its new path."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.previous{number}")).exists():
            number += 1
        self.path.rename(aside)
        shutil.copytree(aside / ".hydra", self.path / ".hydra")  # Hydra wrote it before the job began
        return aside
