"""The processes that train one run together: started, watched and ended by the process of the command.

The command's process is none of them. So it is never stuck in a collective operation whose partner died, it alone
plans, locks, scores and draws, and a sweep's next job finds it as the last one did. The ranks take orders from it and
from nobody else: they are deaf to signals, and leave when it is gone.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.distributed import TCPStore

from svhn_vae.errors import MEANT_FOR_A_PERSON, Diverged, Interrupted, UserError, one_line, root_of
from svhn_vae.training.interruption import INTERRUPTION, SIGNALS

HERE = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 0.2
TOLD_BY_THE_FIRST = (Diverged, Interrupted)  # all ranks come to these together
KEPT_CLASSES = (*MEANT_FOR_A_PERSON, torch.OutOfMemoryError, MemoryError)


class Place(LightningEnvironment):
    """Which of a run's processes this one is, for Lightning, which shall start none."""

    creates_processes_externally = True
    main_address = HERE

    def __init__(self, rank: int, num: int, port: int = -1) -> None:
        super().__init__()
        self.rank, self.num, self._main_port = rank, num, port

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0


class Rank(NamedTuple):
    """One of the processes, as the command's process sees it."""

    place: Place
    process: BaseProcess
    orders: Connection  # a signal's number; its end is the end of the command's process
    report: Connection  # the error that it ended with, if any


def num_ranks(devices: object, strategy: str, batch_size: int) -> int:
    """How many processes train a run. Raises UserError for what is not supported, in a line."""
    if not str(devices).isdecimal() or int(str(devices)) < 1:
        raise UserError(f"trainer.devices must be a number of devices of this machine, 1 or more, got {devices}")
    num = int(str(devices))
    if num > 1 and strategy != "ddp":
        raise UserError(
            f"trainer.devices must be 1, got {num}: start one run per device, or one on all of them with "
            "trainer=ddp or trainer.strategy=ddp"
        )
    if batch_size % num:
        raise UserError(f"batch_size must be a multiple of trainer.devices={num}, which share it, got {batch_size}")
    return num


def run_on_ranks(work: Callable[[Place], None], num: int) -> None:
    """Calls `work` with its place in each of `num` processes; returns when all have ended.

    Raises what one of them raised, or ChildProcessError for one that was killed; then the others are ended. The first
    signal is passed on to them; the second one raises Interrupted.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # theirs: DDP warns that all weights have been used
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)  # where they meet; any port that is free
    ranks: list[Rank] = []
    INTERRUPTION.in_epoch = True
    try:
        with signals_held_back():
            for index in range(num):
                ranks.append(start(work, Place(index, num, store.port)))
        watch(ranks)
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()
        INTERRUPTION.in_epoch = False


def start(work: Callable[[Place], None], place: Place) -> Rank:
    """Spawned, not forked: a process that has used a GPU cannot be forked."""
    context = multiprocessing.get_context("spawn")
    (their_orders, orders), (report, their_report) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    process = context.Process(target=live, args=(work, place, their_orders, their_report), name=f"rank {place.rank}")
    process.start()
    their_orders.close()
    their_report.close()
    return Rank(place, process, orders, report)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """A process started meanwhile never receives them; this one does afterwards."""
    resource_tracker.ensure_running()  # else started with the first process, and it lets signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def watch(ranks: Sequence[Rank]) -> None:
    """Returns when all have ended well; raises what one of them ended with."""
    has_ordered = False
    while running := [rank for rank in ranks if rank.process.exitcode is None]:
        wait([rank.process.sentinel for rank in running], timeout=SECONDS_BETWEEN_LOOKS)
        if INTERRUPTION.is_requested and not has_ordered:
            has_ordered = True
            for rank in running:
                order(rank, INTERRUPTION.signum)
        raise_error_of(ranks)
    raise_error_of(ranks)  # of one that ended since


def order(rank: Rank, signum: int) -> None:
    try:
        rank.orders.send(signum)
    except OSError:  # it has ended meanwhile, and its end will be seen
        return


def raise_error_of(ranks: Sequence[Rank]) -> None:
    """A killed one first: the others' errors are that they miss it."""
    ended = [rank for rank in ranks if rank.process.exitcode]
    for rank in sorted(ended, key=lambda rank: rank.process.exitcode):
        process, how = rank.process, f"ended with exit code {rank.process.exitcode}"
        if process.exitcode < 0:
            how = f"was killed by {signal.Signals(-process.exitcode).name}"
        elif rank.report.poll():
            raise rank.report.recv()
        raise ChildProcessError(f"process {process.pid}, {process.name} of {rank.place.num} that train the run, {how}")


def live(work: Callable[[Place], None], place: Place, orders: Connection, report: Connection) -> None:
    """The life of a rank. The first one speaks for all, but for what happened to another alone."""
    threading.Thread(target=obey, args=(orders,), daemon=True).start()
    if place.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until it ends
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is the command's process's
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")  # torch 2.13
    torch.set_num_threads(max(1, torch.get_num_threads() // place.num))
    try:
        work(place)
    except BaseException as error:
        if place.rank and isinstance(error, TOLD_BY_THE_FIRST):
            leave(0)
        report.send(error if isinstance(error, TOLD_BY_THE_FIRST) else in_transit(error))
        leave(1)
    leave(0)


def obey(orders: Connection) -> None:
    try:
        while True:
            INTERRUPTION.signum = orders.recv()
    except (EOFError, OSError):  # whoever gave them is gone, and its lock of the run is free
        os._exit(1)


def leave(code: int) -> None:
    """Without a farewell to the others, who may be dead."""
    sys.stdout.flush()
    os._exit(code)


def in_transit(error: BaseException) -> Exception:
    """An error of a class that the command's process tells apart, with the traceback as a note."""
    cause = root_of(error)
    kind = next((kind for kind in KEPT_CLASSES if isinstance(cause, kind)), RuntimeError)
    sent = kind(str(cause) if kind is not RuntimeError else one_line(cause).removeprefix("RuntimeError: "))
    sent.add_note("".join(traceback.format_exception(error)))
    return sent
