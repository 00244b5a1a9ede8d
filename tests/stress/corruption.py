"""Every kind of file that is read, cut off or with a flipped bit: `make stress`, and tests/test_faults.py fewer places.

Reading gives what was written, or ends in one line, or a notice and nothing: never something else, and no traceback.
"""

import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import scipy.io
import torch
from torch import Tensor

from conftest import composed
from stress.faults import STUDY, Ended, said_wrong, together, told
from stress.fingerprint import fingerprints, of_tensors, sha
from stress.forked import TINY, Blank, train, warm_up, without_pictures
from stress.kill import watched
from svhn_vae.data import cache
from svhn_vae.data.digits import draw_digits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.data.svhn import read_mat
from svhn_vae.errors import DataError
from svhn_vae.evaluation import baselines, judge
from svhn_vae.evaluation.baselines import Uniform
from svhn_vae.evaluation.judge import JudgeSettings
from svhn_vae.experiment.build import build_module
from svhn_vae.experiment.loading import load_dataset, load_run
from svhn_vae.report import plots
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.files import read_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import load_tensors, read_checkpoint
from svhn_vae.training.checkpoints import continuation
from svhn_vae.training.loggers import read_history

RUN = ("variance=relu_eps", *TINY, "trainer.max_epochs=2")
JUDGE = JudgeSettings(
    width=2, dropout=0.0, epochs=1, images=100, enough=1.0, batch_size=10, learning_rate=0.1, weight_decay=0.0,
    label_smoothing=0.0, max_shift=1, contrast=0.0, seed=0,
)  # fmt: skip
SAME, REFUSED, NOTHING, REBUILT = "as written", "one line", "nothing, as if there were none", "a notice, made anew"
PART, OTHER = "part of it, and it is said", "other images, of another digest"
UNPROTECTED = "another text"  # a flipped bit in what people read and edit: the README says that nothing guards it
TEXTS = ("result.json", "status.json", "study.json", "history.csv")


class Kind(NamedTuple):
    """A kind of file, and what reads it: content that can be compared, None for nothing."""

    path: Path
    read: Callable[[], object]
    otherwise: Callable[[object, object], str] = lambda found, right: ""  # what else it may give, and how it is called


def kinds(folder: Path) -> dict[str, Kind]:
    """All of them, in a folder where `make_files` has put them."""
    study = folder / STUDY
    run = RunFolder(next(path.parent for path in study.glob("*/result.json")))
    files = {
        "best.ckpt": Kind(run.best_checkpoint, partial(weights_of, run.path)),
        "representation.safetensors": Kind(run.representation, partial(weights_of, run.path)),
        "basis.safetensors": Kind(run.basis, partial(weights_of, run.path)),
        "prior.safetensors": Kind(run.prior, partial(weights_of, run.path)),
        ".hydra/config.yaml": Kind(run.path / ".hydra" / "config.yaml", partial(weights_of, run.path)),
        "config.yaml, its data": Kind(run.path / ".hydra" / "config.yaml", partial(data_of, run.path)),
        "last.ckpt": Kind(run.last_checkpoint, partial(continued_from, run)),
        "result.json": Kind(run.path / "result.json", lambda: run.result or None),
        "status.json": Kind(run.status, lambda: run.facts or None, partial(told_by_result, run)),
        "history.csv": Kind(run.path / "history.csv", lambda: read_history(run.path / "history.csv") or None),
        "study.json": Kind(study / "study.json", lambda: read_json(study / "study.json") or None),
        "cached moments": Kind(next(folder.glob("small-cache/moments*")), partial(moments_of, folder)),
        "cached baselines": Kind(next(folder.glob("small-cache/baselines*")), partial(baselines_of, folder)),
        "cached judge": Kind(next(folder.glob("small-cache/judge*")), partial(judge_of, folder)),
    }
    for name in ("plain.mat", "compressed.mat"):
        files[name] = Kind(folder / name, partial(images_of, folder / name), lambda found, right: OTHER)
    for name in ("order_of_learning", "per_image"):
        path = run.path / f"{name}.safetensors"
        files[path.name] = Kind(path, lambda path=path: of_tensors(load_tensors(path)))
    return files


def told_by_result(run: RunFolder, found: dict, right: dict) -> str:
    """What result.json says, too, in place of status.json."""
    told = {name: value for name, value in found.items() if value is not None}  # the commit, outside a checkout
    return PART if run.damage and told.items() <= right.items() else ""


def make_files(folder: Path) -> None:
    """A finished run in its study, small caches, and .mat files."""
    warm_up()
    done = train(folder, *RUN, prepare=without_pictures)
    assert done.returncode == 0, done.printed
    images, labels = draw_digits(12, 0)
    arrays = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None] + 10 * (labels[:, None] == 0)}
    for name in ("plain", "compressed"):
        scipy.io.savemat(folder / f"{name}.mat", arrays, do_compression=name == "compressed")
    moments_of(folder)
    baselines_of(folder)
    judge_of(folder)


