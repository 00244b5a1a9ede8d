"""A continued training ends bit for bit as one left alone, wherever it was stopped or moved; what is damaged is no
checkpoint, and nothing that is not finite becomes one."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from conftest import composed, rows_of
from svhn_vae.data import cache
from svhn_vae.errors import Diverged, Interrupted
from svhn_vae.experiment import run as job
from svhn_vae.experiment.build import Job, Request, build_job, load_data
from svhn_vae.experiment.configuration import choices, quiet
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training import checkpoints
from svhn_vae.training.checkpoints import WholeCheckpoints, continuation, not_finite, read_checkpoint
from svhn_vae.training.interruption import INTERRUPTION
from svhn_vae.training.module import LitVAE

TINY = (
    "data=synthetic", "data.num_train=400", "data.num_test=40", "pca.n_components=20", "trainer=demo",
    "model=dense", "objective=elbo",
    "network_scale=0.03125", "trainer.max_epochs=6", "batch_size=120", "trainer.accelerator=cpu",
    "~callbacks.pictures", "judge=false", "skips.max_gradient_norm=1e6", "updates_per_step=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Signals and what is known of them as they were."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
    INTERRUPTION.signum, INTERRUPTION.in_epoch = None, False


def tiny_job(path: Path, *overrides: str) -> Job:
    """A whole run in a folder, begun."""
    quiet()
    cfg = composed(*TINY, *overrides)
    chosen, folder = choices(cfg.hydra), RunFolder(path)
    folder.begin(load_data(cfg).digest, {}, chosen)
    return build_job(Request(cfg, chosen, folder))


def train(path: Path, *overrides: str) -> Job:
    whole = tiny_job(path, *overrides)
    job.train(whole)
    return whole


def train_until(step: int, path: Path, monkeypatch, *overrides: str, signum: int = signal.SIGTERM) -> None:
    """The same, asked to stop at a step, that is in an epoch's middle."""
    training_step = LitVAE.training_step

    def interrupted(self: LitVAE, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signum)
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LitVAE, "training_step", interrupted)
        with pytest.raises(Interrupted):
            train(path, *overrides)
    INTERRUPTION.signum = None


def left(path: Path) -> tuple:
    """All that a training leaves, but times and places."""
    folder = RunFolder(path)
    last, best = (read_checkpoint(file) for file in (folder.last_checkpoint, folder.best_checkpoint))
    of_best = last["callbacks"].pop("best")
    del last["callbacks"]["history"]  # its rows are compared below, without the times
    own = {key: of_best[key] for key in ("best_model_score", "kth_value", "current_score")}
    names = [Path(of_best[key]).name for key in ("best_model_path", "kth_best_model_path")]
    states = {key: last[key] for key in ("state_dict", "optimizer_states", "callbacks", "global_step", "should_stop")}
    rows = [{**row, "seconds": None} for row in rows_of(path / "history.csv")]
    return states, best["state_dict"], own, names, rows, folder.facts["learnt"]


def assert_same(one: tuple, two: tuple) -> None:
    found, due = (checkpoints.tensors(list(each), "") for each in (one, two))
    assert [name for name, _ in found] == [name for name, _ in due]
    for (name, value), (_, expected) in zip(found, due, strict=True):
        assert torch.equal(value, expected), name
    assert without_tensors(one) == without_tensors(two)


def without_tensors(content):
    if isinstance(content, torch.Tensor):
        return None
    if isinstance(content, dict):
        return {key: without_tensors(value) for key, value in content.items()}
    return [without_tensors(value) for value in content] if isinstance(content, list | tuple) else content


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "run"
    train(path)
    return path


@pytest.mark.parametrize(("step", "signum"), [(0, signal.SIGTERM), (11, signal.SIGUSR1)])
def test_a_training_asked_to_stop_continues_to_the_same_end_where_it_was_moved(
    step, signum, alone, tmp_path, monkeypatch, capfd
):
    train_until(step, tmp_path / "run", monkeypatch, "checkpoint_every_n_epochs=100", signum=signum)
    assert "stopping after this epoch; once more to leave at once" in capfd.readouterr().out
    epochs = step // 3 + 1
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["epoch"] == epochs - 1
    shutil.move(tmp_path / "run", tmp_path / "moved" / "run")
    train(tmp_path / "moved" / "run")
    assert "continues from" in capfd.readouterr().out
    assert_same(left(tmp_path / "moved" / "run"), left(alone))


def test_a_training_that_was_stopped_early_stays_so(tmp_path, monkeypatch):
    """Also where it was asked to leave in the epoch that was its last: Lightning forgets that it was to stop."""
    early = ("callbacks.early_stopping.min_delta=1000", "callbacks.early_stopping.patience=2")
    train(tmp_path / "alone", *early)
    train_until(7, tmp_path / "killed", monkeypatch, *early)
    assert "cost" in RunFolder(tmp_path / "killed").facts  # all that was left was its end
    train(tmp_path / "killed", *early)
    assert_same(left(tmp_path / "killed"), left(tmp_path / "alone"))
    assert (tmp_path / "killed" / "order_of_learning.safetensors").is_file()


