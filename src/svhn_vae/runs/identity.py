"""A run's identity: what was chosen, and which values differ from the shipped defaults of those choices.

So a class may move, and a setting may be added with a default, and no run gets another name. Where a run lies, who
watches it and on what it is computed are no part of it. Knows neither torch nor Hydra.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

# What does not change a result: where things lie, who watches, on what it runs.
NOT_IDENTITY = (
    "study", "question", "hypotheses", "rerun", "impossible", "on_error", "judge", "cache", "memory_map", "logger",
    "callbacks.progress", "callbacks.pictures", "callbacks.order_of_learning", "data.root", "data.verify", "data.url",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.profiler",
    "trainer.detect_anomaly", "compile", "compile_mode", "updates_per_step", "checkpoint_every_n_epochs", "iw_samples",
)  # fmt: skip
# Where 1 is one image or one batch, and 1.0 is all of them.
COUNT_OR_FRACTION = ("data.limit", "trainer.limit_train_batches")
DELETED = {"deleted": True}  # in place of the value of a setting that was taken out; no setting has such a value


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
    """The settings of a resolved configuration that decide its result, flat; without the names of classes."""
    return {key: value for key, value in flatten(config).items() if is_decisive(key)}


def is_decisive(key: str) -> bool:
    """Whether a dotted setting, or a group, can change a result. `_target_` and its like are Hydra's."""
    is_hydras = key.rpartition(".")[2].startswith("_")
    return not is_hydras and not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """The decisive settings of a resolved configuration that are not as in the defaults, each in one spelling."""
    ours, shipped = ({key: _one_spelling(key, value) for key, value in identity(each).items()}
                     for each in (config, defaults))  # fmt: skip
    changed = {key: value for key, value in ours.items() if key not in shipped or not _same(value, shipped[key])}
    return changed | {key: DELETED for key in shipped if key not in ours}


def _one_spelling(key: str, value: Any) -> Any:
    """1 for 1.0, as both are one number in YAML, where the setting does not tell a count from a fraction."""
    if isinstance(value, list | tuple):
        return [_one_spelling(key, each) for each in value]
    is_whole = isinstance(value, float) and value.is_integer() and key not in COUNT_OR_FRACTION
    return int(value) if is_whole else value


def _same(a: Any, b: Any) -> bool:
    """As JSON writes them: True is not 1, and 1 not 1.0."""
    return json.dumps(a, default=str) == json.dumps(b, default=str)


def run_name(
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    defaults: Mapping[str, Any],
    default_choices: Mapping[str, str],
) -> str:
    """A readable name and a hash of the identity, such as dense-relu_eps-epsilon0.1-pca500-raw-spectrum-seed0-1a2b3c4d.

    config: resolved. choices: group -> file, of which presets name the file that they extend. defaults: the shipped
    values of those files. default_choices: what is chosen where nothing is typed.
    """
    changed = differences(config, defaults)
    chosen = {
        group: choice
        for group, choice in choices.items()
        if is_decisive(group) and choice != default_choices.get(group)
    }
    text = json.dumps({"choices": chosen, "values": changed}, sort_keys=True, default=str)
    words = _words(config, choices, changed)
    return "-".join([*words, f"seed{config['seed']}", hashlib.sha256(text.encode()).hexdigest()[:8]])


def _words(config: Mapping[str, Any], choices: Mapping[str, str], changed: Config) -> list[str]:
    """What a person tells runs apart by: the network, the head and its numbers, other data, the coordinates."""
    head = [
        f"{key.removeprefix('variance.')}{value}"
        for key, value in changed.items()
        if key.startswith("variance.") and re.fullmatch(r"[\w.+-]{1,12}", str(value))
    ]
    data, pca = choices["data"], config["pca"]
    told = [each for each in [choices.get("condition")] if each not in (None, "none")]
    words = [choices["model"], *told, choices["variance"], *head[:3], *([] if data == "svhn" else [data])]
    if pca.get("n_components") is None:
        return [*words, "pixels"]
    basis = "pca" if choices["pca"] == "default" else choices["pca"]
    return [*words, f"{basis}{pca['n_components']}", "white" if pca["whiten"] else "raw", str(pca["residual"])]
