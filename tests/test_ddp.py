"""A run in several processes: the gradient of one, one folder, one voice; and what becomes of it when it is disturbed.

The processes are started by torchrun, as on two machines, or by Lightning.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from conftest import REPO, composed
from stress.forked import Command, train
from svhn_vae.data.sources import load_once
from svhn_vae.experiment.build import build_data, build_module, build_trainer, source_of
from svhn_vae.experiment.processes import ERROR, described, raise_error_of_another
from svhn_vae.runs.folder import RunFolder
from svhn_vae.seeds import Stream, derive_seed, seed_device
from test_end_to_end import result, runs, until

SMALL = (
    "data=synthetic", "data.num_train=410", "data.num_test=60", "trainer=demo", "network_scale=0.03125",
    "pca=dct", "pca.n_components=20", "~callbacks.pictures",
    "judge=false", "model=dense", "prior=standard",
    "iw_samples=0", "variance=logvar", "trainer.accelerator=cpu", "batch_size=50",
)  # fmt: skip
TWO = ("trainer.strategy=ddp", "trainer.devices=2")
ONE_UPDATE = (
    *SMALL, "model.normalisation=layer", "model.normalise_input=false", "model.dropout=0.2", "optimizer=sgd",
    "optimizer.lr=1e-6", "optimizer.momentum=0.9", "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
)  # fmt: skip
SECONDS = 180  # no command here takes longer, whatever happens in it
TRAIN = str(REPO / "src" / "train.py")


def by_lightning(folder: Path) -> str:
    done = Command(folder, *ONE_UPDATE, *TWO, exact=True).wait(SECONDS)
    assert done.returncode == 0, done.printed
    return done.stdout


def by_torchrun(folder: Path) -> str:
    """Two nodes of one process each, on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    how = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--master-port={port}"]
    words = ["--master-addr=127.0.0.1", TRAIN, *ONE_UPDATE, "trainer.strategy=ddp", "trainer.num_nodes=2"]
    folder.mkdir()
    nodes = [
        subprocess.Popen([*how, f"--node-rank={rank}", *words], cwd=folder, stdout=subprocess.PIPE, encoding="utf-8",
                         stderr=subprocess.STDOUT)
        for rank in range(2)
    ]  # fmt: skip
    try:
        first, second = (node.communicate(timeout=SECONDS)[0] for node in nodes)
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert second == ""  # one voice
    return first


