"""A fault at every call to the file system that a run makes: `make stress`, and tests/test_faults.py a sample of them.

The run ends in a clear line, leaves nothing half-written and a finished run of its study alone; and the same command,
without the fault, comes to the undisturbed result, bit for bit.
"""

import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import scipy.io
from omegaconf import OmegaConf
from PIL import Image

from stress.disk import Disk, failing
from stress.fingerprint import fingerprints, of_history
from stress.forked import TINY, Done, Prepare, train, warm_up, without_pictures
from svhn_vae.data.digits import draw_digits
from svhn_vae.runs.tensors import load_tensors
from svhn_vae.training.checkpoints import read_checkpoint

SHORT = (*TINY, "trainer.max_epochs=2")
STUDY = Path("outputs") / "default"
READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".safetensors": load_tensors,
    ".ckpt": read_checkpoint,
    ".png": lambda path: Image.open(path).load(),
    ".yaml": OmegaConf.load,
    ".csv": of_history,
}


class Alone(NamedTuple):
    """A folder with a finished run, and what the run to be disturbed comes to where nothing is wrong."""

    base: Path
    finished: str  # its name
    found: dict[str, str]
    calls: list[str]


def noting(folder: Path) -> None:
    without_pictures()
    Disk(folder, 0, print, log=folder / "calls").install()


def left_alone(root: Path) -> Alone:
    warm_up()
    base, alone = root / "base", root / "alone"
    done = train(base, *SHORT, "variance=shared", prepare=without_pictures)
    assert done.returncode == 0, done.printed
    [finished] = [path.parent.name for path in base.rglob("result.json")]
    shutil.rmtree(base / "cache")  # so that the run to be disturbed fits, and writes, its own
    shutil.copytree(base, alone)
    done = train(alone, *SHORT, prepare=partial(noting, alone))
    assert done.returncode == 0, done.printed
    return Alone(
        base, finished, fingerprints(alone / STUDY), (alone / "calls").read_text(encoding="utf-8").splitlines()
    )


def breaking(folder: Path, n: int, name: str, *, ever_after: bool = False, pattern: str = "") -> None:
    Disk(folder, n, failing(name), ever_after=ever_after, pattern=pattern).install()


def removing(folder: Path, what: str, pattern: str) -> None:
    """Somebody removes the folders `what` at the first call that matches."""
    Disk(folder, 1, lambda call: [shutil.rmtree(path) for path in folder.glob(what)], pattern=pattern).install()


