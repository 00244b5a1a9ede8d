"""A study is a folder of runs, what was asked of it, and the commands that made it. Knows neither torch nor Hydra."""

from pathlib import Path
from typing import Any

from svhn_vae.runs.folder import read_json, write_json
from svhn_vae.runs.installation import commit


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


def noted_times(study: Path) -> list[float]:
    """When the commands that are noted were begun."""
    commands = read_json(study / "study.json").get("commands", [])
    return [entry.get("time") for entry in commands if isinstance(entry, dict)]
