"""Jobs in the processes of Hydra's other launchers, joblib's or submitit's, as if they were in the command's own.

What became of each is read from its run folder, because a process that is killed returns nothing.
"""

import contextlib
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from svhn_vae.errors import Busy, Interrupted
from svhn_vae.experiment.attempt import Outcome
from svhn_vae.runs.files import locked
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.interruption import INTERRUPTION, ctrl_c_kept_from_children

POLL = 0.5  # seconds
PREEMPTED = getattr(signal, "SIGUSR2", None)  # as submitit has it of SLURM, before its time is up
DIED = "its process died, killed or out of memory: the same command continues it"


class Command:
    """What the processes of one command share: when it began, where its runs lie, whether they are to leave.

    A signal to the command is a file beside the runs, which a process on any machine sees.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.begun, self.folders, self.pid = time.time(), list(folders), os.getpid()
        self._signals = [folders[0].parent / f".stop-{time.time_ns()}-{number}" for number in (1, 2)]

    def pass_on_signal(self) -> None:
        with contextlib.suppress(OSError):  # in a handler nothing can be done about it
            self._signals[min(self.num_signals, 1)].touch()

    @property
    def num_signals(self) -> int:
        return sum(path.exists() for path in self._signals)

    def outcomes(self) -> list[Outcome]:
        return [outcome_of(RunFolder(folder), self.begun) for folder in self.folders]

    def close(self) -> None:
        for path in self._signals:
            path.unlink(missing_ok=True)


def outcome_of(folder: RunFolder, begun: float) -> Outcome:
    """What became of a run since a command began, by its folder."""
    name, facts = folder.path.name, folder.facts
    log, status = folder.error_log, facts.get("status", "")
    if log.is_file() and log.stat().st_mtime >= begun - 1 and status != "failed":  # it could not even begin
        return Outcome(name, "failed", log.read_text(encoding="utf-8").strip().splitlines()[-1])
    if status in ("done", "diverged"):
        return Outcome(name, status, facts.get("reason", ""))
    if status == "running":
        return Outcome(name, "elsewhere") if is_busy(folder.path) else Outcome(name, "failed", DIED)
    if status and facts.get("ended", 0) >= begun - 1:
        return Outcome(name, status, facts.get("reason", ""))
    return Outcome(name, "not begun")


def is_busy(path: Path) -> bool:
    """Whether a process has the run's lock."""
    try:
        with locked(path):
            return False
    except Busy:
        return True


@contextlib.contextmanager
def launching(launcher: str, command: Command) -> Iterator[None]:
    """While a launcher has the jobs: signals are passed on to them."""
    if launcher == "submitit_local":  # begins all at once; joblib divides the cores by itself, and SLURM gives them out
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(command.folders))))
    INTERRUPTION.pass_on, INTERRUPTION.in_epoch = command.pass_on_signal, True
    try:
        with ctrl_c_kept_from_children():
            yield
    finally:
        INTERRUPTION.pass_on, INTERRUPTION.in_epoch = (lambda: None), False


def run_in_worker(folder: RunFolder, command: Command, run: Callable[[], Outcome], *, stops: bool) -> float:
    """A job in a launcher's process. Begins none once the command was asked to leave, or one has failed and `stops`.

    Nothing is raised: joblib would kill the other processes for it.
    """
    is_over = INTERRUPTION.is_requested or command.num_signals
    if is_over or (stops and any(outcome.status == "failed" for outcome in command.outcomes())):
        return math.nan
    INTERRUPTION.in_epoch = True  # outside of the job a signal is noted, and raises nothing in joblib's own loop
    requeue = take_over_preemption()
    INTERRUPTION.listen()
    if os.getpid() != command.pid:  # joblib runs jobs in the command's own where it may have one process alone
        INTERRUPTION.notice = b""  # the command's own process says it, once for all
    value = math.nan
    with named_lines(folder.path.name), contextlib.suppress(Interrupted, KeyboardInterrupt):
        print("begins", flush=True)
        try:
            INTERRUPTION.in_epoch = False
            with heeding(command):
                outcome = run()
        finally:
            INTERRUPTION.in_epoch = True
        value = outcome.value
        if outcome.status == "failed" and folder.facts.get("status") != "failed":  # for the command to read
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.error_log.write_text(outcome.reason, encoding="utf-8")
    if requeue is not None and PREEMPTED in INTERRUPTION.received:
        with contextlib.suppress(Exception):  # it is not to be queued again
            requeue(PREEMPTED, None)
    return value


@contextlib.contextmanager
def heeding(command: Command) -> Iterator[None]:
    """Signals that the command got and this process did not are given to it."""
    is_over, main = threading.Event(), threading.main_thread().ident or 0

    def heed() -> None:
        while not is_over.wait(POLL):
            if len(INTERRUPTION.received) < command.num_signals:
                signal.pthread_kill(main, signal.SIGTERM)

    thread = threading.Thread(target=heed, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def take_over_preemption() -> Callable[..., object] | None:
    """submitit's handler, which would checkpoint and leave in mid-epoch: a preempted run ends its epoch first."""
    handler = signal.getsignal(PREEMPTED) if PREEMPTED else None
    if PREEMPTED is None or not callable(handler):
        return None
    signal.signal(PREEMPTED, INTERRUPTION.receive)
    return handler


class Named(io.TextIOBase):
    """Whole lines, each with a run's name before it: those of several processes come to one terminal."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._begun = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        self._stream.write("".join(f"{self._name}: {line.strip()}\n" for line in lines if line.strip()))
        self._stream.flush()
        return len(text)


@contextlib.contextmanager
def named_lines(name: str) -> Iterator[None]:
    """Of what is printed; without a progress bar, of which there can be one in a terminal."""
    with contextlib.redirect_stdout(Named(sys.stdout, name)), contextlib.redirect_stderr(Named(sys.stderr, name)):
        yield