def test_the_second_signal_leaves_at_once_and_the_run_goes_on_from_the_checkpoint_before(alone, tmp_path, monkeypatch):
    training_step = LitVAE.training_step

    def twice(self: LitVAE, batch, batch_idx):
        if self.global_step in (7, 8):
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LitVAE, "training_step", twice)
        with pytest.raises(Interrupted):
            train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6
    INTERRUPTION.signum = None
    train(tmp_path / "run")
    assert_same(left(tmp_path / "run"), left(alone))


def test_slurm_does_not_requeue_or_leave_in_mid_epoch(alone, tmp_path, monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "x", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    train_until(7, tmp_path / "run", monkeypatch, signum=signal.SIGUSR1)
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    train(tmp_path / "run")
    assert_same(left(tmp_path / "run"), left(alone))


@pytest.fixture(scope="module")
def idle(tmp_path_factory) -> Job:
    """A job whose network has not been trained, to compare checkpoints with."""
    return tiny_job(tmp_path_factory.mktemp("idle") / "run")


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_starts_over(name, alone, idle, tmp_path, capsys):
    """Cut in half; of all damages, see test_weights."""
    path = shutil.copytree(alone, tmp_path / "run")
    os.truncate(path / "checkpoints" / name, 1000)
    assert continuation(RunFolder(path), idle.module, idle.data.dataset.digest) is None
    [line] = capsys.readouterr().out.splitlines()
    assert f"{name} is damaged: " in line
    assert "starts over, last.ckpt.damaged1 is kept" in line
    assert (path / "checkpoints" / "last.ckpt.damaged1").is_file()


def test_a_checkpoint_of_other_images_or_another_network_is_none(alone, idle, tmp_path, capsys):
    path = shutil.copytree(alone, tmp_path / "run")
    whole = tiny_job(path, "network_scale=0.0625")
    assert continuation(whole.folder, idle.module, "others") is None
    assert f"of other images, {whole.data.dataset.digest}" in capsys.readouterr().out
    shutil.copy(path / "checkpoints" / "last.ckpt.damaged1", path / "checkpoints" / "last.ckpt")
    assert continuation(whole.folder, whole.module, whole.data.dataset.digest) is None
    assert "of another network" in capsys.readouterr().out


def test_a_checkpoint_of_another_basis_is_none(alone, idle, tmp_path, monkeypatch, capsys):
    """The weights know the components that they were trained on."""
    folder = RunFolder(shutil.copytree(alone, tmp_path / "run"))
    monkeypatch.setattr(cache, "MOMENTS_FORMAT", cache.MOMENTS_FORMAT + 1)
    assert continuation(folder, idle.module, idle.data.dataset.digest) is None
    assert f"of another version, whose basis is another: {cache.MOMENTS_FORMAT - 1}" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "value"), [("state_dict", torch.nan), ("optimizer_states", torch.inf)])
def test_nothing_that_is_not_finite_is_written(place, value, tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin("d", {}, {})
    checkpoint = {
        "state_dict": {"w": torch.ones(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg_sq": torch.ones(3)}}}],
        "global_step": 5,
    }
    WholeCheckpoints(folder).save_checkpoint(checkpoint, str(folder.last_checkpoint))
    before = folder.last_checkpoint.read_bytes()
    assert not_finite(checkpoint) is None
    inner = checkpoint["state_dict"] if place == "state_dict" else checkpoint["optimizer_states"][0]["state"][0]
    inner[list(inner)[-1]][1] = value
    with pytest.raises(Diverged, match=r"(weights\.w|exp_avg_sq) was not finite after step 5"):
        WholeCheckpoints(folder).save_checkpoint(checkpoint, str(folder.last_checkpoint))
    assert folder.last_checkpoint.read_bytes() == before


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="vanished while its run was written"):
        WholeCheckpoints(folder).save_checkpoint({"state_dict": {}, "global_step": 1}, str(folder.last_checkpoint))
    assert not folder.path.exists()


def test_the_best_is_written_before_the_last_that_knows_of_it(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin("d", {}, {})
    plugin, weights = WholeCheckpoints(folder), torch.ones(3)
    plugin.save_checkpoint({"state_dict": {"w": weights}, "global_step": 5}, str(folder.best_checkpoint))
    weights += 1  # training goes on
    assert not folder.best_checkpoint.exists()
    plugin.save_checkpoint({"state_dict": {"w": weights}, "global_step": 9}, str(folder.last_checkpoint))
    assert read_checkpoint(folder.best_checkpoint)["state_dict"]["w"].tolist() == [1, 1, 1]
    assert read_checkpoint(folder.last_checkpoint)["state_dict"]["w"].tolist() == [2, 2, 2]
