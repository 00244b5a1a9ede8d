"""A command: all its jobs checked before the first, one run after another, and in the end what became of them."""

import argparse
import gc
import math
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from svhn_vae.errors import Interrupted, one_line, printable, root_of
from svhn_vae.experiment.commandline import OUTPUTS, StudyTable
from svhn_vae.experiment.configuration import choices
from svhn_vae.experiment.launchers import DIED, launching, run_in_worker
from svhn_vae.experiment.ledger import Ledger
from svhn_vae.experiment.preflight import Planned, Refused, plan
from svhn_vae.experiment.turn import Outcome, quiet, take_turn
from svhn_vae.runs.folder import RunFolder
from svhn_vae.training.interruption import INTERRUPTION

MAX_LISTED = 3  # jobs that share a fault


class Stopped(BaseException):
    """on_error=stop: no further job. Not an Exception: Hydra would take it for the job's."""


class Sweep:
    """One command, a single run or many; `run_job` is what Hydra calls for each."""

    def __init__(self) -> None:
        self.jobs: list[Planned] = []
        self.outcomes: list[Outcome] = []
        self.tables: dict[str, StudyTable] = {}  # study -> its table
        self.left_out: frozenset[str] = frozenset()  # runs that are impossible
        self.launcher = "basic"
        self.ledger: Ledger | None = None  # where the launcher's jobs are in other processes

    def __getstate__(self) -> dict[str, Any]:
        """What a launcher's processes get of it, with each job."""
        return {**self.__dict__, "jobs": [], "outcomes": []}

    def launch(self, main: Callable[[], Any]) -> int:
        """Checks every job, has Hydra call `main` for each, lists what became of them; returns the exit code.

        What asks for help or for the configuration is left to Hydra.
        """
        args = get_args_parser().parse_args()
        if args.experimental_rerun is not None:
            return refuse(["--experimental-rerun unpickles a file, which runs whatever code it holds"])
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            main()
            return 0
        quiet()
        INTERRUPTION.listen()
        try:
            return self._plan(args) or self._run(main)
        except (Interrupted, KeyboardInterrupt) as interrupted:
            self._tell()
            return 128 + getattr(interrupted, "signum", 2)

    def run_job(self, cfg: DictConfig) -> float:
        """One job, in the folder that Hydra has made for it. Raises Interrupted or Stopped, but not to a launcher of
        other processes."""
        hydra_cfg = HydraConfig.get()
        folder = RunFolder(Path(hydra_cfg.runtime.output_dir))
        try:
            if folder.path.name in self.left_out:
                return math.nan
            if self.ledger is not None:
                return self._run_in_worker(cfg, folder, self.ledger)
            print(f"\n{folder.path.name}", flush=True)
            outcome = self._take_turn(cfg, folder)
        finally:
            folder.remove_if_empty()
        self.outcomes.append(outcome)
        if outcome.status == "failed" and cfg.on_error == "stop":
            raise Stopped
        return outcome.value

    def _take_turn(self, cfg: DictConfig, folder: RunFolder) -> Outcome:
        try:
            return take_turn(cfg, choices(HydraConfig.get()), folder, self.tables[cfg.study].begin)
        finally:
            gc.collect()  # what an error's frames held
            torch.cuda.empty_cache()

    def _run_in_worker(self, cfg: DictConfig, folder: RunFolder, ledger: Ledger) -> float:
        quiet()
        if cfg.on_error == "stop" and any(entry["status"] == "failed" for entry in ledger.entries().values()):
            return math.nan
        number, name = HydraConfig.get().job.num, folder.path.name
        return run_in_worker(number, name, ledger, lambda: self._take_turn(cfg, folder))

    def _plan(self, args: argparse.Namespace) -> int:
        """1 if the command is refused, else 0."""
        is_sweep = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
        try:
            self.jobs = plan(
                args.overrides,
                is_sweep=is_sweep,
                config_name=args.config_name or "train",
                config_dir=args.config_dir,
            )
        except Refused as refused:
            return refuse(refused.lines)
        if faults := self._faults():
            self.jobs = []
            return refuse(faults)
        self.left_out = frozenset(planned.name for planned in self.jobs if planned.impossible)
        self.launcher = self.jobs[0].launcher if is_sweep else "basic"
        self.tables = {planned.settings["study"]: StudyTable(planned.settings) for planned in self.jobs}
        return 0

    def _run(self, main: Callable[[], Any]) -> int:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raises what goes wrong between jobs, where it would print a traceback
        try:
            main() if self.launcher == "basic" else self._launch_elsewhere(main)
        except Stopped:
            print("\nstopped after the first failure: on_error=stop", flush=True)
        except Exception as error:  # a folder that Hydra cannot make
            print(f"  failed: {one_line(root_of(error))}", flush=True)
            self.outcomes.append(Outcome("the command", "failed", one_line(root_of(error))))
        self._tell()
        return int(any(outcome.status == "failed" for outcome in self.outcomes))

    def _launch_elsewhere(self, main: Callable[[], Any]) -> None:
        """Has a launcher run the jobs in other processes, and learns what became of them. Raises as `main` does."""
        self.ledger = Ledger(OUTPUTS)
        if self.launcher.startswith("submitit"):
            logs = OUTPUTS / str(self.jobs[0].settings["study"]) / ".submitit"
            print(f"{len(self.jobs)} jobs with {self.launcher}, which print to {logs}", flush=True)
        try:
            with launching(self.launcher, len(self.jobs), self.ledger):
                main()
        except BrokenExecutor:
            print("\na process died, killed or out of memory: joblib ends the others with it", flush=True)
        finally:
            self.outcomes = self._noted(self.ledger)
            self.ledger.close()
        statuses = {outcome.status for outcome in self.outcomes}
        if INTERRUPTION.is_requested or "interrupted" in statuses:
            raise Interrupted(INTERRUPTION.signum or signal.SIGTERM)
        if "failed" in statuses and self.jobs[0].settings["on_error"] == "stop":
            raise Stopped

    def _noted(self, ledger: Ledger) -> list[Outcome]:
        """Of every job that could be begun."""
        entries = ledger.entries()
        unfinished = ("interrupted", "") if INTERRUPTION.is_requested else ("failed", DIED)
        outcomes = []
        for number, planned in enumerate(self.jobs):
            entry = entries.get(number, {"status": "not begun", "reason": ""})
            status, reason = unfinished if entry["status"] == "begun" else (entry["status"], entry["reason"])
            if not planned.impossible:
                outcomes.append(Outcome(planned.name, status, reason))
        return outcomes

    def _faults(self) -> list[str]:
        """A line for each fault that keeps the command from beginning."""
        wrong = [(planned, fault) for planned in self.jobs for fault in planned.wrong]
        impossible = [(planned, planned.impossible) for planned in self.jobs if is_in_the_way(planned)]
        lines = [f"{fault}{self._where(jobs)}" for fault, jobs in by_fault([*wrong, *impossible]).items()]
        possible = len(self.jobs) - len(impossible)
        if impossible and possible and not wrong:
            lines.append(f"impossible=skip leaves these out and runs the other {possible}")
        return lines

    def _where(self, jobs: list[Planned]) -> str:
        """Which of all jobs, by what tells them apart."""
        if len(jobs) == len(self.jobs):
            return ""
        times = Counter(word for planned in self.jobs for word in planned.overrides)
        labels = [" ".join(word for word in planned.overrides if times[word] < len(self.jobs)) for planned in jobs]
        more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
        return f" [{', '.join(labels[:MAX_LISTED])}{more}]"

    def _tell(self) -> None:
        """The tables, and under them what else there is to know; of a single run, its line has said it."""
        failed = [outcome for outcome in self.outcomes if outcome.status == "failed"]
        names = defaultdict(list)  # status -> runs
        for outcome in self.outcomes:
            names[outcome.status].append(outcome.name)
        impossible = by_fault([(planned, planned.impossible) for planned in self.jobs if planned.impossible])
        if len(self.jobs) == 1 and not impossible and self.ledger is None and not names["done"] + names["diverged"]:
            return
        for table in self.tables.values():
            table.end()
        listed(f"failed, {len(failed)} of {len(self.jobs)} jobs", [f"{each.name}: {each.reason}" for each in failed])
        listed("left to another process", names["elsewhere"])
        listed("interrupted, the same command continues them", names["interrupted"])
        listed("not begun, the same command runs them", names["not begun"])
        listed("left out as impossible", [f"{fault}{self._where(jobs)}" for fault, jobs in impossible.items()])


def is_in_the_way(planned: Planned) -> bool:
    """It cannot be built, and is not to be left out."""
    return bool(planned.impossible) and planned.settings["impossible"] != "skip"


def by_fault(found: Iterable[tuple[Planned, str]]) -> dict[str, list[Planned]]:
    jobs = defaultdict(list)
    for planned, fault in found:
        jobs[fault].append(planned)
    return jobs


def refuse(lines: list[str]) -> int:
    """Says why nothing is begun; returns the exit code."""
    lines = [printable(line) for line in dict.fromkeys(lines)]
    print("refused: " + "\n  ".join(lines if len(lines) == 1 else ["nothing was begun", *lines]), flush=True)
    return 1


def listed(title: str, lines: list[str]) -> None:
    if lines:
        print("\n  ".join([f"\n{title}:", *lines]), flush=True)
