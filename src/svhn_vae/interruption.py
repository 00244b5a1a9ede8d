"""Ctrl-C and what schedulers send: the first time at the end of the epoch, the second time at once.

The end of an epoch is where a continuation is exact. Lightning's own ways leave in its middle: `should_stop`, its
SIGTERM, and SLURM's requeue, which writes a checkpoint there.
"""

import os
import signal
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
NOTICE = b"\n  stopping after this epoch; once more to leave at once\n"


class Interrupted(BaseException):
    """The process was asked to leave. Not an Exception: nothing on its way takes it for a failure."""

    def __init__(self, signum: int, when: str = "") -> None:
        super().__init__(when)
        self.signum = signum

    def __reduce__(self) -> tuple:
        return Interrupted, (self.signum, str(self))  # from one process of a run to another


class Interruption:
    """Whether this process was asked to leave. While `in_epoch`, the first signal is only noted; else it raises."""

    def __init__(self) -> None:
        self.signum: int | None = None  # the last one
        self.in_epoch = False

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
        if is_first and self.in_epoch:
            os.write(1, NOTICE)  # print could be in the middle of a line of its own
            return
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # a third one ends the process wherever it is
        raise Interrupted(signum)


INTERRUPTION = Interruption()  # of this process: signals are the process's
