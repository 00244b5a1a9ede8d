"""What a run folder keeps of a model: best.ckpt, the weights with the best score so far; last.ckpt, from which a run
goes on exactly as if left alone; and apart from them the fitted coordinates, and a prior that was fitted at the end.

All are whole or not there, and hold finite numbers alone. Nothing is unpickled.
"""

import contextlib
import errno
import hashlib
import io
import os
import zipfile
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
from svhn_vae.model.vae import VAE
from svhn_vae.runs.files import replacing
from svhn_vae.runs.folder import RunFolder, unused
from svhn_vae.runs.tensors import load_tensors, save_tensors
from svhn_vae.training.interruption import INTERRUPTION

ADDED = ("digest", "basis", "should_stop", "skips")  # to last.ckpt, beside what Lightning keeps
BASIS = "components"  # the buffer (D, D) of a projection: 38 MB of 32 x 32 x 3 pixels, alike in most runs of a study
SHAPE = "image_shape"  # of a stored representation: (C, H, W)
MAX_SIDE, MAX_LABELS = 10_000, 256
NUM_LABELS = "num_labels"  # that the networks are told of; 0: none
BASES = ".bases"  # the study's folder of such buffers


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


# --- the parts of a model -------------------------------------------------------------------------------------------


def save_representation(vae: VAE, folder: RunFolder) -> None:
    """It never changes once fitted, so the checkpoints do without it."""
    state = {name: buffer.contiguous() for name, buffer in vae.representation.named_buffers()}
    if BASIS in state:
        share_basis({BASIS: state.pop(BASIS)}, folder)
    save_tensors(state | shapes_of(vae), folder.representation)


def shapes_of(vae: VAE) -> dict[str, Tensor]:
    return {SHAPE: torch.tensor(vae.representation.image_shape), NUM_LABELS: torch.tensor(vae.num_labels)}


def stored_shapes(path: Path) -> tuple[tuple[int, ...], int]:
    """(C, H, W) of the images that the representation in a file was fitted on, and of how many labels its networks are
    told. Raises Damaged."""
    stored = load_tensors(path)
    shape = stored.get(SHAPE, torch.tensor([3, 32, 32]))  # older files have neither
    num_labels = int(stored.get(NUM_LABELS, torch.tensor(0)))
    if shape.shape != (3,) or not 1 <= shape.min() <= shape.max() <= MAX_SIDE:
        raise Damaged(path, f"no image has the shape {shape.tolist()}")
    if not 0 <= num_labels <= MAX_LABELS:
        raise Damaged(path, f"no data set has {num_labels} labels")
    return tuple(shape.tolist()), num_labels


def share_basis(basis: dict[str, Tensor], folder: RunFolder) -> None:
    """Keeps one file of a basis per study, and hard links to it in the run folders.

    A run folder that is moved or copied takes the file along. Where there are no hard links, each run has a copy.
    """
    name = hashlib.sha256(basis[BASIS].cpu().numpy()).hexdigest()[:16]  # pyright: ignore[reportArgumentType]
    shared = folder.path.parent / BASES / f"{name}.safetensors"
    try:
        try:
            load_tensors(shared)
        except (FileNotFoundError, Damaged):
            save_tensors(basis, shared)
        with replacing(folder.basis) as beside:
            os.link(shared, beside)
    except OSError:
        save_tensors(basis, folder.basis)


def load_representation(vae: VAE, folder: RunFolder) -> None:
    """Raises Damaged."""
    state = load_tensors(folder.representation)
    buffers = dict(vae.representation.named_buffers())
    if BASIS in buffers and BASIS not in state:  # runs of versions before 0.2 have it in the same file
        state |= load_tensors(folder.basis)
    fill(buffers, state, folder.representation)


def fill(tensors: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Copies what was found in a file into tensors of the same names and shapes. Raises Damaged."""
    for name, tensor in tensors.items():
        if name not in found or found[name].shape != tensor.shape:
            raise Damaged(path, f"it has no {name} of the shape {list(tensor.shape)}")
        tensor.copy_(found[name])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises Damaged for what is cut off, has a flipped bit or holds code."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                raise Damaged(path, f"the checksum of {record} is another")
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Damaged:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's start
            raise
        raise Damaged(path, error) from None
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise Damaged(path, "it holds no weights")
    return checkpoint


def load_weights(vae: VAE, path: Path) -> None:
    """A checkpoint's networks and head. Raises Damaged."""
    state = read_checkpoint(path)["state_dict"]
    try:
        vae.load_state_dict({name.removeprefix("vae."): value for name, value in state.items()})
    except RuntimeError as error:
        raise Damaged(path, error) from None


def save_prior(vae: VAE, folder: RunFolder) -> None:
    """One that was fitted after training: the checkpoints hold it as it was before."""
    save_tensors({name: value.contiguous() for name, value in vae.prior.state_dict().items()}, folder.prior)


def load_prior(vae: VAE, folder: RunFolder) -> None:
    """Raises Damaged."""
    fill(vae.prior.state_dict(), load_tensors(folder.prior), folder.prior)
    vae.prior.is_fitted = True


def load_parts(vae: VAE, folder: RunFolder) -> None:
    """All that a run folder keeps of a trained model. Raises Damaged."""
    load_weights(vae, folder.best_checkpoint)
    load_representation(vae, folder)
    if vae.prior.is_fitted_last:
        load_prior(vae, folder)


def save_model(vae: VAE, path: Path) -> None:
    """All of a trained model in one file."""
    whole = {name: value.clone().contiguous() for name, value in state_of(vae).items()}
    save_tensors(whole | shapes_of(vae), path)


def load_model(vae: VAE, path: Path) -> None:
    """Raises Damaged."""
    fill(state_of(vae), load_tensors(path), path)
    if vae.prior.is_fitted_last:
        vae.prior.is_fitted = True


def state_of(vae: VAE) -> dict[str, Tensor]:
    """The model's own tensors: of the networks, the head and the prior, and of the fitted coordinates."""
    return vae.state_dict() | {f"representation.{name}": buffer for name, buffer in vae.representation.named_buffers()}
