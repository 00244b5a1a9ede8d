"""The processes that train one run together, by Lightning's ddp: which of them this one is, and what the first tells.

The first process alone plans, locks, fits the basis, scores, draws and writes. The others train when they are told to.
torchrun or srun start all of them, and each runs the whole command; else Lightning starts them anew for each run
(`RUN` names its folder to them). They meet in a store of torch.distributed; an error of one is told there to the first.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch.distributed import TCPStore

from svhn_vae.errors import Diverged, Interrupted, UserError, one_line, root_of
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.interruption import INTERRUPTION, ctrl_c_kept_from_children

RUN = "SVHN_VAE_RUN"  # the environment's name of the run's folder, for a process that Lightning has started
HERE = "127.0.0.1"
FOREVER, SOON = timedelta(days=365), timedelta(minutes=2)
GRACE = 5.0  # seconds that the first process has to leave a collective operation whose partner has failed
SECONDS_BETWEEN_LOOKS = 0.5
ERROR, OVER, JOB = "svhn_vae/error", "svhn_vae/over", "svhn_vae/job"  # keys of the store
KINDS = {kind.__name__: kind for kind in (UserError, OSError, MemoryError, torch.OutOfMemoryError)}


def num_processes(trainer: Mapping[str, Any], batch_size: int) -> int:
    """How many train a run, by the settings of conf/trainer. Raises UserError for what is not supported, in a line."""
    num_devices, num_nodes = trainer["devices"], trainer["num_nodes"]
    num, environment = num_devices * num_nodes, starter()
    if num > 1 and trainer["strategy"] != "ddp":
        raise UserError(
            f"trainer.devices={num_devices} and trainer.num_nodes={num_nodes} need trainer.strategy=ddp, got "
            f"{trainer['strategy']}: add it, or start one run per device"
        )
    if num_nodes > 1 and environment is None:
        raise UserError(f"trainer.num_nodes={num_nodes} needs torchrun or srun, which start its processes on each node")
    if batch_size % num:
        raise UserError(f"batch_size must be a multiple of the {num} processes that share it, got {batch_size}")
    if isinstance(environment, TorchElasticEnvironment) and environment.world_size() != num:
        raise UserError(
            f"torchrun has started {environment.world_size()} processes, and trainer.devices x trainer.num_nodes is "
            f"{num_devices} x {num_nodes}: they must be as many"
        )
    return num


def starter() -> ClusterEnvironment | None:
    """What has started this process with others, as Lightning finds it; None for a command alone."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment()
    return None


def is_started_by_lightning() -> bool:
    return RUN in os.environ and starter() is None


class Processes:
    """What this process has to do with others; one for each command."""

    def __init__(self) -> None:
        self.num_jobs = 0  # that are over, or that this process has been told of
        self._store: TCPStore | None = None
        self._has_told = self._is_broken = False

    def is_first(self, num: int) -> bool:
        environment = starter()
        return num == 1 or environment is None or environment.global_rank() == 0

    @contextmanager
    def job(self, num: int) -> Iterator[None]:
        """Of the first process: the others learn that they have nothing to do in this job, unless it has trained."""
        if num > 1 and self._is_broken:
            raise UserError("the other processes have ended with a job before: run the same command again")
        self._has_told = False
        try:
            yield
        finally:
            self._tell(num, "leave out")
            self.num_jobs += 1

    def _tell(self, num: int, what: str) -> None:
        if num > 1 and starter() is not None and not self._has_told:
            self._meeting(is_first=True).set(f"{JOB}/{self.num_jobs}", what)
            self._has_told = True

    @contextmanager
    def training(self, num: int, folder: RunFolder, launcher: Any) -> Iterator[None]:
        """Of the first process, around `trainer.fit`. Raises the error of another process in place of its own, which is
        that it misses it."""
        if num == 1 or not self.is_first(num) or is_started_by_lightning():
            yield
            return
        is_alone, environ, num_threads = starter() is None, dict(os.environ), torch.get_num_threads()
        store = self._hosted_here(folder) if is_alone else self._meeting(is_first=True)
        self._tell(num, "train")
        stop = on_key(store, ERROR, lambda: end_stuck(store, folder))
        try:
            with ctrl_c_kept_from_children():
                yield
            end_children(launcher, seconds=5)
        except Exception as error:
            if not isinstance(error, Diverged):
                self._is_broken = not is_alone
                raise_error_of_another(store, launcher)
            raise
        finally:
            stop.set()
            if is_alone:
                end_children(launcher, seconds=0)
                if dist.is_initialized():
                    dist.destroy_process_group()
                os.environ.clear()
                os.environ.update(environ)
                torch.set_num_threads(num_threads)

    def _hosted_here(self, folder: RunFolder) -> TCPStore:
        """The store of a run on this machine alone, which nobody else can reach."""
        listener = socket.create_server((HERE, 0))
        port = listener.getsockname()[1]
        os.environ.update({RUN: str(folder.path.absolute()), "MASTER_ADDR": HERE, "MASTER_PORT": str(port)})
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        return TCPStore(
            HERE, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
        )

    def _meeting(self, *, is_first: bool) -> TCPStore:
        """The store of processes that torchrun or srun have started: torchrun has one, else the first process has."""
        if self._store is None:
            environment = starter()
            is_host = is_first and not isinstance(environment, TorchElasticEnvironment)
            place, how = (environment.main_address, environment.main_port), {"timeout": FOREVER, "multi_tenant": True}
            self._store = TCPStore(*place, is_master=is_host, wait_for_workers=False, **how)
        return self._store

    def follow(self, train: Callable[[], None]) -> None:
        """Of another than the first process: trains in this job, if it is told to."""
        be_silent()
        store = self._meeting(is_first=False)
        try:
            what = store.get(f"{JOB}/{self.num_jobs}").decode()
        except Exception:  # the first process has ended, and its store with it
            leave()
        self.num_jobs += 1
        if what == "over":
            leave()
        if what == "train":
            train_for_the_first(store, train)

    def end(self) -> None:
        """Of the first process: there is no other job, and whoever waits for one leaves."""
        if self._store is not None:
            self._store.set(OVER, "")
            self._store.set(f"{JOB}/{self.num_jobs}", "over")