def limiting(num_bytes: int) -> None:
    """No file may be larger: what no patch of Python's functions reaches, fails too."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def running_out(*errors: Callable[[str], BaseException]) -> None:
    """Of memory, in the second step of a run, once for each error."""
    from svhn_vae.training.module import LitVAE

    real, left = LitVAE.training_step, list(errors)

    def training_step(self, batch, batch_idx):
        if self.global_step and left:
            raise left.pop(0)("Tried to allocate 2.00 GiB")
        return real(self, batch, batch_idx)

    LitVAE.training_step = training_step


def replacing_data(folder: Path, source: Path) -> None:
    """Somebody replaces the training file when the first run of the sweep is done."""
    pattern = r"unlink .*result\.json"
    Disk(folder, 1, lambda call: shutil.copy(source, folder / "train_32x32.mat"), pattern=pattern).install()


def write_mat(path: Path, num: int, seed: int) -> None:
    images, labels = draw_digits(num, seed)
    scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None] + 10 * (labels[:, None] == 0)})


def together(*prepares: Prepare) -> None:
    for prepare in prepares:
        prepare()


class Ended(NamedTuple):
    line: str  # what it said
    wrong: list[str]


def disturbed(folder: Path, alone: Alone, prepare: Prepare, *, is_unlink: bool = False) -> Ended:
    """The command under a fault, and again without: what it said, and all that is not as promised."""
    shutil.copytree(alone.base, folder)
    before = untouched(folder / STUDY / alone.finished)
    done = train(folder, *SHORT, prepare=partial(together, without_pictures, prepare))
    wrong = [*said_wrong(done), *half_written(folder, partials=not is_unlink)]
    if untouched(folder / STUDY / alone.finished) != before:
        wrong.append("the finished run was changed")
    again = train(folder, *SHORT, prepare=without_pictures)
    wrong += [*said_wrong(again), *half_written(folder)]
    if again.returncode:
        wrong.append(f"the same command again: exit code {again.returncode}")
    found = fingerprints(folder / STUDY)
    wrong += [f"{name} differs" for name in sorted({*found, *alone.found}) if found.get(name) != alone.found.get(name)]
    return Ended(told(done), wrong + ([f"then it said: {told(again)}"] if wrong else []))


def said_wrong(done: Done) -> list[str]:
    """No traceback; one line that says why where it failed; no line that says so where it did not."""
    failures = [line for line in done.printed.splitlines() if line.startswith(("  failed: ", "refused: "))]
    wrong = ["a traceback"] if "Traceback" in done.printed else []
    if done.returncode not in (0, 1):
        wrong.append(f"exit code {done.returncode}")
    if len(failures) != done.returncode:
        wrong.append(f"exit code {done.returncode}, and {len(failures)} lines say why")
    return wrong


def told(done: Done) -> str:
    """What is said of the run, shortened."""
    lines = [line.strip() for line in done.printed.splitlines() if line.startswith("  ")]
    return re.sub(r"[\w.-]*/\S*/", "", "; ".join(lines)) or f"nothing, exit code {done.returncode}"


def half_written(folder: Path, *, partials: bool = True) -> list[str]:
    """Files that are not whole, by name and reason."""
    wrong = []
    for path in sorted((folder / "outputs").rglob("*")):
        try:
            READERS.get(path.suffix, Path.exists)(path)
        except Exception as error:  # whatever reading raises
            wrong.append(f"{path.name} is no whole file: {error!r}")
        if partials and path.suffix == ".partial":
            wrong.append(f"{path.name} is left")
    return wrong


def untouched(run: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in run.rglob("*") if path.is_file()}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def kind(call: str) -> str:
    """The call and the file, without what differs from process to process."""
    call = re.sub(r"\.[\w-]+\.\d+\.partial", ".partial", call)
    return re.sub(r"events\.out\S*", "events", call).replace(f"{STUDY}/", "")


def faults(alone: Alone) -> list[tuple[int, str, bool]]:
    """(number of the call, name of the error, whether everything fails from there on), of all calls."""
    names = ("ENOSPC", "ENOSPC", "EROFS", "EACCES", "EIO")
    return [(1 + place, names[place % len(names)], place % 3 == 2) for place in range(len(alone.calls))]


def main(minutes: float = 30) -> int:
    """How many faults did not end as promised. Every call once, as long as the minutes last."""
    root, num_wrong, end = Path(tempfile.mkdtemp(prefix="faults-")), 0, time.monotonic() + 60 * minutes
    alone, said = left_alone(root), Counter()
    chosen = faults(alone)
    chosen.sort(key=lambda fault: (Counter(map(kind, alone.calls[: fault[0]]))[kind(alone.calls[fault[0] - 1])], fault))
    print(f"{len(chosen)} calls to the file system; the first of each kind first", flush=True)
    for number, (n, name, ever_after) in enumerate(chosen):
        if time.monotonic() > end:
            print(f"{minutes:.0f} minutes are over: {len(chosen) - number} faults, of kinds that were tried, left out")
            break
        folder = root / "faulty"
        prepare = partial(breaking, folder, n, name, ever_after=ever_after)
        ended = disturbed(folder, alone, prepare, is_unlink=ever_after or alone.calls[n - 1].startswith("unlink"))
        num_wrong += bool(ended.wrong)
        said[ended.line] += 1
        mark = "WRONG" if ended.wrong else "ok"
        since = " from then on" if ever_after else ""
        print(f"{n:>4} {mark:5} {name}{since} at {kind(alone.calls[n - 1])}: {ended.line}", flush=True)
        for line in ended.wrong:
            print(f"           {line}", flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(root)
    print(f"{sum(said.values())} faults, {num_wrong} not as promised; {len(said)} different texts")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
