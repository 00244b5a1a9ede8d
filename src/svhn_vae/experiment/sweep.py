"""A command: all its jobs checked before the first, one run after another, and in the end what became of them."""

import argparse
import gc
import math
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from svhn_vae.errors import TRACEBACKS, Busy, Interrupted, UserError, counted, one_line, printable, root_of
from svhn_vae.experiment.attempt import Outcome, fit_along, run_job
from svhn_vae.experiment.build import Request
from svhn_vae.experiment.configuration import OUTPUTS, choices, quiet
from svhn_vae.experiment.launchers import Command, launching, run_in_worker
from svhn_vae.experiment.preflight import Job, jobs_of, with_home
from svhn_vae.experiment.processes import PROCESSES, is_another, is_started_by_lightning, silence_others
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.files import locked
from svhn_vae.runs.folder import RunFolder, note_command
from svhn_vae.runs.identity import Config, is_decisive
from svhn_vae.runs.installation import command_line
from svhn_vae.training.callbacks import Progress
from svhn_vae.training.interruption import INTERRUPTION

MAX_LISTED = 3  # jobs that share a fault


class Stopped(BaseException):
    """on_error=stop: no further job. Not an Exception: Hydra would take it for the job's."""


class StudyTable:
    """Notes the command in its study, and at the end prints the study's table and writes its report."""

    def __init__(self, settings: Config) -> None:
        self.study = OUTPUTS / str(settings["study"])
        self._noted = (command_line(), time.time(), settings["question"], settings["hypotheses"])
        self._has_begun = False

    def begin(self) -> None:
        """When the first of its jobs has its data, or goes to another process: before, there is nothing to note."""
        if self._has_begun:
            return
        self._has_begun = True  # even where it cannot be noted: that is said once, and what is there has its table
        try:
            with locked(self.study / "study.json", wait=10):  # another command may be writing it
                note_command(self.study, *self._noted)
        except (OSError, Busy) as error:  # the runs go on: one that cannot be written says so itself
            print(f"  the command cannot be noted in {self.study}: {one_line(error)}", flush=True)

    def end(self) -> None:
        if not self._has_begun:
            return
        try:
            print_study(self.study, wide_console())
            print(f"report:      {write_report(self.study)}", flush=True)
        except Exception as error:  # the runs are there, and so is what follows
            print(f"the report of {self.study} cannot be made: {one_line(error)}", flush=True)


