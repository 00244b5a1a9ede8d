"""What is measured, part by part, as rows of a table. Times are in seconds unless a column's name says otherwise."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig

from svhn_vae.runs.identity import Config

from . import basis, clock, commands, rivals, training

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Rows = list[dict[str, Any]]


def of_training(settings: Config, device: torch.device, folder: Path) -> Rows:
    """An update in each way at each size, relative to the bare float32 loop, and the share of the device's products."""
    size = 8192 if device.type == "cuda" else 2048
    peaks = {name: clock.peak(device, dtype, size) for name, dtype in DTYPES.items()}
    rows = []
    for name, how in settings["sizes"].items():
        for variant, extra in {"": [], **settings["variants"]}.items():
            num_images = how["images_on_gpu" if device.type == "cuda" else "images"]
            fit = training.fit_of(composed(device, *how["overrides"], *extra), folder / "run", num_images)
            others = training.others(fit)
            if variant:  # the others have had their turns
                others = {"bare loop": others["bare loop"]}
            timed = training.timed(fit, others, num_epochs=how["epochs"], num_rounds=settings["repeats"])
            shown = {f"{training.OURS}, {variant}": timed[training.OURS]} if variant else timed
            peak = peaks["bfloat16" if "bf16" in variant else "float32"]
            rows += [{"size": name, "way": way, **speed(each, fit.size, peak)} for way, each in shown.items()]
    return rows


def speed(timed: clock.Timed, size: rivals.Size, peak: float) -> dict[str, float]:
    return {
        "ms per update": 1000 * timed.median,
        "images/s": size.batch_size / timed.median,
        "of the bare loop": timed.relative_speed,
        "of the peak": rivals.flops_of_update(size) / timed.median / peak,
    }


def of_precision(settings: Config, device: torch.device, folder: Path) -> Rows:
    """The training loss of each variant, epoch by epoch, beside that of another seed."""
    how, curves = settings["sizes"]["demo"], {}
    ways = {"float32": [], "float32, another seed": ["seed=1"], **settings["variants"]}
    for name, extra in ways.items():
        fit = training.fit_of(composed(device, *how["overrides"], *extra), folder / "run", how["images"])
        curves[name] = training.losses(fit, settings["curve_epochs"])
    return [{"epoch": epoch + 1, **{name: curve[epoch] for name, curve in curves.items()}}
            for epoch in range(settings["curve_epochs"])]  # fmt: skip


def of_pca(settings: Config, device: torch.device, folder: Path) -> Rows:
    numbers = settings["pca_images_on_gpu" if device.type == "cuda" else "pca_images"]
    rows = [
        {"images": num, "what": what, "s": seconds}
        for num in numbers
        for what, seconds in basis.times(num, device).items()
    ]
    worst = basis.disagreement(numbers[0])
    return [*rows, {"images": numbers[0], "what": "largest relative difference of an eigenvalue", "value": worst}]


def of_start(settings: Config, device: torch.device, folder: Path) -> Rows:
    place = commands.Workplace(folder / "start", device.type)
    return seconds_rows(commands.start_times(place, settings["repeats"]))


def of_sweep(settings: Config, device: torch.device, folder: Path) -> Rows:
    return seconds_rows(commands.sweep_times(commands.Workplace(folder / "sweep", device.type), 4))


def of_together(settings: Config, device: torch.device, folder: Path) -> Rows:
    num, at_once = (8, 8) if device.type == "cuda" else (4, 2)
    return seconds_rows(commands.together_times(commands.Workplace(folder / "sweep", device.type), num, at_once))


def of_report(settings: Config, device: torch.device, folder: Path) -> Rows:
    place = commands.Workplace(folder / "report", device.type)
    place.train("seed=0,1,2,3", "study=report", is_sweep=True)
    return seconds_rows(commands.report_times(place, "report", settings["repeats"]))


def of_whole_run(settings: Config, device: torch.device, folder: Path) -> Rows:
    place = commands.Workplace(folder / "whole", device.type)
    overrides = settings["whole_run_on_gpu" if device.type == "cuda" else "whole_run"]
    found = commands.whole_run(place, *overrides, *settings["whole_run_data"])
    return [{"what": name, "value": "-" if value is None else value} for name, value in found.items()]


def seconds_rows(found: dict[str, list[float]], **place: object) -> Rows:
    return [{**place, "what": name, "median s": clock.median(each), "all s": each} for name, each in found.items()]


def composed(device: torch.device, *overrides: str) -> DictConfig:
    """As train.py has it, with the cache of this benchmark."""
    own = ("data=synthetic", f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}", *overrides)
    return compose("train", [*own, f"cache={Path(tempfile.gettempdir()) / 'bench-cache'}"], return_hydra_config=True)


PARTS = {
    "training": of_training,
    "precision": of_precision,
    "pca": of_pca,
    "start": of_start,
    "sweep": of_sweep,
    "together": of_together,
    "report": of_report,
    "whole_run": of_whole_run,
}