def gradient_of_both(overrides: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The mean of the gradients that two processes have of their images with their noise, in this process."""
    cfg = composed(*overrides, *TWO)
    found: dict[str, torch.Tensor] = {}
    for rank in range(2):
        module = build_module(cfg).train()
        data = build_data(cfg, module.vae)
        data.setup()
        epoch = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, fit_loop=epoch)
        [batch] = next(iter(data.train_dataloader()))
        assert len(batch.y) == 25
        seed_device(torch.device("cpu"), derive_seed(Stream.STEP, cfg.seed, 0, rank))
        _, loss = module.objective(module.vae, batch, torch.zeros(()))
        loss.backward()
        for name, weights in module.named_parameters():
            if weights.grad is not None:
                found[name] = found.get(name, 0) + weights.grad / 2
    return found


@pytest.mark.parametrize("begin", [by_lightning, by_torchrun])
def test_two_processes_have_the_gradient_of_one_on_the_same_noise(begin, tmp_path):
    """After its first update an optimiser's momentum is the gradient."""
    folder = tmp_path / "run"
    assert begin(folder).count("bits/dim on synthetic data, trained in") == 1
    [name] = runs(folder)
    assert name == composed(*ONE_UPDATE).hydra.sweep.subdir  # the folder of one process
    assert math.isfinite(result(folder)["metrics"]["test/bits_per_dim"])
    checkpoint = torch.load(folder / "outputs/default" / name / "checkpoints/last.ckpt", weights_only=True)
    expected, [optimizer] = gradient_of_both(ONE_UPDATE), checkpoint["optimizer_states"]
    names = [name for name, weights in build_module(composed(*ONE_UPDATE)).named_parameters() if weights.requires_grad]
    found = {names[index]: state["momentum_buffer"] for index, state in optimizer["state"].items()}
    largest = max(gradient.norm() for gradient in expected.values())
    assert set(found) == set(expected)
    for weights, gradient in expected.items():
        assert (found[weights] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-2 * largest), weights


def test_an_interrupted_run_is_continued_by_another_number_of_processes(tmp_path):
    """The signal reaches the first process alone, and all leave at the end of an epoch."""
    folder, long = tmp_path / "run", (*SMALL, "trainer.max_epochs=40")
    running = Command(folder, *long, *TWO)
    until(lambda: list(folder.rglob("last.ckpt")), running)
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    os.kill(pid, signal.SIGTERM)
    done = running.wait(SECONDS)
    assert "interrupted after" in done.stdout
    assert done.returncode == 128 + signal.SIGTERM
    assert children
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert [status["status"] for status in runs(folder).values()] == ["interrupted"]
    assert "continues from" in train(folder, *long).stdout
    assert [status["status"] for status in runs(folder).values()] == ["done"]
    assert math.isfinite(result(folder)["metrics"]["test/bits_per_dim"])


BROKEN = f"""
import os, sys
sys.path.insert(0, {str(REPO / "src")!r})
from svhn_vae.errors import UserError
from svhn_vae.training.module import LitVAE
begin_epoch = LitVAE.on_train_epoch_start
def fail(self):
    if os.environ.get("LOCAL_RANK") == "1":
        if self.seed:
            os.kill(os.getpid(), 9)
        raise UserError("x" * 100_000)
    begin_epoch(self)
LitVAE.on_train_epoch_start = fail
from svhn_vae.commands import run
run("train")
"""


def test_an_error_in_one_process_ends_all_with_its_message_and_the_sweep_goes_on(tmp_path):
    """One of 100 kB, and SIGKILL."""
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    words = ("-m", "seed=0,1", *SMALL, "trainer.max_epochs=2", *TWO)
    done = Command(tmp_path / "run", *words, script=str(tmp_path / "broken")).wait(SECONDS)
    assert done.returncode == 1
    first, second = [line for line in done.stdout.splitlines() if line.startswith("  failed: ")]
    assert first == f"  failed: {'x' * 100_000}"
    assert second.endswith("was killed by SIGKILL")
    statuses = runs(tmp_path / "run").values()
    assert [(status["status"], f"  failed: {status['reason']}") for status in statuses] == [
        ("failed", first), ("failed", second)
    ]  # fmt: skip


def test_a_bug_in_another_process_keeps_its_traceback():
    store = HashStore()
    raise_error_of_another(store, launcher=None)  # nothing has happened
    try:
        {}["a bug"]
    except KeyError as error:
        store.set(ERROR, json.dumps(described(error)))
    with pytest.raises(RuntimeError, match=r"^KeyError: 'a bug'") as caught:
        raise_error_of_another(store, launcher=None)
    assert "in test_a_bug_in_another_process" in caught.value.__notes__[0]


def test_each_process_has_its_own_images_and_noise():
    """Together all but what no other has an equal of, none twice."""
    cfg = composed(*SMALL, *TWO, "data.num_train=411")
    module = build_module(cfg)
    images = load_once(source_of(cfg)).train.images
    numbers = {image.numpy().tobytes(): number for number, image in enumerate(images)}
    shards = []
    for rank in range(2):
        data = build_data(cfg, module.vae)
        data.setup()
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        shards.append(data.train_dataloader())
    found = [{numbers[image.numpy().tobytes()] for image in shard.images} for shard in shards]
    assert len(found[0]) == len(found[1]) == len(images) // 2
    assert not found[0] & found[1]
    assert shards[0].num_batches == shards[1].num_batches == len(images) // 2 // 25
    assert shards[0].batching.seed != shards[1].batching.seed


def test_torchrun_must_have_started_as_many_as_are_wanted(monkeypatch, tmp_path):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^torchrun has started 4 processes, and .* is 2 x 1: they must be as many$"):
        build_trainer(composed("trainer=ddp"), RunFolder(tmp_path), loggers=[])
