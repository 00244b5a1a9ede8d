"""The processes that train one run together, by Lightning's ddp: which of them this one is, and what the first tells.

The first process alone plans, locks, fits the basis, scores, draws and writes. The others train the runs whose folders
it names. torchrun or srun start all of them, and each reads the whole command; else Lightning starts the others anew
for each run. They meet in a store of torch.distributed; an error of one is told there to the first.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch.distributed import TCPStore

from svhn_vae.errors import Diverged, Interrupted, UserError, one_line, root_of
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.interruption import INTERRUPTION, ctrl_c_kept_from_children

FOLLOWS = "SVHN_VAE_FOLLOWS"  # in the environment of a process that Lightning has started
HERE = "127.0.0.1"
FOREVER, SOON = timedelta(days=365), timedelta(minutes=2)
GRACE = 5.0  # seconds that a process has to leave by itself
SECONDS_BETWEEN_LOOKS = 0.5
RUN, NUM_RUNS, ERROR, OVER = (f"svhn_vae/{name}" for name in ("run", "num_runs", "error", "over"))  # keys of the store
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
    return FOLLOWS in os.environ and starter() is None


def is_another(num: int) -> bool:
    """Whether this is not the first process of a run in so many; srun may also have started several commands."""
    environment = starter()
    return num > 1 and environment is not None and environment.global_rank() > 0


class Processes:
    """What this process has to do with others; one for each command."""

    def __init__(self) -> None:
        self._is_follower = self._is_broken = False
        self._store: TCPStore | None = None  # of processes that torchrun or srun have started

    @contextmanager
    def training(self, num: int, folder: RunFolder, launcher: Any) -> Iterator[None]:
        """Of the first process, around `trainer.fit`. Raises the error of another process in place of its own, which is
        that it misses it."""
        if num == 1 or self._is_follower:
            yield
            return
        if self._is_broken:
            raise UserError("the other processes have ended with a job before: run the same command again")
        is_alone, environ, num_threads = starter() is None, dict(os.environ), torch.get_num_threads()
        if self._store is None:
            self._store = hosted_here() if is_alone else meeting(is_first=True)
        store = self._store
        tell(store, str(folder.path.absolute()))
        stop = on_key(store, ERROR, lambda: end_stuck(store, folder), grace=GRACE)
        try:
            with ctrl_c_kept_from_children():
                yield
        except Exception as error:
            if not isinstance(error, Diverged):
                self._is_broken = not is_alone
                raise_error_of_another(store, launcher)
            raise
        finally:
            stop.set()
            if is_alone:
                self.end()
                end_children(launcher)
                if dist.is_initialized():
                    dist.destroy_process_group()
                os.environ.clear()
                os.environ.update(environ)
                torch.set_num_threads(num_threads)

    def follow(self, train: Callable[[Path], None]) -> NoReturn:
        """The life of another than the first process: it trains the runs whose folders the first one names. An error
        that is its alone is told to the first one."""
        self._is_follower = True
        be_silent()
        INTERRUPTION.listen()
        store = meeting(is_first=False)
        on_key(store, OVER, leave)
        try:
            for number in itertools.count(1):
                INTERRUPTION.in_epoch = True  # a signal is noted, and all processes leave together
                if not (path := store.get(f"{RUN}/{number}").decode()):
                    break
                with suppress(Diverged, Interrupted):  # all processes come to these together
                    train(Path(path))
        except BaseException as error:
            store.set(ERROR, json.dumps(described(error)))
        finally:  # also where the store is gone: the first process has ended
            leave()

    def end(self) -> None:
        """Of the first process: there is no other run, and whoever waits for one leaves."""
        if self._store is not None:
            tell(self._store, "")
            self._store.set(OVER, "")
            self._store = None


PROCESSES = Processes()  # of this process


def tell(store: TCPStore, path: str) -> None:
    """Names the next run's folder to the others; "": there is none."""
    store.set(f"{RUN}/{store.add(NUM_RUNS, 1)}", path)


def hosted_here() -> TCPStore:
    """The store of a run on this machine alone, which nobody else can reach."""
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    os.environ.update({FOLLOWS: "1", "MASTER_ADDR": HERE, "MASTER_PORT": str(port)})
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    how = {"wait_for_workers": False, "multi_tenant": True, "master_listen_fd": listener.detach()}
    return TCPStore(HERE, port, is_master=True, **how)


def meeting(*, is_first: bool) -> TCPStore:
    """The store where the processes meet: torchrun has one, else the first process has."""
    started = starter()
    environment = started or LightningEnvironment()
    is_host = is_first and not isinstance(environment, TorchElasticEnvironment)
    place = environment.main_address, environment.main_port
    how = {"wait_for_workers": False, "multi_tenant": True, "timeout": SOON if started is None else FOREVER}
    store = TCPStore(*place, is_master=is_host, **how)
    store.set_timeout(FOREVER)
    return store


def silence_others() -> None:
    """At the start of a command that torchrun has started several times; srun may have started several other ones."""
    environment = starter()
    if isinstance(environment, TorchElasticEnvironment) and environment.global_rank():
        be_silent()


def be_silent() -> None:
    """Until this process ends: the first one speaks for all. What is said on stderr stays."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    told = json.loads(store.get(ERROR))
    print(f"  failed: {told['message']}", flush=True)
    try:
        folder.error_log.write_text(told["traceback"], encoding="utf-8")
        folder.end("failed", told["message"])
    finally:
        leave(1)


def on_key(store: TCPStore, key: str, act: Callable[[], Any], *, grace: float = 0.0) -> threading.Event:
    """Calls `act`, in a thread, so many seconds after the key came to the store, or the store went; not after the event
    that is returned."""
    is_over, client = threading.Event(), TCPStore(store.host, store.port, is_master=False, timeout=FOREVER)

    def look() -> None:
        is_there = False
        while not is_there and not is_over.wait(SECONDS_BETWEEN_LOOKS):
            try:
                is_there = client.check([key])
            except Exception:  # whoever had it is gone
                is_there = True
        if not is_over.wait(grace):
            act()

    threading.Thread(target=look, daemon=True).start()
    return is_over


def end_children(launcher: Any) -> None:
    """Of a Lightning launcher, whose watcher would else kill this process for the way in which they end."""
    for process in getattr(launcher, "procs", ()):
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    getattr(launcher, "procs", []).clear()


def leave(code: int = 0) -> NoReturn:
    """At once: whoever is waited for may be dead. Not the first process leaves with 0 in any case: for another code
    Lightning and torchrun would kill the first one before it has said why."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
