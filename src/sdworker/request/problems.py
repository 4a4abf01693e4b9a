"""What is wrong with an input, as its user reads it: field, what was given, what is allowed."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sdworker.errors import UserError
from sdworker.request.marks import InWords, Private, mark_of, part_of
from sdworker.request.names import Named, Place
from sdworker.wording import allowed_by, show

__all__ = ["InputError", "allowed", "check_fields", "joined"]

_LONGEST = 1_900  # characters of an error
_MOST = 20  # of pydantic's findings are read

Model = TypeVar("Model", bound=BaseModel)


class InputError(UserError):
    """A job's input is not acceptable; the message lists every problem of it."""


def check_fields(
    model: type[Model], named: Named, defaults: Mapping[str, Any], stand_ins: Mapping[str, Any]
) -> tuple[Model, set[str], list[str]]:
    """Check an input field by field.

    Args:
        defaults: of the deployment, for what the input leaves out.
        stand_ins: values for the model's required fields, where they are wrong or missing.

    Returns:
        The model of what is right, the fields that are wrong, and the problems.
    """
    values = {**defaults, **named.values}
    try:
        return model.model_validate(values), set(), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    wrong = {str(problem["loc"][0]) for problem in found}
    right = {field: value for field, value in values.items() if field not in wrong}
    problems = [_describe(model, problem, named) for problem in found[:_MOST]]
    if len(found) > _MOST:
        problems.append(f"and {len(found) - _MOST} more")
    return model.model_validate({**stand_ins, **right}), wrong, problems


def allowed(info: FieldInfo) -> str:
    """In words, what a field accepts."""
    words = mark_of(info, InWords)
    return words.text if words else allowed_by(info)


def joined(problems: Iterable[str]) -> str:
    """All problems in one line of bounded length."""
    problems = list(problems)
    told: list[str] = []
    length = 0
    for problem in problems:
        length += len(problem) + 2
        if told and length > _LONGEST:
            return "; ".join([*told, f"and {len(problems) - len(told)} more problems"])
        told.append(problem)
    return "; ".join(told)


def _describe(model: type[BaseModel], problem: Mapping[str, Any], named: Named) -> str:
    """One of pydantic's problems in words."""
    place = tuple(problem["loc"])
    info, depth = _innermost(model, place)
    label, value = named.label(*place[:depth]), problem["input"]
    given = show(value, quote=mark_of(info, Private) is None)
    match problem["type"]:
        case "missing":
            return f"{label}: is missing; allowed: {allowed(info)}"
        case "value_error":
            return f"{label}: {given} {problem['msg'].removeprefix('Value error, ')}"
        case "string_unicode":
            return f"{label}: {given} is not valid Unicode: it holds half of a surrogate pair"
        case "int_type" | "float_type" | "bool_type" if isinstance(value, str):
            return f"{label}: {given} is not allowed; allowed, without quotes: {allowed(info)}"
        case "model_type" | "model_attributes_type":
            return f"{label}: {given} is not allowed; allowed: {_object(info)}"
        case "too_long" | "too_short":
            return f"{label}: a list of {len(value)} is not allowed; allowed: {allowed(info)}"
    return f"{label}: {given} is not allowed; allowed: {allowed(info)}"


def _innermost(model: type[BaseModel], place: Place) -> tuple[FieldInfo, int]:
    """The field that a place is in, and how much of the place says so (pydantic goes on inside unions)."""
    info: FieldInfo | None = None
    depth = 0
    for i, step in enumerate(place):
        if isinstance(step, int):
            depth = i + 1
            continue
        if step not in model.model_fields:
            break
        info, depth = model.model_fields[step], i + 1
        inside = part_of(info)
        if inside is None:
            break
        model = inside[0]
    assert info is not None, "pydantic's places begin with a field"
    return info, depth


def _object(info: FieldInfo) -> str:
    inside = part_of(info)
    assert inside is not None, "only objects are read by models"
    fields = inside[0].model_fields
    needed = [name for name, inner in fields.items() if inner.is_required()] or list(fields)[:3]
    return f"an object with {', '.join(needed)}"
