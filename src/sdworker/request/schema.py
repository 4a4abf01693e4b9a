"""The JSON Schema (2020-12) of a model of marked fields, in the shape that forms and tables read best."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sdworker.request.marks import AddOnName, EmptyIsNull, also_called, mark_of, part_of

__all__ = ["schema_of"]


_NOTHING: Mapping[str, Sequence[str]] = {}


def schema_of(model: type[BaseModel], add_ons: Mapping[str, Sequence[str]] = _NOTHING) -> dict[str, Any]:
    """The schema of a model and of the objects inside it (`$defs`).

    An alias is a property that refers to its field's, whose `aliases` names it; null means the default.

    Args:
        add_ons: kind → the names there are: the `examples` of a field that names one (`AddOnName`), whose `addOn`
            is the kind.
    """
    schema = model.model_json_schema()
    inside = {part.__name__: part for part in _parts(model)}
    schema |= _with_names(model, schema, "#", add_ons)
    if "$defs" in schema:
        schema["$defs"] = {
            name: part | _with_names(inside[name], part, f"#/$defs/{name}", add_ons)
            if name in inside
            else part
            for name, part in schema["$defs"].items()
        }
    return schema


def _parts(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [inside[0] for info in model.model_fields.values() if (inside := part_of(info))]
    return [*found, *(deeper for part in found for deeper in _parts(part))]


def _with_names(
    model: type[BaseModel], schema: Mapping[str, Any], root: str, add_ons: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    aliases: dict[str, Any] = {}
    for field, info in model.model_fields.items():
        part = schema["properties"][field]
        properties[field] = part if info.is_required() else _or_null(part)
        if mark_of(info, EmptyIsNull):
            properties[field].pop("minLength", None)
        if kind := mark_of(info, AddOnName):
            properties[field]["addOn"] = kind.folder
            properties[field]["examples"] = [*kind.beside, *add_ons.get(kind.folder, ())]
        if names := also_called(info):
            properties[field]["aliases"] = list(names)
        aliases |= {name: {"$ref": f"{root}/properties/{field}"} for name in names}
    return {"properties": properties | aliases}


def _or_null(part: Mapping[str, Any]) -> dict[str, Any]:
    """A property's schema that takes null too, in one level where it can."""
    kinds = [kind for kind in part.get("anyOf", ()) if kind.get("type") != "null"] or [{}]
    flat = {key: word for key, word in part.items() if key != "anyOf"} | kinds[0]
    if "$ref" in flat:
        reference = {"$ref": flat.pop("$ref")}
        return {"anyOf": [reference, {"type": "null"}], **flat}
    flat["type"] = [flat["type"], "null"]
    if "enum" in flat:
        flat["enum"] = [*flat["enum"], None]
    return flat
