"""Writes docs/schemas/GROUP.json, JSON schemas of conf/GROUP/*.yaml for editors: python docs/schemas.py

Types are from the signatures of the classes that the files name, descriptions from their docstrings.
"""

import collections.abc
import inspect
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

ROOT = Path(__file__).parents[1]
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
REFERENCE = r"\$\{"  # to another setting: a text, whatever the type


def schema_of(group: Path) -> dict[str, Any]:
    """Of all files of a group: any of their settings, with the types that any of their classes gives it."""
    types_of: dict[str, list[list[str]]] = {}
    texts: dict[str, str] = {}
    for path in sorted(group.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        target = get_object(content["_target_"]) if "_target_" in content else None
        for name, value in content.items():
            found = types_of.setdefault(name, [])
            if target and name in inspect.signature(target).parameters:
                found.append(json_types(annotation_of(target, name)))
            elif target and value is None:  # Pixels has no setting of a PCA
                found.append(["null"])
            text = re.search(rf"^{re.escape(name)}: (.+(?:\n +.+)*)", inspect.getdoc(target) or "", re.MULTILINE)
            texts |= {name: " ".join(text[1].split())} if text and target else {}
    settings = {name: {**typed(found), **({"description": texts[name]} if name in texts else {})}
                for name, found in types_of.items()}  # fmt: skip
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"conf/{group.name}", "type": "object",
            "properties": settings, "additionalProperties": False}  # fmt: skip


def annotation_of(target: Any, name: str) -> Any:
    """None where a library imports its types for checkers alone, or there are none."""
    try:
        return typing.get_type_hints(target.__init__).get(name) if target else None
    except (NameError, TypeError):
        return None


def typed(found: list[list[str]]) -> dict[str, Any]:
    """{} where a file's type is not known."""
    kinds = sorted({kind for each in found for kind in each})
    if not (found and all(found)):
        return {}
    return {"type": kinds} if "string" in kinds else {"type": [*kinds, "string"], "pattern": REFERENCE}


def json_types(annotation: Any) -> list[str]:
    """[] for what JSON has no type for."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        found = [json_types(part) for part in typing.get_args(annotation)]
        return sorted({kind for each in found for kind in each}) if all(found) else []
    if typing.get_origin(annotation) in (list, tuple, collections.abc.Sequence):
        return ["array"]
    return [JSON_TYPES[annotation]] if annotation in JSON_TYPES else []


def schemas() -> dict[str, str]:
    """Group -> the text of its schema, for the groups of which a file names a class."""
    groups = [path for path in sorted((ROOT / "conf").iterdir()) if path.is_dir()]
    found = {group.name: schema_of(group) for group in groups}
    return {name: json.dumps(one, indent=1) + "\n" for name, one in found.items() if "_target_" in one["properties"]}


if __name__ == "__main__":
    for name, text in schemas().items():
        (ROOT / "docs" / "schemas" / f"{name}.json").write_text(text, encoding="utf-8")
