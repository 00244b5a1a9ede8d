"""What two runs must have in common to be the same to the last bit: all that they leave but times, costs and logs."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.checkpoints import tensors

TIMES = ("seconds", "cost", "versions", "commit", "sha256")


def fingerprints(study: Path) -> dict[str, str]:
    """`run/file` -> digest of its content, over all runs of a study."""
    runs = sorted(path.parent for path in study.glob("*/result.json"))
    return {f"{run.name}/{name}": digest for run in runs for name, digest in fingerprint(run).items()}


def fingerprint(run: Path) -> dict[str, str]:
    """File -> digest, of a finished run."""
    readers = {
        "*.safetensors": lambda path: of_tensors(load_file(path)),
        "checkpoints/*.ckpt": of_checkpoint,
        "figures/*.png": lambda path: sha(path.read_bytes()),
        "result.json": of_result,
        "history.csv": of_history,
        "status.json": lambda path: RunFolder(run).facts.get("status", ""),
    }
    return {path.name: attempt(read, path) for glob, read in readers.items() for path in sorted(run.glob(glob))}


def attempt(read: Callable[[Path], str], path: Path) -> str:
    try:
        return read(path)
    except Exception as error:  # a damaged file is no reason to stop looking
        return f"unreadable: {error!r}"


def of_checkpoint(path: Path) -> str:
    content = torch.load(path, weights_only=True)
    parts = {name: content.get(name, []) for name in ("state_dict", "optimizer_states")}
    return of_tensors(dict(tensors(parts, "")))


def of_result(path: Path) -> str:
    result = json.loads(path.read_text(encoding="utf-8"))
    return sha(json.dumps({key: result[key] for key in result if key not in TIMES}).encode())


def of_history(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: row[key] for key in row if key not in TIMES} for row in csv.DictReader(file)]
    return sha(json.dumps(rows).encode())


def of_tensors(named: dict[str, torch.Tensor]) -> str:
    parts = [(name, str(value.dtype), list(value.shape), value.numpy().tobytes()) for name, value in named.items()]
    return sha(repr(sorted(parts)).encode())


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
