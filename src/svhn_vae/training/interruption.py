"""Ctrl-C and what schedulers send: the first time at the end of the epoch, the second time at once.

The end of an epoch is where a continuation is exact. Lightning's own ways leave in its middle: `should_stop`, its
SIGTERM, and SLURM's requeue, which writes a checkpoint there.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from svhn_vae.errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
NOTICE = b"\n  stopping after this epoch; once more to leave at once\n"


class Interruption:
    """Whether this process was asked to leave. While `in_epoch`, the first signal is only noted; else it raises."""

    def __init__(self) -> None:
        self.signum: int | None = None  # the last one
        self.received: list[int] = []
        self.in_epoch = False
        self.notice = NOTICE
        self.pass_on: Callable[[], None] = lambda: None  # to other processes, called at each signal

    @property
    def is_requested(self) -> bool:
        return self.signum is not None

    def listen(self) -> None:
        """Takes the signals, but for those that whoever started the process has switched off, as nohup and & do."""
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self.receive)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.signum = not self.is_requested, signum
        self.received.append(signum)
        self.pass_on()
        if is_first and self.in_epoch:
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(1, self.notice)  # print could be in the middle of a line of its own
            return
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # a third one ends the process wherever it is
        raise Interrupted(signum)


INTERRUPTION = Interruption()  # of this process: signals are the process's


@contextlib.contextmanager
def ctrl_c_kept_from_children() -> Iterator[None]:
    """A terminal sends Ctrl-C to all its processes. Those that are started in here inherit that it is blocked, and wait
    for what this one passes on; else some would die of it, and submitit's kill theirs in mid-epoch.

    Another thread than the one that starts them lets it in; Python calls the handler in the main thread all the same.
    """
    is_over = threading.Event()

    def let_in() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        is_over.wait()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    thread = threading.Thread(target=let_in, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
