"""What the processes of one command tell each other: what became of its jobs, and that they are to leave.

Small files in a folder, which whatever process or machine has the runs' folders sees as well. Knows neither torch nor
Hydra.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

from svhn_vae.runs.files import read_json, write_json
from svhn_vae.runs.identity import Config

ALL = 2  # signals; the second one means at once


class Ledger:
    """In a folder of its own below `outputs`, until `close`. Jobs are known by their number in the sweep."""

    def __init__(self, outputs: Path) -> None:
        self._pid = os.getpid()
        self.folder = outputs.resolve() / ".sweeps" / f"{time.time_ns()}-{self._pid}"
        self.folder.mkdir(parents=True)

    @property
    def is_own(self) -> bool:
        """Whether this process is the command's: joblib runs jobs in it where it may have one process alone."""
        return os.getpid() == self._pid

    def note(self, number: int, name: str, status: str, reason: str = "") -> None:
        """Not once it is closed, when nobody would read it, nor on a full disk: the run's own folder has it as well."""
        if self.folder.is_dir():
            with contextlib.suppress(OSError):
                write_json(self.folder / f"{number}.json", {"name": name, "status": status, "reason": reason})

    def entries(self) -> dict[int, Config]:
        """Number -> name, status (begun, or of its outcome) and reason."""
        unknown = {"status": "begun", "reason": ""}
        return {int(path.stem): unknown | read_json(path) for path in self.folder.glob("*.json")}

    def pass_on_signal(self) -> None:
        """To all processes: they leave after their epoch; the second time, at once."""
        with contextlib.suppress(OSError):  # there it may be closed, and in a handler nothing can be done about it
            (self.folder / f"signal{self.num_signals + 1}").touch()

    @property
    def num_signals(self) -> int:
        """All that there can be once it is closed: whoever began the jobs waits for them no longer."""
        return len(list(self.folder.glob("signal*"))) if self.folder.is_dir() else ALL

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self.folder.parents[:2]:  # .sweeps, outputs
            try:
                folder.rmdir()
            except OSError:  # there is something in it
                return
