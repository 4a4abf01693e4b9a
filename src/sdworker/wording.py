"""How an error speaks of a field's limits and of a value that was given."""

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen, MultipleOf
from pydantic.fields import FieldInfo

__all__ = ["allowed_by", "show"]

_LONGEST_QUOTE = 60
_LONGEST_QUOTED = 2 * _LONGEST_QUOTE  # with what is not ASCII written out


def allowed_by(field: FieldInfo, *, at_most: float | None = None) -> str:
    """A pydantic field's type and limits in words: `a whole number from 1 to 500`.

    Args:
        at_most: a limit that the field itself does not have: its largest value, or its longest list.
    """
    limits: dict[type, Any] = {type(limit): limit for limit in field.metadata}
    if _is_list(field.annotation):
        longest = at_most if at_most is not None else getattr(limits.get(MaxLen), "max_length", None)
        return f"a list{'' if longest is None else f' of at most {longest}'}"
    if at_most is not None:
        limits[Le] = Le(at_most)
    kinds = _kinds(field.annotation)
    choices = [kind for kind in kinds if isinstance(kind, str)]
    if choices:
        return ", ".join([*choices[:-2], " or ".join(choices[-2:])])
    if bool in kinds:
        return "true or false"
    if str in kinds:
        return _text(limits)
    if int in kinds or float in kinds:
        return _number("a number" if float in kinds else "a whole number", limits)
    return "an object"


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(_is_list(part) for part in get_args(annotation))


def _kinds(annotation: Any) -> list[Any]:
    """The types and literal values an annotation is made of."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def _text(limits: Mapping[type, Any]) -> str:
    if MaxLen not in limits:
        return "text"
    longest = limits[MaxLen].max_length
    if MinLen in limits:
        return f"text of {limits[MinLen].min_length} to {longest} characters"
    return f"text of at most {longest} characters"


def _number(noun: str, limits: Mapping[type, Any]) -> str:
    if MultipleOf in limits:
        noun = f"a multiple of {limits[MultipleOf].multiple_of}"
    low = f" above {limits[Gt].gt}" if Gt in limits else f" from {limits[Ge].ge}" if Ge in limits else ""
    if Le in limits:
        return f"{noun}{low} {'to' if Ge in limits else 'up to'} {limits[Le].le}"
    return f"{noun}{low} up" if Ge in limits else f"{noun}{low}"


def show(value: object, *, quote: bool = True) -> str:
    """A value as an error may speak of it: short, on one line, in ASCII.

    Args:
        quote: repeat a short text as it is; else, and if it is long, only its length is told.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            quoted = _quote(value) if quote and len(value) <= _LONGEST_QUOTE else ""
            return quoted if quoted and len(quoted) <= _LONGEST_QUOTED else _length(value)
        case int():
            return str(value) if abs(value) < 10**_LONGEST_QUOTE else "a number too long to repeat"
        case float():
            return str(value)
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"


def _quote(text: str) -> str:
    return repr(text).encode("ascii", "backslashreplace").decode("ascii")


def _length(text: str) -> str:
    return f"a text of {len(text)} character{'' if len(text) == 1 else 's'}"