def dataset() -> Dataset:
    images, labels = map(torch.from_numpy, draw_digits(12, 0))
    return Dataset("digits", True, *(LabelledImages(images[start::3], labels[start::3]) for start in range(3)))


def weights_of(run: Path) -> str:
    """Of what `load_run` gives: its state, its settings and what it makes of an image."""
    vae = load_run(run).vae
    state = vae.state_dict() | dict(vae.representation.named_buffers())
    x = torch.linspace(0, 1, 3072).reshape(1, 3, 32, 32)
    with torch.no_grad():
        noise = torch.zeros(1, vae.networks.latent_dim)
        features = vae.representation(x)
        made = vae.networks(features.y, noise)
        state |= {"y": features.y, "sigma": vae.variance(made.params).stddev, "mean": made.mean}
    return of_tensors({name: value.contiguous() for name, value in state.items()})


def data_of(run: Path) -> str:
    return load_dataset(run, None, other_images=False).digest


def continued_from(run: RunFolder) -> object:
    """The content of the checkpoint that a continuation takes; None for a beginning."""
    digest = run.facts["data"]
    path = continuation(run, module(), digest)
    return None if path is None else sha(repr(contents(read_checkpoint(path))).encode())


def contents(content: object) -> object:
    """A checkpoint without tensors, which repr shortens."""
    if isinstance(content, Tensor):
        return of_tensors({"": content})
    if isinstance(content, dict):
        return {key: contents(value) for key, value in content.items()}
    return [contents(value) for value in content] if isinstance(content, list | tuple) else content


MODULES: list = []


def module():
    """The run's, as training builds it; built once."""
    if not MODULES:
        MODULES.append(build_module(composed(*RUN)))
    return MODULES[0]


def images_of(path: Path) -> str:
    return sha(b"".join(array.numpy().tobytes() for array in read_mat(path)))


def moments_of(folder: Path) -> str:
    images = torch.arange(20 * 3 * 16).reshape(20, 3, 4, 4).mul(7).to(torch.uint8)
    found = cache.cached_moments(images, "digest", "sample", folder / "small-cache")
    return of_tensors(found._asdict())


def baselines_of(folder: Path) -> object:
    with mock.patch.object(baselines, "fitted", return_value={"uniform": Uniform(), "the same": Uniform()}):
        return baselines.baselines(dataset(), lambda _: None, 20, folder / "small-cache")


def judge_of(folder: Path) -> object:
    """As a new process has it, and untrained."""
    judge._loaded.clear()
    cache._in_memory.clear()
    torch.manual_seed(0)
    with mock.patch.object(judge, "fit", return_value=judge.Judge(JUDGE.width, JUDGE.dropout, 3)):
        return of_tensors(judge.judge_once(dataset(), JUDGE, folder / "small-cache", torch.device("cpu")).state_dict())


class Damage(NamedTuple):
    name: str
    content: bytes
    is_flip: bool = False


