"""Measures the framework on the machine at hand: python src/bench.py [device=cuda] [parts=[updates]] [repeats=5]

Ratios are medians over rounds in which each way had its turn; what is absolute depends on what else the machine does.
"""

import importlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import compose
from omegaconf import OmegaConf

from svhn_vae.errors import UserError
from svhn_vae.experiment.configuration import composing
from svhn_vae.experiment.preflight import from_command_line
from svhn_vae.report.table import Fitted, wide_console
from svhn_vae.runs.files import write_json
from svhn_vae.runs.identity import Config
from svhn_vae.runs.installation import CHECKOUT, commit

if CHECKOUT:
    sys.path.insert(0, str(CHECKOUT))  # where benchmarks/ lies beside src/
BENCHMARKS = "benchmarks" if CHECKOUT else "svhn_vae.benchmarks"
updates = importlib.import_module(f"{BENCHMARKS}.updates")

Rows = list[dict[str, Any]]  # of a table; times are in seconds unless a column's name says otherwise


def bench() -> None:
    """Measures the parts in a temporary folder, prints a table of each, and writes them all as JSON."""
    settings: Any = OmegaConf.to_container(from_command_line("bench", __doc__))
    if unknown := [name for name in settings["parts"] if name not in PARTS]:
        raise UserError(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    device = device_of(settings["device"])
    found = {"machine": machine(device), "commit": commit(), "settings": settings}
    out = Path(settings["out"]) / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in settings["parts"]:
            found[name] = PARTS[name](settings, device, Path(folder) / name)
            write_json(out, found)  # after each part: the next may fail
            rows = found[name]
            wide_console().print(Fitted(name, list(rows[0]), [[*map(shown, row.values())] for row in rows]))
    print(f"written to {out}", flush=True)


def device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, and torch finds no GPU here: device=cpu measures without one")
    return torch.device(name)


def machine(device: torch.device) -> Config:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load before": os.getloadavg()[0],
    }


def of_updates(settings: Config, device: torch.device, folder: Path) -> Rows:
    """An update of each variant at each size, and its speed relative to the bare float32 loop."""
    on_gpu, rows = device.type == "cuda", []
    accelerator = f"trainer.accelerator={'gpu' if on_gpu else 'cpu'}"
    for name, how in settings["sizes"].items():
        for variant, extra in settings["variants"].items():
            own = ("data=synthetic", accelerator, f"cache={folder}", *how["overrides"], *extra)
            with composing():
                train = compose("train", list(own), return_hydra_config=True)
            fit = updates.fit_of(train, folder / "run", how["images_on_gpu" if on_gpu else "images"])
            ours, bare = updates.timed(
                fit, updates.bare_loop_of(fit), num_epochs=how["epochs"], num_rounds=settings["repeats"]
            )
            row = {"an update of": f"{name}, {variant}", "ms": 1000 * median(ours)}
            row["images/s"] = fit.size.batch_size / median(ours)
            rows.append(row | {"of the bare loop": median(b / o for o, b in zip(ours, bare, strict=True))})
    return rows


def of_spectrum(settings: Config, device: torch.device, folder: Path) -> Rows:
    numbers = settings["spectrum_images_on_gpu" if device.type == "cuda" else "spectrum_images"]
    found = {num: updates.spectrum_times(num, device) for num in numbers}
    return [{"what": f"{what}, {num:,} images", "s": s} for num, times in found.items() for what, s in times.items()]


PARTS = {"updates": of_updates, "spectrum": of_spectrum}


def shown(value: object) -> str:
    """Three digits of a number, or all before the point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
