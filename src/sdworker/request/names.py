"""An input by field: aliases resolved, nulls left out, unknown keys found, in the objects inside it too."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from annotated_types import MaxLen
from pydantic import BaseModel

from sdworker.request.marks import EmptyIsNull, marked, names_of, part_of
from sdworker.wording import show

__all__ = ["Entry", "Named", "Place", "entries", "nearest"]

Place = tuple[str | int, ...]
"""Where in an input: fields and the places in lists, `("loras", 1, "scale")`."""

_MOST_UNKNOWN = 5  # of an object's unknown keys are named; a wrong document must not give a page of errors
_MOST_ITEMS = 1000  # of a list without a limit of its own are looked into before its length is judged
_LONGEST_NAME = 60
_ALIKE = 0.81  # how much of two names must be the same letters for one to be taken for the other


@dataclass(frozen=True)
class Entry:
    """One thing an object says: the name it was written by, the field that is, and the value."""

    written: str
    field: str
    value: Any


@dataclass
class Named:
    """An input by field.

    Attributes:
        values: field → its value; objects and lists inside it likewise.
        written: the place of a field → the name it was given by.
        problems: with names: unknown keys, and fields given twice.
    """

    values: dict[str, Any] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, model: type[BaseModel], found: Iterable[Entry]) -> "Named":
        """What was found in an input, by the fields of `model`."""
        named = cls()
        named.values = named._object(model, found, ())
        return named

    def label(self, *place: str | int) -> str:
        """How an error names a field: by its path as it was written, with the real one where that is another."""
        written, real = "", ""
        for depth, step in enumerate(place):
            if isinstance(step, int):
                written, real = f"{written}[{step}]", f"{real}[{step}]"
                continue
            name = self.written.get(place[: depth + 1], step)
            written, real = f"{written}.{name}" if written else name, f"{real}.{step}" if real else step
        return real if written == real else f"{written} ({real})"

    def _object(self, model: type[BaseModel], found: Iterable[Entry], place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for entry in found:
            here = (*place, entry.field)
            if entry.value is None or (entry.value == "" and entry.field in marked(model, EmptyIsNull)):
                continue
            if entry.field in values:
                if not _same(values[entry.field], entry.value):
                    first = self.written[here]
                    self.problems.append(
                        f"{_path(here)}: is given twice, as {first} and as {entry.written}, with different values"
                    )
                continue
            self.written[here] = entry.written
            values[entry.field] = self._value(model, entry, here)
        return values

    def _value(self, model: type[BaseModel], entry: Entry, here: Place) -> Any:
        """The value of a field, with the objects inside it by field as well."""
        inside = _inside(model).get(entry.field)
        if inside is None:
            return entry.value
        part, listed = inside
        if not listed:
            return self._inner(part, entry.value, here)
        longest = marked(model, MaxLen).get(entry.field)
        limit = longest.max_length if longest else _MOST_ITEMS
        if not isinstance(entry.value, (list, tuple)) or len(entry.value) > limit:
            return entry.value
        return [self._inner(part, item, (*here, i)) for i, item in enumerate(entry.value)]

    def _inner(self, part: type[BaseModel], value: Any, here: Place) -> Any:
        if not isinstance(value, Mapping):
            return value
        found, problems = entries(part, value, inside=self.label(*here))
        self.problems += problems
        return self._object(part, found, here)


def entries(
    model: type[BaseModel], given: Mapping[Any, Any], *, inside: str = ""
) -> tuple[list[Entry], list[str]]:
    """What an object says, and the problems with its keys.

    Args:
        inside: the path of the object, for the problems; empty for the whole input.
    """
    names = _names(model)
    unknown = [key for key in given if not isinstance(key, str) or key not in names]
    problems = [_unknown(key, names, inside) for key in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        problems.append(f"and {len(unknown) - _MOST_UNKNOWN} more that are no fields")
    found = [Entry(key, names[key], value) for key, value in given.items() if key in names]
    return found, problems


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: this one cuts its words short, or has nearly its letters; or None."""
    name = name[:_LONGEST_NAME]
    words = _words(name)
    abbreviated = [known for known in names if words and _abbreviates(words, _words(known))]
    if abbreviated:
        return min(abbreviated, key=len)
    by_letters = {"".join(_words(known)): known for known in names}
    written = "".join(words)
    slips = [known for letters, known in by_letters.items() if _is_one_slip(written, letters)]
    if slips:
        return slips[0]
    close = difflib.get_close_matches(written, by_letters, n=1, cutoff=_ALIKE)
    if close:
        return by_letters[close[0]]
    one_word = [known for known in names if len(words) == 1 and len(name) >= 5 and words[0] in _words(known)]
    return one_word[0] if len(one_word) == 1 else None


def _is_one_slip(written: str, meant: str) -> bool:
    """Letters that changed places, or one letter for another in a word of five or more."""
    if sorted(written) == sorted(meant):
        return True
    return len(written) == len(meant) >= 5 and sum(a != b for a, b in zip(written, meant, strict=True)) == 1


def _abbreviates(words: list[str], known: list[str]) -> bool:
    """neg_prompt is negative_prompt, num_steps num_inference_steps, cfg cfg_scale; three letters are the least."""
    if any(len(word) < 3 for word in words) or not known[0].startswith(words[0]):
        return False
    rest = iter(known)
    return all(any(whole.startswith(word) for whole in rest) for word in words)


def _words(name: str) -> list[str]:
    """negativePrompt, negative-prompt and negative_prompt are one."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


@cache
def _inside(model: type[BaseModel]) -> dict[str, tuple[type[BaseModel], bool]]:
    """The fields of a model that take objects → the objects' model, and whether it is a list of them."""
    parts = {field: part_of(info) for field, info in model.model_fields.items()}
    return {field: part for field, part in parts.items() if part}


@cache
def _names(model: type[BaseModel]) -> dict[str, str]:
    return names_of(model)


def _unknown(key: object, names: Iterable[str], inside: str) -> str:
    where = f" in {inside}" if inside else ""
    near = nearest(key, names) if isinstance(key, str) else None
    return f"{show(key)}{where}: there is no such field" + (f"; the nearest is {near}" if near else "")


def _same(one: object, other: object) -> bool:
    """Whether two plain values are equal. Lists and objects never are."""
    plain = isinstance(one, (str, int, float)) and isinstance(other, (str, int, float))
    return plain and isinstance(one, bool) is isinstance(other, bool) and one == other


def _path(place: Place) -> str:
    return Named().label(*place)
