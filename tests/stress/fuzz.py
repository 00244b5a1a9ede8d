"""Random commands: each passes the look before the first job or is refused, in a line for each fault.

`make stress` tries 1,000, and runs some of those that pass for one batch; tests/test_fuzz.py tries fewer of the same.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hydra import compose
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conftest import shared_jobs_of
from stress.faults import half_written, said_wrong
from stress.forked import TRAIN, train
from svhn_vae.experiment import sweep
from svhn_vae.experiment.configuration import CONF, composing, plain, recognised, register_resolvers
from svhn_vae.experiment.preflight import Job
from svhn_vae.runs.identity import flatten

MAX_LINE = 1500  # characters: long, and one line
NO_TEXT = ("Cc", "Zl", "Zp")  # categories: control characters, and what separates lines
ONE_BATCH = (
    "data=synthetic", "data.num_train=120", "data.num_test=20", "trainer.max_epochs=1", "batch_size=20",
    "trainer.limit_train_batches=1", "trainer.check_val_every_n_epoch=1", "iw_samples=1", "study=fuzz", "judge=false",
    "trainer.accelerator=cpu", "compile=false", "rerun=false", "data.limit=null", "cache=null",
    "network_scale=0.03125",
)  # fmt: skip


@cache
def defaults() -> dict[str, object]:
    """Dotted key -> value, of every setting of the usual choices and of some others."""
    register_resolvers()
    found = {}
    with composing():
        for chosen in ([], ["data=synthetic", "model=conv"], ["variance=spectral", "model=spectral"], ["model=ladder"]):
            found |= flatten(plain(compose("train", chosen, return_hydra_config=True)))
    return found


@cache
def groups() -> dict[str, list[str]]:
    folders = [path for path in sorted(CONF.iterdir()) if path.is_dir()]
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def right(value: object) -> st.SearchStrategy[str]:
    """Values of the type of the default."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false", "True", "yes", "off"])
    if isinstance(value, int):
        return st.integers(-1, 40).map(str)
    if isinstance(value, float):
        return st.floats(-1, 2, width=16).map(repr)
    if isinstance(value, list):
        return st.lists(st.sampled_from(["1", "2", "train", "test", "extra", "0.5"]), max_size=3).map(bracketed)
    return st.sampled_from(["auto", "official", "sample", "robust", "scaled", "val/kl", "train/bits_per_dim", "null"])


def bracketed(words: list[str]) -> str:
    return f"[{','.join(words)}]"


