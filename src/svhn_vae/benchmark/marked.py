"""Runs a script as it is, and notes when its jobs began: python marked.py FILE src/train.py ...

A line in FILE for each job, the time of its first update's end. A program of its own: nothing in the framework knows
that it is timed.
"""

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    times, script, *arguments = sys.argv[1:]
    from svhn_vae.lit import LitVAE  # what the script imports first, too

    step = LitVAE.training_step

    def marked(self: LitVAE, batches, batch_idx) -> None:
        step(self, batches, batch_idx)
        if not getattr(self, "_is_marked", False):
            self._is_marked = True
            with Path(times).open("a") as file:
                file.write(f"{time.time()}\n")

    LitVAE.training_step = marked
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
