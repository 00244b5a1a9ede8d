"""A run's folder and its status, and what is noted of its study. Knows neither torch nor Hydra.

outputs/<study>/study.json has the commands of the study; outputs/<study>/<readable name>-<hash>/ of each run has
status.json, result.json, checkpoints, TensorBoard events and figures/.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svhn_vae.runs.files import read_json, remove_partials, write_json
from svhn_vae.runs.identity import Config
from svhn_vae.runs.installation import commit

# Facts that outlast a change of status.
KEPT = ("started", "data", "config", "choices", "commit", "cost", "learnt")


class RunFolder:
    """One run's folder: its status and its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.representation = path / "representation.safetensors"
        self.prior = path / "prior.safetensors"  # where it was fitted after training
        self.basis = path / "basis.safetensors"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.error_log = path / "error.log"
        self.exported = path / "model.safetensors"  # of a folder that `export` wrote: it has this and config.yaml alone

    @property
    def config(self) -> Path:
        """The configuration that the run was made with."""
        return self.path / ("config.yaml" if self.exported.is_file() else ".hydra/config.yaml")

    @property
    def facts(self) -> Config:
        """status (running, interrupted, done, diverged, failed), reason, step, started, ended, the data's digest,
        configuration, choices and commit; the cost and what was learnt once training has ended; of a diverged run, its
        state. {} before it begins. Where status.json is damaged, what result.json tells."""
        facts = read_json(self.status)
        return facts if isinstance(facts.get("status"), str) else self._facts_of_result()

    @property
    def is_finished(self) -> bool:
        """It has its result, and nothing that happens later may take it away."""
        status = self.facts.get("status")
        return status == "diverged" or (status == "done" and bool(self.result))

    @property
    def damage(self) -> str:
        """The file that says nothing where it should, and what that means; "" if there is none."""
        if self.status.is_file() and not isinstance(read_json(self.status).get("status"), str):
            return "status.json is damaged" + (": result.json says that it is done" if self.facts else "")
        if self.facts.get("status") == "done" and not self.result:
            return "result.json is missing or damaged: it is scored again"
        return ""

    @property
    def result(self) -> Config:
        return read_json(self.path / "result.json")

    def begin(
        self, data: str, config: Mapping[str, Any], choices: Mapping[str, str], commit: str | None = None
    ) -> None:
        """`data` is the digest of the images, `choices` the file chosen in each group. Under the run's lock."""
        remove_partials(self.path)
        self._write_status("running", started=time.time(), data=data, config=config, choices=choices, commit=commit)

    def trained(self, cost: Config, learnt: Mapping[str, float]) -> None:
        """Training has ended: what is left is to evaluate."""
        self._write_status("running", cost=cost, learnt=learnt)

    def trains_again(self) -> None:
        """What training left is of no use."""
        self._write_status("running", cost=None, learnt=None)

    def end(self, status: str, reason: str = "", step: int | None = None, **facts: Any) -> None:
        """The run is over for now; `reason` in a line, `step` where it happened."""
        self._write_status(status, reason=reason, step=step, ended=time.time(), **facts)

    def check_there(self) -> None:
        """Raises FileNotFoundError if somebody removed the folder while its run goes on: what follows would be half."""
        if not self.status.is_file():
            raise FileNotFoundError(f"{self.path} vanished while its run was written: the same command makes it anew")

    def set_aside(self) -> Path:
        """Renames the folder, so that a run can start over without deleting the old one; returns its new path."""
        aside = unused(self.path.with_name(f"{self.path.name}.previous"))
        self.path.rename(aside)
        return aside

    def remove_if_empty(self, outputs: Path) -> None:
        """A run that never began leaves nothing; nor do its study and `outputs`, if it is the first. Elsewhere, as with
        hydra.run.dir=FOLDER, the folders above are the user's own."""
        above = [folder for folder in self.path.parents if folder.is_relative_to(outputs.resolve())]
        for folder in (self.path, *above):
            try:
                folder.rmdir()
            except OSError:  # there is something in it
                return

    def _facts_of_result(self) -> Config:
        result = self.result
        if not isinstance(result.get("data"), dict):
            return {}
        known = {name: result[name] for name in ("config", "choices", "commit", "cost") if name in result}
        return {"status": "done", **known, "data": result["data"].get("digest")}

    def _write_status(self, status: str, **facts: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in self.facts.items() if name in KEPT}
        named = {"step": facts.pop("step")} if "step" in facts else {}  # noted even where there is none
        content = {**kept, "status": status, **facts}
        write_json(self.status, {**{key: value for key, value in content.items() if value is not None}, **named})


def unused(path: Path) -> Path:
    """The path with the first number at its end that makes a new one."""
    number = 1
    while (numbered := path.with_name(f"{path.name}{number}")).exists():
        number += 1
    return numbered


def note_command(
    study: Path, command: str, begun: float, question: str | None, hypotheses: list[dict[str, Any]]
) -> None:
    """Adds a command, `begun` at that time, to the study's study.json. Its question and hypotheses are those of the
    last command that had any: the runs do not depend on them."""
    path = study / "study.json"
    before = read_json(path)
    asked = {"question": question, "hypotheses": hypotheses}
    commands = [*before.get("commands", []), {"command": command, "time": begun, "commit": commit()}]
    write_json(path, {**before, **{key: value for key, value in asked.items() if value}, "commands": commands})
