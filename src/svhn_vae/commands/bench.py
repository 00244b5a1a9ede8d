"""Measures the framework on the machine at hand: python src/bench.py [device=cuda] [parts=[training,start]] [repeats=5]

Ratios are medians over rounds in which each way had its turn; what is absolute depends on what else the machine does.
"""

import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.table import Table

from svhn_vae.errors import UserError
from svhn_vae.experiment.configuration import register_resolvers
from svhn_vae.experiment.turn import quiet
from svhn_vae.report.table import wide_console
from svhn_vae.runs.files import write_json
from svhn_vae.runs.identity import Config
from svhn_vae.runs.installation import CHECKOUT, CONF, commit

if CHECKOUT:
    sys.path.insert(0, str(CHECKOUT))  # where benchmarks/ lies beside src/
PARTS = importlib.import_module("benchmarks.parts" if CHECKOUT else "svhn_vae.benchmarks.parts").PARTS
Rows = list[dict[str, Any]]


def main() -> None:
    quiet()
    register_resolvers()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            bench(OmegaConf.to_container(compose("bench", sys.argv[1:])), folder)
    except (HydraException, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"failed: {' '.join(str(error).split())}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bench(settings: Config, folder: Path) -> None:
    """Measures the parts in a temporary folder, prints a table of each, and writes them all as JSON."""
    if unknown := [name for name in settings["parts"] if name not in PARTS]:
        raise UserError(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    device = device_of(settings["device"])
    found = {"machine": machine(device), "commit": commit(), "settings": settings}
    out = Path(settings["out"]) / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    for name in settings["parts"]:
        found[name] = PARTS[name](settings, device, folder)
        write_json(out, found)  # after each part: the next may fail
        out.with_suffix(".md").write_text("\n".join(markdown_of(part, found[part]) for part in PARTS if part in found))
        wide_console().print(table_of(name, found[name]))
    print(f"written to {out}", flush=True)


def device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got {name}")
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


def table_of(name: str, rows: Rows) -> Table:
    table = Table(title=name, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if column in ("size", "way", "what") else "right")
    for row in rows:
        table.add_row(*(in_words(row.get(column, "")) for column in columns))
    return table


def markdown_of(name: str, rows: Rows) -> str:
    """As the README has it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[f"**{name}**", *columns[1:]], ["---"] * len(columns)]
    cells += [[in_words(row.get(column, "")) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def in_words(value: object) -> str:
    """Three digits of a number, or all before the point."""
    if isinstance(value, list):
        return " ".join(map(in_words, value))
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