PROCESSES = Processes()  # of this process


def train_as_child(train: Callable[[Path], None]) -> NoReturn:
    """The life of a process that Lightning has started for one run."""
    be_silent()
    store = TCPStore(HERE, int(os.environ["MASTER_PORT"]), is_master=False, timeout=SOON)
    train_for_the_first(store, lambda: train(Path(os.environ[RUN])))
    leave()


def silence_others() -> None:
    """At the start of a command that torchrun has started several times; srun may have started several other ones."""
    environment = starter()
    if isinstance(environment, TorchElasticEnvironment) and environment.global_rank():
        be_silent()


def be_silent() -> None:
    """Until this process ends: the first one speaks for all. What is said on stderr stays."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def train_for_the_first(store: TCPStore, train: Callable[[], None]) -> None:
    """Trains; an error that is this process's alone is told to the first one, and ends this one."""
    INTERRUPTION.listen()
    INTERRUPTION.in_epoch = True  # a signal is noted, and all processes leave together
    stop = on_key(store, OVER, leave)
    try:
        train()
    except (Diverged, Interrupted):  # all processes come to these together
        return
    except BaseException as error:
        try:
            store.set(ERROR, json.dumps(described(error)))
        finally:  # where the store is gone, the first process has ended
            leave()
    finally:
        stop.set()
        INTERRUPTION.in_epoch = False


def described(error: BaseException) -> dict[str, str]:
    cause = root_of(error)
    kind = next((name for name, kind in KINDS.items() if isinstance(cause, kind)), "")
    message = str(cause) if kind else one_line(cause)
    return {"kind": kind, "message": message, "traceback": "".join(traceback.format_exception(error))}


def raise_error_of_another(store: TCPStore, launcher: Any) -> None:
    """Raises what another process has told, or that it was killed; returns if there is neither."""
    if store.check([ERROR]):
        told = json.loads(store.get(ERROR))
        error = KINDS.get(told["kind"], RuntimeError)(told["message"])
        error.add_note(told["traceback"])
        raise error
    for process in getattr(launcher, "procs", ()):
        if (process.poll() or 0) < 0:
            name = signal.Signals(-process.returncode).name
            raise ChildProcessError(f"process {process.pid} of those that train the run was killed by {name}")


def end_stuck(store: TCPStore, folder: RunFolder) -> None:
    """Ends the first process, if it waits for one that has failed and does not notice it, as in a GPU's operations."""
    time.sleep(GRACE)
    told = json.loads(store.get(ERROR))
    print(f"  failed: {told['message']}", flush=True)
    try:
        folder.error_log.write_text(told["traceback"], encoding="utf-8")
        folder.end("failed", told["message"])
    finally:
        leave(1)


def on_key(store: TCPStore, key: str, act: Callable[[], Any]) -> threading.Event:
    """Calls `act`, in a thread, once the key is in the store, or the store is gone; not after the returned event."""
    is_over, client = threading.Event(), TCPStore(store.host, store.port, is_master=False, timeout=FOREVER)

    def look() -> None:
        is_there = False
        while not is_there and not is_over.wait(SECONDS_BETWEEN_LOOKS):
            try:
                is_there = client.check([key])
            except Exception:  # whoever had it is gone
                is_there = True
        if not is_over.is_set():
            act()

    threading.Thread(target=look, daemon=True).start()
    return is_over


def end_children(launcher: Any, *, seconds: float) -> None:
    """Of a Lightning launcher, whose watcher would else kill this process for the way in which they end."""
    processes, deadline = list(getattr(launcher, "procs", ())), time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.wait()
    getattr(launcher, "procs", []).clear()


def leave(code: int = 0) -> NoReturn:
    """At once: whoever is waited for may be dead. Not the first process leaves with 0 in any case: for another code
    Lightning and torchrun would kill the first one before it has said why."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