EXTREME = st.sampled_from(
    [
        "1e308", "-1e308", "1e-320", "1e400", "nan", "inf", "-inf", "0", "-0.0", str(2**31), str(2**63), str(10**40),
        "", "''", '""', "null", "None", "true", "maybe", "[]", "[1,2]", "[[1],[2]]", "{}", "{a:1}",
        "{a:{b:2}}", "'a b'",
        '"a\\"b"', "'", '"', "\\", "ünïcödé", "数", "\u202e", "a\u0000b", "\x1b[31m", "a\nb", "\t", " ", "x" * 300,
        "${seed}", "${nope}", "${", "${seed", "${oc.env:HOME}", "${oc.env:NOPE}", "${scaled:3}", "${scaled:x}",
        "${run_name:}", "${.seed}", "${oc.decode:'[1'}", "${data}", "../..", "/etc/passwd", "a/b", "a=b", "a:b", "?",
        "*", "???", "$x", "%s", "{0}", "<b>", "0x10", "1_000", "1e3", "01", "1.", ".5", "--", "@", "!!python/none",
        "&a", "*a",
    ]
)  # fmt: skip
SWEPT = st.sampled_from(
    [
        "1,2", "0,1,x", "a,b", "true,false", "range(0,3)", "glob(*)", "glob([a*,b*])", "choice(1,2)", "interval(0,1)",
        "1,", ",1", "sort(3,1)", "shuffle(1,2)", "glob(*", "1,,2", "null,1",
    ]
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def misspelt(draw: st.DrawFn, word: str) -> str:
    place = draw(st.integers(0, len(word)))
    return draw(st.sampled_from([word[:place] + word[place + 1 :], word[:place] + "x" + word[place:], word.upper()]))


@st.composite
def override(draw: st.DrawFn, *, is_sweep: bool) -> str:
    """One word of a command; most are nearly right, because what is nonsense never gets far."""
    key = draw(st.sampled_from(sorted(defaults())))
    if draw(st.integers(0, 4)) == 0:
        return draw(group_override())
    values = [right(defaults()[key])] * 8 + [EXTREME] * 2 + [SWEPT if is_sweep else EXTREME] * 2 + [TEXT]
    value = draw(st.sampled_from(values).flatmap(lambda strategy: strategy))
    shown = draw(st.sampled_from([st.just(key)] * 15 + [misspelt(key), TEXT]).flatmap(lambda strategy: strategy))
    form = draw(st.sampled_from(["{}={}"] * 20 + ["+{}={}", "++{}={}", "~{}", "~{}={}", "{}", "{}=", "+{}.new={}"]))
    return form.format(shown, value) if form.count("{}") == 2 else form.format(shown)


@st.composite
def group_override(draw: st.DrawFn) -> str:
    group = draw(st.sampled_from(sorted(groups())))
    choice = st.sampled_from(groups()[group])
    choice = draw(st.sampled_from([choice] * 10 + [choice.flatmap(misspelt), TEXT]).flatmap(lambda strategy: strategy))
    form = draw(st.sampled_from(["{}={}"] * 15 + ["+{}={}", "~{}", "{}@x={}", "{}=[{}]", "{}/{}"]))
    return form.format(group, choice) if form.count("{}") == 2 else form.format(group)


@st.composite
def command(draw: st.DrawFn) -> tuple[str, ...]:
    is_sweep = draw(st.booleans())
    words = draw(st.lists(override(is_sweep=is_sweep), min_size=1, max_size=4))
    words = [word for word in words if not word.startswith("-")]  # a flag: argparse's own matter
    return ("-m", *words) if is_sweep else tuple(words)


@contextlib.contextmanager
def one_composer() -> Iterator[None]:
    """Commands share what each would compose for itself, which takes nearly all of their time."""
    defaults()  # composed before
    with mock.patch.object(sweep, "jobs_of", shared_jobs_of):
        yield


class Look(NamedTuple):
    """What the look before the first job has said."""

    code: object
    printed: str
    jobs: list[Job]


def look(words: tuple[str, ...]) -> Look:
    """Everything that src/train.py does before its first job."""
    printed, whole = io.StringIO(), sweep.Sweep()
    with (
        mock.patch.object(sys, "argv", [str(TRAIN), *words]),
        mock.patch.dict(os.environ),
        mock.patch.object(sweep.INTERRUPTION, "listen"),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        code = whole.launch(lambda: None)
    return Look(code, printed.getvalue(), whole.jobs)


def wrong_with(found: Look) -> Iterator[str]:
    """What is not as promised of a refusal, or of a command that passed."""
    lines = found.printed.removesuffix("\n").split("\n")
    if found.code == 0:
        if found.printed:
            yield "it passed, and something was printed"
        return
    if found.code != 1 or not found.printed.startswith("refused: "):
        yield f"exit code {found.code}, and no refusal"
    if "Traceback" in found.printed:
        yield "a traceback"
    if len(lines) > 1 and (lines[0] != "refused: nothing was begun" or len(lines) == 2):
        yield "a refusal of several lines"
    if len(set(lines)) < len(lines) or any(not line.removeprefix("refused: ").strip() for line in lines):
        yield "a line twice, or an empty one"
    if any(unicodedata.category(character) in NO_TEXT for line in lines for character in line):
        yield "control characters"
    if any(len(line) > MAX_LINE for line in lines):
        yield "a line that has no end"


def composed_otherwise(jobs: list[Job]) -> Iterator[str]:
    """Jobs that passed under a name that Hydra, when it comes to them, does not give them."""
    for job in jobs[:2]:
        with composing():
            name = recognised(compose("train", list(job.overrides), return_hydra_config=True)).name
        if name != job.name:
            yield f"looked at {job.name}, to be run is {name}"


def check(words: tuple[str, ...], folder: Path) -> Look:
    """Raises AssertionError for what is not as promised."""
    found = look(words)
    wrong = list(wrong_with(found))
    if found.code == 0:
        wrong += composed_otherwise(found.jobs)
    wrong += [f"{path} was written" for path in folder.rglob("*")]
    assert not wrong, f"{words}: {wrong}\n{found.printed}"
    return found


def examples(num: int) -> settings:
    """Of hypothesis: the same commands each time."""
    quiet = {"suppress_health_check": list(HealthCheck), "phases": [Phase.generate, Phase.shrink]}
    return settings(max_examples=num, derandomize=True, database=None, deadline=None, **quiet)


def run_for_one_batch(words: tuple[str, ...], folder: Path) -> list[str]:
    """What is wrong with what it came to, of a command that passed."""
    own = [word for word in words if word != "-m" and not re.match(r"[+~]*(data|trainer|study|cache)[@=]", word)]
    done = train(folder, *own, *ONE_BATCH)
    if done.printed.startswith("refused: "):  # with the words that make it small
        return []
    return [f"{' '.join(words)}: {line}\n{done.printed}" for line in [*said_wrong(done), *half_written(folder)]]


def main(num: int = 1000, num_run: int = 20) -> int:
    """How many did not end as promised."""
    start, said, passed, wrong = time.monotonic(), Counter(), [], []
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (root / "empty").mkdir()
    os.chdir(root / "empty")

    @examples(num)
    @given(command())
    def try_one(words: tuple[str, ...]) -> None:
        found = check(words, root / "empty")
        said["passed" if found.code == 0 else "refused"] += 1
        if found.code == 0 and "-m" not in words:
            passed.append(words)
        if sum(said.values()) % 100 == 0:
            print(f"{sum(said.values()):>5} commands, {dict(said)}, {time.monotonic() - start:.0f} s", flush=True)

    try:
        with one_composer():
            try_one()
    except BaseException as error:  # hypothesis gathers several in a group
        wrong.append(str(error))
        print(f"WRONG {error!r} {getattr(error, 'exceptions', '')} {error.__notes__}", flush=True)
    for number, words in enumerate(passed[:: max(1, len(passed) // max(1, num_run))][:num_run]):
        faults = run_for_one_batch(words, root / f"run{number}")
        wrong += faults
        print(f"run for one batch: {' '.join(words)[:150]}: {faults or 'ok'}", flush=True)
    print(f"{sum(said.values())} commands: {dict(said)}; {len(wrong)} not as promised")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
