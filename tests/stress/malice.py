"""A stranger's files: code in pickles, in YAML tags and behind `_target_`, paths that lead elsewhere, and HTML.

Each payload would make a file named PWNED in the folder that it was built for.
"""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

MARK = "PWNED"


class Payload:
    """Unpickled, it runs a command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (command(self.folder),)


def command(folder: Path) -> str:
    return f"touch {folder / MARK}"


def pickles(folder: Path) -> dict[str, bytes]:
    """Name -> a file that runs code in whatever unpickles it."""
    payload = Payload(folder)
    content = {"state_dict": payload, "digest": payload, "callbacks": {}, "loops": {}}
    return {
        "pickle": pickle.dumps(payload),
        "pickle of protocol 0": pickle.dumps(content, 0),
        "object array": saved(np.save, np.array([payload], dtype=object)),
        "npz of objects": saved(
            lambda file, arrays: np.savez(file, **arrays), {"mean": np.array([payload], dtype=object)}
        ),
        "torch, zip": saved(lambda file, what: torch.save(what, file), content),
        "torch, legacy": saved(
            lambda file, what: torch.save(what, file, _use_new_zipfile_serialization=False), content
        ),
    }


def saved(save: Callable[[io.BytesIO, Any], None], content: Any) -> bytes:
    file = io.BytesIO()
    save(file, content)
    return file.getvalue()


def unpickled(content: bytes) -> None:
    """What a program without care would do: the control, which shows that the payloads work."""
    if content.startswith(b"\x93NUMPY") or b".npy" in content[:60]:
        found = np.load(io.BytesIO(content), allow_pickle=True)
        _ = found["mean"] if isinstance(found, np.lib.npyio.NpzFile) else found
    elif content.startswith((b"\x80\x04", b"(", b"c")):
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)


def configurations(config: dict, folder: Path) -> dict[str, str]:
    """Name -> a run's config.yaml, changed so that building it would run code."""
    call = {"_target_": "os.system", "_args_": [command(folder)]}
    # A class, of which hydra's get_class does not complain; to make one makes the file.
    writer = {"_target_": "logging.FileHandler", "filename": str(folder / MARK)}
    whole = {
        "a class": writer,
        "a function": call,
        "a process": {"_target_": "subprocess.check_output", "args": command(folder), "shell": True},
        "what a module imports": {"_target_": "svhn_vae.runs.files.os.system", "_args_": [command(folder)]},
        "a function of ours": {"_target_": "svhn_vae.experiment.build.instantiate", "config": call},
        "a method of ours": {"_target_": "svhn_vae.runs.folder.RunFolder.set_aside", "self": "x"},
        "partial": {**call, "_partial_": True},
        "a class by interpolation": "${writer}",
        "a function by interpolation": {"_target_": "${aim}", "_args_": [command(folder)]},
        "by two interpolations": {"_target_": "${a}.system", "_args_": [command(folder).replace("touch", "${tool}")]},
        "by an escape": {"_target_": "\\${aim}", "_args_": [command(folder)]},
    }
    aims, changes = {"aim": "os.system", "a": "os", "tool": "touch", "writer": writer}, {}
    for group in ("pca", "model", "variance", "prior", "data", "condition"):
        own = config.get(group, {})
        place = next((key for key in own if key != "_target_"), "any")  # a setting to nest something in
        nested = {"a class": writer, "a function": call, "a list": [[call]], **ours(folder)}
        changes |= {f"{name}: {group}": {group: value} for name, value in whole.items()}
        changes |= {f"nested, {name}: {group}": {group: {**own, place: [value]}} for name, value in nested.items()}
        changes |= {f"{key} at the top: {group}": {group: {**own, key: value}} for key, value in HYDRAS}
    files = {name: yaml.safe_dump({**config, **aims, **change}) for name, change in changes.items()}
    for tag in ("python/object/apply:os.system", "python/object/new:os.system"):
        files[f"!!{tag}"] = f"{yaml.safe_dump(config)}\nevil: !!{tag} ['{command(folder)}']\n"
    return files


HYDRAS = (("_partial_", True), ("_args_", [1]), ("_convert_", "all"), ("_recursive_", False))


def ours(folder: Path) -> dict[str, dict]:
    """What this framework has that makes files, or that is of another group, to be nested below a group's class."""
    mark = str(folder / MARK)
    path = {"_target_": "pathlib.Path", "_args_": [mark]}
    writer = {"_target_": "svhn_vae.runs.folder.write_json", "path": path, "content": {}}
    return {
        "ours, a function": {**writer, "_convert_": "all"},
        "ours, a class": {"_target_": "svhn_vae.runs.folder.RunFolder", "path": path},
        "ours, of the group": {"_target_": "svhn_vae.model.variance.Fixed", "sigma": 1, "event_shape": [3]},
        "ours, partial": {**writer, "_partial_": True},
    }


SCRIPT = "<script>alert(1)</script>"


def elsewhere(result: dict, status: dict, study: dict) -> dict[str, str]:
    """File -> the same content with every text replaced by HTML that leads out of the folder."""

    def evil(content: Any, key: str = "") -> Any:
        if isinstance(content, dict):
            return {name: evil(value, name) for name, value in content.items()}
        if isinstance(content, list):
            return [evil(value, key) for value in content]
        return (
            content
            if key in ("status", "digest", "_target_") or not isinstance(content, str)
            else f"../../{SCRIPT}/{content}"
        )

    question = {**study, "question": f"../../{SCRIPT}", "hypotheses": []}
    return {"result.json": json.dumps(evil(result)), "status.json": json.dumps(evil(status)),
            "../study.json": json.dumps(evil(question))}  # fmt: skip
