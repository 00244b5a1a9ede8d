"""docs/schemas/*.json, for editors, are those that docs/schemas.py makes now, and the shipped files keep to them."""

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from conftest import CONF, REPO

SCHEMAS = runpy.run_path(str(REPO / "docs" / "schemas.py"))["schemas"]()
PYTHON = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "null": type(None)}


def test_schemas_are_fresh():
    written = {path.stem: path.read_text(encoding="utf-8") for path in (REPO / "docs" / "schemas").glob("*.json")}
    assert written == SCHEMAS, "python docs/schemas.py writes them anew"
    assert {"data", "pca", "model", "variance", "prior", "optimizer", "trainer"} <= set(written)


def test_the_documented_setting_of_an_editor_has_them_all():
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    setting = json.loads(page.split("```json")[1].split("```")[0])
    assert setting["yaml.schemas"] == {f"docs/schemas/{group}.json": f"conf/{group}/*.yaml" for group in SCHEMAS}


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_files_keep_to_them(path: Path):
    if path.parent.name not in SCHEMAS:
        return
    properties = yaml.safe_load(SCHEMAS[path.parent.name])["properties"]
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        kinds = properties[name].get("type")
        if kinds is None:
            continue
        assert any(
            type(value) is kind or (kind == (int, float) and type(value) in kind) for kind in map(PYTHON.get, kinds)
        )
        if isinstance(value, str) and "pattern" in properties[name]:
            assert re.search(properties[name]["pattern"], value)


def test_types_and_descriptions_are_of_the_classes():
    data = yaml.safe_load(SCHEMAS["data"])["properties"]
    assert set(data["limit"]["type"]) == {"integer", "number", "null", "string"}
    assert data["held_out"]["type"] == ["number", "string"]
    assert "folder" in data["root"]["description"]
    assert yaml.safe_load(SCHEMAS["pca"])["properties"]["whiten"]["type"] == ["boolean", "string"]
