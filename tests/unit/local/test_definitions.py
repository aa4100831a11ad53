"""The kinds that a control plane gets: the operators' own, less their descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from local import definitions

_FIELD = {"type": "object", "default": {"description": "of nothing"}, "enum": [{"description": "a"}]}
_SCHEMA = {
    "type": "object",
    "required": ["description"],
    "properties": {"description": {"type": "string"}, "below": {"items": {"properties": {"here": _FIELD}}}},
}


def kind(schema: object) -> dict[str, object]:
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
    return {"kind": "CustomResourceDefinition", "metadata": {"name": "a.b.c"}, "spec": {"versions": versions}}


def described(part: object) -> object:
    """The same schema with a description wherever controller-gen writes one."""
    if not isinstance(part, dict):
        return part
    below = {
        key: {name: described(each) for name, each in value.items()} if key == "properties" else value
        for key, value in part.items()
    }
    if "items" in part:
        below["items"] = described(part["items"])
    return {"description": "what it is for", **below}


def test_only_descriptions_are_left_out_and_what_has_that_name_stays():
    assert definitions.undescribed(kind(described(_SCHEMA))) == kind(_SCHEMA) != kind(described(_SCHEMA))


def test_files_are_read_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELSERVE_REHEARSAL", str(tmp_path / "work"))
    file = tmp_path / "kinds.yaml"
    file.write_text("---\n" + yaml.safe_dump(kind({"type": "object"})) + "---\n")
    first = definitions.read([file])
    assert list(first) == ["a.b.c"] and yaml.safe_load(first["a.b.c"]) == kind({"type": "object"})
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "load_all", None)
        assert definitions.read([file]) == first
    file.write_text(yaml.safe_dump(kind({"type": "string"})))
    assert yaml.safe_load(definitions.read([file])["a.b.c"]) == kind({"type": "string"})
