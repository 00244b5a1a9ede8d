"""Measures updates of the weights on this machine: python src/bench.py [device=cuda] [repeats=5]

In turns with a bare float32 loop that makes the same updates of the same model over features in memory, with nothing
around it. Ratios are medians over rounds in which each way had its turn, because absolute times depend on the other
load of the machine.
"""

import copy
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.errors import UserError
from svhn_vae.experiment.build import build_data, build_module, build_trainer
from svhn_vae.experiment.configuration import composing
from svhn_vae.experiment.preflight import from_command_line
from svhn_vae.model.coordinates import Features
from svhn_vae.report.table import Fitted, wide_console
from svhn_vae.runs.files import write_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import Config
from svhn_vae.runs.installation import commit
from svhn_vae.training.module import LitVAE


def bench() -> None:
    """Measures in a temporary folder, prints a table, and writes it as JSON."""
    settings: Any = OmegaConf.to_container(from_command_line("bench", __doc__))
    device = device_of(settings["device"])
    found: Config = {"machine": machine(device), "commit": commit(), "settings": settings, "updates": []}
    out = Path(settings["out"]) / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        for (name, how), variant in itertools.product(settings["sizes"].items(), settings["variants"]):
            with composing():
                words = ["data=synthetic", f"cache={folder}", f"trainer.accelerator={accelerator}", *how["overrides"]]
                cfg = compose("train", [*words, *settings["variants"][variant]], return_hydra_config=True)
            row = timed(cfg, Path(folder) / "run", num_epochs=how["epochs"], num_rounds=settings["repeats"])
            found["updates"].append({"an update of": f"{name}, {variant}", **row})
            write_json(out, found)  # after each: the next may fail
    rows = [[name, *(f"{value:.3g}" for value in row)] for name, *row in (row.values() for row in found["updates"])]
    wide_console().print(Fitted("updates", list(found["updates"][0]), rows))
    print(f"written to {out}", flush=True)


def device_of(name: str) -> torch.device:
    there_is = torch.cuda.is_available()
    if name == "cuda" and not there_is:
        raise UserError("device=cuda, and torch finds no GPU here: device=cpu measures without one")
    return torch.device("cuda" if there_is and name != "cpu" else "cpu")


def machine(device: torch.device) -> Config:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load before": os.getloadavg()[0],
    }


def timed(cfg: DictConfig, folder: Path, *, num_epochs: int, num_rounds: int) -> dict[str, float]:
    """An update of a composed configuration, and its speed relative to the bare loop; without validations."""
    module, run = build_module(cfg), RunFolder(folder)
    trainer, data = build_trainer(cfg, run, loggers=[]), build_data(cfg, module.vae)
    data.setup()
    rounds = Rounds(bare_loop(module, data.dataset.train.images, cfg.batch_size, trainer.strategy.root_device),
                    num_epochs=num_epochs, num_rounds=num_rounds)  # fmt: skip
    trainer.limit_val_batches, trainer.callbacks[:] = 0, [rounds]  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit_loop.max_epochs = 10**9
    trainer.fit(module, datamodule=data)
    own = median(own for own, _ in rounds.seconds)
    ratio = median(bare / own for own, bare in rounds.seconds)
    return {"ms": 1000 * own, "images/s": cfg.batch_size / own, "of the bare loop": ratio}


def bare_loop(module: LitVAE, images: torch.Tensor, size: int, device: torch.device) -> Callable[[int], float]:
    """What makes so many updates of a copy of the model, by batches of one size, and returns the seconds they took."""
    model = copy.deepcopy(module).to(device)
    made = EvaluationBatches(images, model.vae.representation)
    whole, optimizer = Features(*map(torch.cat, zip(*made, strict=True))), model.configure_optimizers()

    def updates(num: int) -> float:
        start = now()
        for _ in range(num):
            rows = torch.randint(len(whole.y), (size,), device=device)
            optimizer.zero_grad()
            model.objective(model.vae, Features(*(array[rows] for array in whole)), 0)[1].backward()
            optimizer.step()
        return now() - start

    return updates


def now() -> float:
    """In seconds, when what was given to a GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Rounds(L.Callback):
    """Stops the clock of its fit after every `num_epochs`, for the other way to make as many updates. The first round,
    in which everything is for the first time, does not count."""

    def __init__(self, other: Callable[[int], float], *, num_epochs: int, num_rounds: int) -> None:
        self.other, self.num_epochs, self.num_rounds = other, num_epochs, num_rounds
        self.seconds: list[tuple[float, float]] = []  # of an update: ours, the other's

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch % self.num_epochs == 0:
            self._start = now()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.num_epochs:
            return
        own, num_updates = now() - self._start, self.num_epochs * trainer.train_dataloader.num_batches
        found = own / num_updates, self.other(num_updates) / num_updates
        if trainer.current_epoch >= self.num_epochs:
            self.seconds.append(found)
        trainer.should_stop = len(self.seconds) == self.num_rounds