def damages(content: bytes, num: int, num_flipped: int, rng: random.Random) -> Iterator[Damage]:
    """Cut off at each of `num` places, and single bits flipped."""
    for place in range(num):
        yield Damage(f"cut off at {place}/{num}", content[: place * len(content) // num])
    for _ in range(num_flipped):
        index, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = content[:index] + bytes([content[index] ^ (1 << bit)]) + content[index + 1 :]
        yield Damage(f"bit {bit} of byte {index} of {len(content)} flipped", flipped, is_flip=True)


def read(kind: Kind) -> tuple[object, str]:
    """What is read, or the error; and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            found = kind.read()
        except (ValueError, OSError, DataError) as error:  # those that scripts turn into a line
            found = error
    return found, printed.getvalue()


def outcome(kind: Kind, damage: Damage, right: object) -> str:
    """Of reading the damaged file, which is put back; an AssertionError for what must not be."""
    whole, others = kind.path.read_bytes(), set(kind.path.parent.iterdir())
    kind.path.write_bytes(damage.content)
    try:
        found, printed = read(kind)
        called = "" if isinstance(found, Exception | None) else kind.otherwise(found, right)
    finally:
        for new in set(kind.path.parent.iterdir()) - others:
            new.unlink()
        kind.path.write_bytes(whole)
    lines = printed.splitlines()
    assert len(lines) <= 1, printed
    if isinstance(found, Exception):
        assert len(str(found).splitlines()) == 1, repr(found)
        return REFUSED
    if found == right:
        return REBUILT if lines else SAME
    if called:
        return called
    if kind.path.name in TEXTS and found is not None and (damage.is_flip or is_first_rows(kind, found, right)):
        return UNPROTECTED
    assert found is None, f"something else was read: {printed}"
    return f"{NOTHING}, with a notice" if lines else NOTHING


def is_first_rows(kind: Kind, found: object, right: object) -> bool:
    """history.csv cut off exactly at the end of a line."""
    return kind.path.name == "history.csv" and found == right[: len(found)]


def tried(kind: Kind, num: int, num_flipped: int) -> tuple[Counter[str], list[str]]:
    """What became of all damages of a kind of file, and what must not be."""
    right, _ = read(kind)
    assert right is not None
    assert not isinstance(right, Exception), repr(right)
    found, wrong = Counter(), []
    for damage in damages(kind.path.read_bytes(), num, num_flipped, random.Random(0)):
        try:
            found[outcome(kind, damage, right)] += 1
        except Exception as error:  # that nothing turns into a line
            found["WRONG"] += 1
            wrong.append(f"{damage.name}: {error!r}"[:300])
    return found, wrong


# --- the commands, on damaged files ---------------------------------------------------------------------------------

CACHE = "cache/svhn-vae/moments*"
READ_BY_TRAIN = ("result.json", "status.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "history.csv",
                 "representation.safetensors", "basis.safetensors", "prior.safetensors",
                 ".hydra/config.yaml", "../study.json", CACHE)  # fmt: skip
OF_THE_END = ("result.json", "representation.safetensors", "basis.safetensors", "prior.safetensors")


def interrupted(folder: Path) -> None:
    """The same run, killed at its second checkpoint."""
    prepare = partial(together, without_pictures, partial(watched, folder, 2, r"write .*last\.ckpt"))
    done = train(folder, *RUN, prepare=prepare)
    assert done.returncode < 0, done.printed


def trained_again(folder: Path, name: str, place: float, right: dict[str, str]) -> Ended:
    """The run's command once more, with one of its files cut off at a fraction of its length: what is missing is made
    anew, to the same end."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    run = next(path.parent for path in copy.glob(f"{STUDY}/*/status.json"))
    [path] = copy.glob(name) if name == CACHE else [run / name]
    content, is_done = path.read_bytes(), (run / "result.json").is_file()
    path.write_bytes(content[: int(place * len(content))])
    done = train(copy, *RUN, prepare=without_pictures)
    wrong, found = said_wrong(done), fingerprints(copy / STUDY)
    if done.returncode:
        wrong.append("it failed")
    is_left = is_done and name != "result.json"  # a finished run's other files are not made anew
    changed = Path(name).name if is_left else ""
    wrong += [f"{part} differs" for part in right if found.get(part) != right[part] and Path(part).name != changed]
    shutil.rmtree(copy)
    return Ended(told(done), wrong)


def reported(folder: Path, name: str, damage: Damage) -> None:
    """The table and the page of a study with a damaged file. Raises whatever they raise."""
    kind = kinds(folder)[name]
    whole = kind.path.read_bytes()
    kind.path.write_bytes(damage.content)
    try:
        with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(plots, "FigureCanvasSVG", Blank):
            print_study(folder / STUDY, wide_console())
            write_report(folder / STUDY)
    finally:
        kind.path.write_bytes(whole)


REPORTED = ("status.json", "result.json", "study.json", "history.csv", "per_image.safetensors")


def main(num: int = 64) -> int:
    """How many damages did not end as promised."""
    root, num_wrong = Path(tempfile.mkdtemp(prefix="damaged-")), 0
    folder = root / "whole"
    make_files(folder)
    print(f"each cut off at {num} places, and with each of {num} bits flipped", flush=True)
    for name, kind in kinds(folder).items():
        found, wrong = tried(kind, num, num)
        num_wrong += len(wrong)
        listed = ", ".join(f"{times} {text}" for text, times in found.most_common())
        print(f"{name:<30} {kind.path.stat().st_size:>11,} bytes: {listed}", *wrong, sep="\n      ", flush=True)
    rng, right = random.Random(0), fingerprints(folder / STUDY)
    interrupted(root / "interrupted")
    for state in ("whole", "interrupted"):
        for name in READ_BY_TRAIN:
            if state == "interrupted" and name in OF_THE_END:
                continue
            for place in (0, 0.5, 0.9):
                ended = trained_again(root / state, name, place, right)
                num_wrong += bool(ended.wrong)
                print(
                    f"train.py, {state}, {name} cut off at {place}: {ended.line}",
                    *ended.wrong,
                    sep="\n      WRONG ",
                    flush=True,
                )
    for name in REPORTED:
        wrong = []
        for damage in damages(kinds(folder)[name].path.read_bytes(), num // 8, num // 8, rng):
            try:
                reported(folder, name, damage)
            except Exception as error:  # of any kind
                wrong.append(f"{damage.name}: {error!r}"[:300])
        num_wrong += len(wrong)
        print(f"report.py, {name}: {2 * (num // 8) - len(wrong)} as promised", *wrong, sep="\n      WRONG ", flush=True)
    shutil.rmtree(root)
    print(f"{num_wrong} not as promised")
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