class Sweep:
    """One command, a single run or many; `run_job` is what Hydra calls for each."""

    def __init__(self) -> None:
        self.begun = time.time()
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome] = []
        self.tables: dict[str, StudyTable] = {}  # study -> its table
        self.left_out: frozenset[str] = frozenset()  # runs that are impossible
        self.shown: list[str] = []  # the settings that are swept; of a single run, those that are typed
        self.launcher = "basic"
        self.command: Command | None = None  # where the launcher's jobs are in other processes

    def __getstate__(self) -> dict[str, Any]:
        """What a launcher's processes get of it, with each job."""
        return {**self.__dict__, "jobs": [], "outcomes": []}

    def launch(self, main: Callable[[], Any]) -> int:
        """Checks every job, has Hydra call `main` for each, lists what became of them; returns the exit code.

        What asks for help or for the configuration is left to Hydra.
        """
        if is_started_by_lightning():
            PROCESSES.follow(fit_along)
        silence_others()
        sys.argv[1:] = [with_home(word) for word in sys.argv[1:]]
        asked = arguments()
        if asked.experimental_rerun is not None:
            return refuse(["--experimental-rerun unpickles a file, which runs whatever code it holds"])
        if asked.hydras:
            main()
            return 0
        quiet()
        INTERRUPTION.listen()
        try:
            if code := self._check(asked):
                return code
            trainers = [job.settings["trainer"] for job in self.jobs]
            if is_another(max(trainer["devices"] * trainer["num_nodes"] for trainer in trainers)):
                PROCESSES.follow(fit_along)
            return self._run(main)
        except (Interrupted, KeyboardInterrupt) as interrupted:
            self.tell()
            return 128 + getattr(interrupted, "signum", 2)
        finally:
            PROCESSES.end()

    def run_job(self, cfg: DictConfig) -> float:
        """One job, in the folder that Hydra has made for it. Raises Interrupted or Stopped, but not to a launcher of
        other processes."""
        folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
        try:
            if folder.path.name in self.left_out:
                return math.nan
            if self.command is not None:
                quiet()
                stops = cfg.on_error == "stop"
                return run_in_worker(folder, self.command, lambda: self._run_job(cfg, folder), stops=stops)
            print(f"\n{folder.path.name}", flush=True)
            self._note_jobs_left()
            outcome = self._run_job(cfg, folder)
        finally:
            folder.remove_if_empty(OUTPUTS)
        self.outcomes.append(outcome)
        if outcome.status == "failed" and cfg.on_error == "stop":
            raise Stopped
        return outcome.value

    def _note_jobs_left(self) -> None:
        """For the bar: how many jobs after this one are to be run, and how long those before it have taken."""
        folders = [RunFolder(job.path) for job in self.jobs if not job.impossible]
        num_begun = len(self.outcomes)
        Progress.num_jobs_left = sum(not folder.is_finished for folder in folders[num_begun + 1 :])
        facts = [folder.facts for folder in folders[:num_begun]]
        times = [each["ended"] - each["started"] for each in facts if "ended" in each and each["started"] >= self.begun]
        Progress.seconds_per_job = sum(times) / len(times) if times else None

    def _run_job(self, cfg: DictConfig, folder: RunFolder) -> Outcome:
        try:
            request = Request(cfg, choices(HydraConfig.get()), folder, self.shown)
            return run_job(request, self.tables[cfg.study].begin)
        finally:
            gc.collect()  # what an error's frames held
            torch.cuda.empty_cache()

    def _check(self, asked: argparse.Namespace) -> int:
        """1 if the command is refused, else 0."""
        is_sweep = asked.multirun or "hydra.mode=MULTIRUN" in asked.overrides
        name = asked.config_name or "train"
        try:
            self.jobs = jobs_of(asked.overrides, is_sweep=is_sweep, config_name=name, config_dir=asked.config_dir)
        except UserError as error:
            return refuse([str(error)])
        if faults := self._faults():
            self.jobs = []
            return refuse(faults)
        self.left_out = frozenset(job.name for job in self.jobs if job.impossible)
        self.shown = shown(self.jobs)
        self.launcher = self.jobs[0].launcher if is_sweep else "basic"
        self.tables = {job.settings["study"]: StudyTable(job.settings) for job in self.jobs}
        if self.launcher != "basic" and any(job.settings["trainer"]["strategy"] == "ddp" for job in self.jobs):
            return refuse([f"hydra/launcher={self.launcher} has one process for a job, and trainer.strategy=ddp more"])
        return 0

    def _run(self, main: Callable[[], Any]) -> int:
        os.environ.setdefault(TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR", ""))
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raises what goes wrong between jobs, where it would print a traceback
        try:
            main() if self.launcher == "basic" else self._launch_elsewhere(main)
        except Stopped:
            print("\nstopped after the first failure: on_error=stop", flush=True)
        except Exception as error:  # a folder that Hydra cannot make
            print(f"  failed: {one_line(root_of(error))}", flush=True)
            self.outcomes.append(Outcome("the command", "failed", one_line(root_of(error))))
        self.tell()
        return int(any(outcome.status == "failed" for outcome in self.outcomes))

    def _launch_elsewhere(self, main: Callable[[], Any]) -> None:
        """Has a launcher run the jobs in other processes, and reads what became of them. Raises as `main` does."""
        self.command = Command([job.path.absolute() for job in self.jobs if not job.impossible])
        if self.launcher.startswith("submitit"):
            logs = self.jobs[0].path.with_name(".submitit")
            print(f"{counted(len(self.jobs), 'job')} with {self.launcher}, which print to {logs}", flush=True)
        for table in self.tables.values():
            table.begin()
        try:
            with launching(self.launcher, self.command):
                main()
        except Exception as error:  # joblib ends the others with it, and submitit's go on
            print(f"\na process died, killed or out of memory ({type(error).__name__})", flush=True)
        finally:
            self.outcomes = self.command.outcomes()
            self.command.close()
        statuses = {outcome.status for outcome in self.outcomes}
        if INTERRUPTION.is_requested or "interrupted" in statuses:
            raise Interrupted(INTERRUPTION.signum or signal.SIGTERM)
        if "failed" in statuses and self.jobs[0].settings["on_error"] == "stop":
            raise Stopped

    def _faults(self) -> list[str]:
        """A line for each fault that keeps the command from beginning."""
        wrong = [job for job in self.jobs if job.wrong]
        impossible = [job for job in self.jobs if job.impossible and job.settings["impossible"] != "skip"]
        lines, num_possible = self._lines([*wrong, *impossible]), len(self.jobs) - len(impossible)
        if impossible and num_possible and not wrong:
            lines.append(f"impossible=skip leaves these out and runs the other {num_possible}")
        return lines

    def _lines(self, jobs: list[Job]) -> list[str]:
        """What is the matter with jobs: a line for each fault, and for all that share it."""
        sharing = defaultdict(list)
        for job in jobs:
            sharing[job.wrong or job.impossible].append(job)
        return [f"{fault}{self._where(those)}" for fault, those in sharing.items()]

    def _where(self, jobs: list[Job]) -> str:
        """Which of all jobs, by what tells them apart."""
        if len(jobs) == len(self.jobs):
            return ""
        times = Counter(word for job in self.jobs for word in job.overrides)
        labels = [" ".join(word for word in job.overrides if times[word] < len(self.jobs)) for job in jobs]
        more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
        return f" [{', '.join(labels[:MAX_LISTED])}{more}]"

    def tell(self) -> None:
        """The tables, and under them what else there is to know; of a single run, its line has said it."""
        failed = [outcome for outcome in self.outcomes if outcome.status == "failed"]
        names = defaultdict(list)  # status -> runs
        for outcome in self.outcomes:
            names[outcome.status].append(outcome.name)
        impossible = [job for job in self.jobs if job.impossible]
        if len(self.jobs) == 1 and not impossible and self.command is None and not names["done"] + names["diverged"]:
            return
        for table in self.tables.values():
            table.end()
        listed(f"failed, {len(failed)} of {len(self.jobs)} jobs", [f"{each.name}: {each.reason}" for each in failed])
        listed("left to another process", names["elsewhere"])
        listed("interrupted, the same command continues them", names["interrupted"])
        listed("not begun, the same command runs them", names["not begun"])
        listed("left out as impossible", self._lines(impossible))


def shown(jobs: list[Job]) -> list[str]:
    """The settings that are swept, in order; of a single run, those that are typed."""
    times = Counter(word for job in jobs for word in job.overrides)
    words = [word for job in jobs for word in job.overrides if times[word] < len(jobs) or len(jobs) == 1]
    keys = dict.fromkeys(word.lstrip("+~").partition("=")[0] for word in words)
    return [key for key in keys if is_decisive(key)]


def arguments() -> argparse.Namespace:
    """What was typed, in Hydra's own forms; `hydras`: something that Hydra alone answers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in (["--help", "-h"], ["--hydra-help"], ["--version"], ["--resolve"], ["--run", "-r"],
                  ["--multirun", "-m"], ["--shell-completion", "-sc"]):  # fmt: skip
        parser.add_argument(*names, action="store_true")
    for names in (["--package", "-p"], ["--config-path", "-cp"], ["--config-name", "-cn"], ["--config-dir", "-cd"],
                  ["--experimental-rerun"], ["--cfg", "-c"]):  # fmt: skip
        parser.add_argument(*names)
    parser.add_argument("--info", "-i", nargs="?", const="all")
    asked = parser.parse_intermixed_args()
    asked.hydras = any([asked.help, asked.hydra_help, asked.version, asked.shell_completion, asked.cfg, asked.info])
    return asked


def refuse(lines: list[str]) -> int:
    """Says why nothing is begun; returns the exit code."""
    lines = [printable(line) for line in dict.fromkeys(lines)]
    print("refused: " + "\n  ".join(lines if len(lines) == 1 else ["nothing was begun", *lines]), flush=True)
    return 1


def listed(title: str, lines: list[str]) -> None:
    if lines:
        print("\n  ".join([f"\n{title}:", *lines]), flush=True)
