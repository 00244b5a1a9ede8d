"""best.ckpt, the weights with the best score so far, and last.ckpt, from which a run goes on exactly as if left alone.

Both are whole or not there, and hold finite numbers alone.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812  its usual name
import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor

from svhn_vae.data import cache
from svhn_vae.errors import Damaged, Diverged
from svhn_vae.runs.files import replacing
from svhn_vae.runs.folder import RunFolder, unused
from svhn_vae.runs.weights import read_checkpoint
from svhn_vae.training.interruption import INTERRUPTION

ADDED = ("digest", "basis", "should_stop", "skips")  # to last.ckpt, beside what Lightning keeps


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside and renames, where Lightning writes to /tmp and moves: between file systems, that is a copy.

    best.ckpt waits as a copy on the device, and is written before the next last.ckpt, which knows of it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._waiting: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Raises Diverged for weights, statistics or an optimiser's state that are not finite."""
        if name := not_finite(checkpoint):
            step = checkpoint["global_step"]
            raise Diverged(step, f"{name} was not finite after step {step}")
        self.folder.check_there()
        if Path(path).name == self.folder.best_checkpoint.name:
            self._waiting = apply_to_collection(checkpoint, Tensor, torch.clone)
            return
        self.write_waiting()
        self._write(checkpoint, Path(path))

    def write_waiting(self) -> None:
        if self._waiting is not None:
            self._write(self._waiting, self.folder.best_checkpoint)
            self._waiting = None

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        content = io.BytesIO()  # torch.save to a full disk raises an error that says something else
        torch.save(checkpoint, content)
        with replacing(path) as beside:
            beside.write_bytes(content.getbuffer())


def not_finite(checkpoint: dict[str, Any]) -> str | None:
    """The first tensor of weights or optimiser that is not finite."""
    parts = {"weights": checkpoint["state_dict"], "optimiser": checkpoint.get("optimizer_states", [])}
    floating = ((name, tensor) for name, tensor in tensors(parts, "") if tensor.is_floating_point())
    return next((name for name, tensor in floating if not tensor.isfinite().all()), None)


def tensors(content: Any, name: str) -> list[tuple[str, Tensor]]:
    """Every tensor in nested dicts and lists, by its path."""
    if isinstance(content, Tensor):
        return [(name, content)]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [found for key, value in items for found in tensors(value, f"{name}.{key}".lstrip("."))]


class Best(ModelCheckpoint):
    """ModelCheckpoint that still knows its best score when its folder was moved."""

    state_key: str = "best"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else ""

        paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})
        self.current_score = state_dict["current_score"]  # which Lightning forgets


class Last(Checkpoint):
    """Writes last.ckpt at the end of every n-th epoch, where a continuation begins with the next, and of the last; also
    ends a run there that was asked to stop. To be the last callback, so that it keeps what the others have noted."""

    def __init__(self, path: Path, *, every_n_epochs: int) -> None:
        super().__init__()
        self.path, self.every_n_epochs = path, every_n_epochs
        self.interrupted_after: int | None = None  # epochs

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTION.listen()  # Lightning has put its own handlers there, which leave in mid-epoch
        INTERRUPTION.in_epoch = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        num_epochs = trainer.current_epoch + 1
        is_over = trainer.should_stop or num_epochs == trainer.max_epochs
        is_requested = trainer.strategy.reduce_boolean_decision(INTERRUPTION.is_requested, all=False)
        if is_requested or is_over or num_epochs % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.path)
        if is_requested and not is_over:
            self.interrupted_after = num_epochs
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTION.in_epoch = False
        trainer.strategy.checkpoint_io.write_waiting()  # pyright: ignore[reportAttributeAccessIssue]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        INTERRUPTION.in_epoch = False
        with contextlib.suppress(OSError):  # the exception is what is told
            trainer.strategy.checkpoint_io.write_waiting()  # pyright: ignore[reportAttributeAccessIssue]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["digest"] = trainer.datamodule.dataset.digest  # pyright: ignore[reportAttributeAccessIssue]
        checkpoint["basis"] = cache.MOMENTS_FORMAT
        checkpoint["should_stop"] = trainer.should_stop  # which Lightning forgets

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        trainer.should_stop = checkpoint["should_stop"]


def continuation(folder: RunFolder, module: L.LightningModule, digest: str) -> Path | None:
    """The checkpoint to go on from, or None for the beginning. A damaged one is set aside, and that is said.

    Without the best checkpoint that it knows of, it is of no use: the best might never come again.
    """
    if not folder.last_checkpoint.is_file():
        return None
    try:
        checkpoint = read_checkpoint(folder.last_checkpoint)
        check_continues(checkpoint, folder.last_checkpoint, module, digest)
        if checkpoint["callbacks"]["best"]["best_model_path"]:
            read_checkpoint(folder.best_checkpoint)
    except (Damaged, FileNotFoundError) as error:
        aside = unused(folder.last_checkpoint.with_name("last.ckpt.damaged"))
        folder.last_checkpoint.rename(aside)
        print(f"  {error}; starts over, {aside.name} is kept", flush=True)
        return None
    return folder.last_checkpoint


def check_continues(checkpoint: dict[str, Any], path: Path, module: L.LightningModule, digest: str) -> None:
    """Raises Damaged for what is no state of this module's training on these images."""
    missing = {*ADDED, "loops", "callbacks", "optimizer_states", "global_step"} - set(checkpoint)
    missing |= {"best", "history"} - set(checkpoint.get("callbacks", ()))
    if missing:
        raise Damaged(path, f"it is of another version, without {', '.join(sorted(missing))}")
    if checkpoint["digest"] != digest:
        raise Damaged(path, f"it is of other images, {checkpoint['digest']}")
    if checkpoint["basis"] != cache.MOMENTS_FORMAT:
        raise Damaged(path, f"it is of another version, whose basis is another: {checkpoint['basis']}")
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    if {name: getattr(value, "shape", None) for name, value in checkpoint["state_dict"].items()} != shapes:
        raise Damaged(path, "it is of another network")
