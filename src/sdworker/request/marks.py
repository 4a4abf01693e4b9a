"""What a field's declaration may say beside its type and limits, and the kinds of values fields are made of.

A mark stands in the field's `Annotated`: `Annotated[Int, Also("steps"), DefaultFrom("default_steps")]`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.fields import FieldInfo

__all__ = [
    "OUTDATED",
    "AddOnName",
    "Also",
    "AtMost",
    "DefaultFrom",
    "EmptyIsNull",
    "InWords",
    "Int",
    "Many",
    "Part",
    "Private",
    "also_called",
    "mark_of",
    "marked",
    "names_of",
    "part_of",
    "whole",
]

OUTDATED: dict[str, Any] = {"deprecated": True}
"""`json_schema_extra` of a field that no new job should send; forms leave it out."""


class Part(BaseModel):
    """An object in a job's input, or the whole of it: immutable, and strict about types."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, init=False)
class Also:
    """Other names of the field."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class InWords:
    """What the field accepts, where its type and limits do not say it."""

    text: str


@dataclass(frozen=True)
class Private:
    """Errors never repeat the field's value."""


@dataclass(frozen=True)
class EmptyIsNull:
    """An empty text means what null means: the default."""


@dataclass(frozen=True)
class AtMost:
    """The field's largest value, or its longest list, is a setting of the deployment."""

    setting: str


@dataclass(frozen=True)
class DefaultFrom:
    """The field's default is a setting of the deployment, unless that is None."""

    setting: str


@dataclass(frozen=True)
class AddOnName:
    """The field names an add-on; the schema offers those that the deployment has as `examples`.

    Attributes:
        folder: that add-ons of the kind lie in, `loras`.
        beside: names that the field takes without an add-on.
    """

    folder: str
    beside: tuple[str, ...] = ()


_Mark = TypeVar("_Mark")


def mark_of(info: FieldInfo, kind: type[_Mark]) -> _Mark | None:
    """A field's mark of that kind."""
    return next((mark for mark in info.metadata if isinstance(mark, kind)), None)


@cache
def marked(model: type[BaseModel], kind: type[_Mark]) -> Mapping[str, _Mark]:
    """The fields of a model that have a mark of that kind → the mark."""
    marks = {field: mark_of(info, kind) for field, info in model.model_fields.items()}
    return {field: mark for field, mark in marks.items() if mark is not None}


def also_called(info: FieldInfo) -> tuple[str, ...]:
    """The other names of a field."""
    also = mark_of(info, Also)
    return also.names if also else ()


def names_of(model: type[BaseModel]) -> dict[str, str]:
    """Every name a field of a model goes by → the field."""
    fields = model.model_fields.items()
    return {name: field for field, info in fields for name in (field, *also_called(info))}


def part_of(info: FieldInfo) -> tuple[type[BaseModel], bool] | None:
    """The model that a field's objects are read by, and whether the field takes a list of them."""
    listed = any(getattr(kind, "__origin__", None) is tuple for kind in _inside(info.annotation))
    parts = [k for k in _inside(info.annotation) if isinstance(k, type) and issubclass(k, BaseModel)]
    return (parts[0], listed) if parts else None


def _inside(annotation: Any) -> Iterator[Any]:
    """An annotation and all it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _inside(part)


def whole(value: object) -> object:
    """25.0 is a whole number: JSON has one kind of number, and some clients send all of them as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# Limits stand beside the type, where pydantic writes them into the JSON Schema of an optional field too.
Int = Annotated[int, BeforeValidator(whole)]
_Item = TypeVar("_Item")
Many = Annotated[tuple[_Item, ...], BeforeValidator(_tuple)]
"""A list; a tuple once it is read, for a request cannot be changed."""
