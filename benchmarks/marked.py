"""Runs a command's module as it is, and notes when its jobs began: python marked.py TIMES PEAK commands/train.py ...

A line in TIMES for each job, the time of its first update's end; in PEAK the memory that the process took at most, in
KiB, where the system tells. A program of its own: nothing in the framework knows that it is measured.
"""

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    times, peak, script, *arguments = sys.argv[1:]
    from svhn_vae.training.module import LitVAE  # what the script imports first, too

    step = LitVAE.training_step

    def marked(self: LitVAE, batches, batch_idx) -> None:
        step(self, batches, batch_idx)
        if not getattr(self, "_is_marked", False):
            self._is_marked = True
            with Path(times).open("a", encoding="utf-8") as file:
                file.write(f"{time.time()}\n")

    LitVAE.training_step = marked
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        # Of this program's own memory, where getrusage counts that of the process which began it, too.
        if (status := Path("/proc/self/status")).exists():
            [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
            Path(peak).write_text(line.split()[1], encoding="utf-8")


if __name__ == "__main__":
    main()
