"""Jobs in the processes of Hydra's other launchers, joblib's or submitit's, as if they were in the command's own.

What became of each stands in the command's ledger and not in what it returns: a process that is killed returns nothing.
"""

import contextlib
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from hydra.core.utils import JobReturn, JobStatus

from svhn_vae.errors import Interrupted
from svhn_vae.experiment.ledger import Ledger
from svhn_vae.experiment.turn import Outcome
from svhn_vae.training.interruption import INTERRUPTION, ctrl_c_kept_from_children

POLL = 0.5  # seconds
PREEMPTED = getattr(signal, "SIGUSR2", None)  # as submitit has it of SLURM, before its time is up
DIED = "its process died, killed or out of memory: the same command continues it"


@contextlib.contextmanager
def launching(launcher: str, num_jobs: int, ledger: Ledger) -> Iterator[None]:
    """While a launcher has the jobs: signals are passed on to them, and a job whose process died ends no other."""
    INTERRUPTION.pass_on, INTERRUPTION.in_epoch = ledger.pass_on_signal, True
    try:
        with ctrl_c_kept_from_children(), few_threads(launcher, num_jobs), waiting_for_all(launcher):
            yield
    finally:
        INTERRUPTION.pass_on, INTERRUPTION.in_epoch = (lambda: None), False


@contextlib.contextmanager
def few_threads(launcher: str, num_jobs: int) -> Iterator[None]:
    """submitit_local begins all jobs at once, each with a thread per core, which together are ten times slower than one
    after the other. joblib divides the cores by itself, and SLURM gives them out."""
    if launcher != "submitit_local" or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, num_cores() // num_jobs))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def waiting_for_all(launcher: str) -> Iterator[None]:
    """submitit raises for the first job whose process died, and forgets those that still run."""
    if not launcher.startswith("submitit"):
        yield
        return
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    results = Job.results

    def results_or_nothing(job: Job) -> list[Any]:
        try:
            return results(job)
        except (FailedJobError, UncompletedJobError):
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=math.nan)]

    Job.results = results_or_nothing
    try:
        yield
    finally:
        Job.results = results


def run_in_worker(number: int, name: str, ledger: Ledger, job: Callable[[], Outcome]) -> float:
    """A job in a launcher's process, noted in the ledger. Begins none once it was asked to leave.

    Nothing is raised: joblib would kill the other processes for it.
    """
    if INTERRUPTION.is_requested or ledger.num_signals:
        return math.nan
    INTERRUPTION.in_epoch = True  # outside of the job a signal is noted, and raises nothing in joblib's own loop
    requeue = take_over_preemption()
    INTERRUPTION.listen()
    if not ledger.is_own:
        INTERRUPTION.notice = b""  # the command's own process says it, once for all
    with named_lines(name):
        ledger.note(number, name, "begun")
        print("begins", flush=True)
        outcome = until_interrupted(name, ledger, job)
        ledger.note(number, name, outcome.status, outcome.reason)
    if requeue is not None and PREEMPTED in INTERRUPTION.received:
        with contextlib.suppress(Exception):  # it is not to be queued again
            requeue(PREEMPTED, None)
    return outcome.value


def until_interrupted(name: str, ledger: Ledger, job: Callable[[], Outcome]) -> Outcome:
    try:
        INTERRUPTION.in_epoch = False
        with heeding(ledger):
            return job()
    except (Interrupted, KeyboardInterrupt):
        return Outcome(name, "interrupted")
    finally:
        INTERRUPTION.in_epoch = True


@contextlib.contextmanager
def heeding(ledger: Ledger) -> Iterator[None]:
    """Signals that the command got and this process did not are given to it."""
    is_over, main = threading.Event(), threading.main_thread().ident

    def heed() -> None:
        while not is_over.wait(POLL):
            with contextlib.suppress(OSError):  # of a file system that does not answer
                if len(INTERRUPTION.received) < ledger.num_signals:
                    signal.pthread_kill(main, signal.SIGTERM)

    thread = threading.Thread(target=heed, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def take_over_preemption() -> Callable[..., Any] | None:
    """submitit's handler, which would checkpoint and leave in mid-epoch: a preempted run ends its epoch first."""
    handler = signal.getsignal(PREEMPTED) if PREEMPTED else None
    if not callable(handler):
        return None
    signal.signal(PREEMPTED, INTERRUPTION.receive)
    return handler


class Named(io.TextIOBase):
    """Whole lines, each with a run's name before it: those of several processes come to one terminal."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._begun = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        whole = "".join(f"{self._name}: {line.strip()}\n" for line in lines if line.strip())
        self._stream.write(whole)
        self._stream.flush()
        return len(text)


@contextlib.contextmanager
def named_lines(name: str) -> Iterator[None]:
    """Of what is printed; without a progress bar, of which there can be one in a terminal."""
    with contextlib.redirect_stdout(Named(sys.stdout, name)), contextlib.redirect_stderr(Named(sys.stderr, name)):
        yield
