"""The tables in README.md and docs/ that say what the code says, generated from it.

    python -m builder.reference           rewrite them
    python -m builder.reference --check   exit with 1 if one is out of date

A table stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, NAME being one of `TABLES`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, HttpUrl, SecretStr
from pydantic.fields import FieldInfo

from sdworker.request import Contract, Request
from sdworker.request.marks import OUTDATED, also_called, part_of
from sdworker.request.peers import FOREIGN, Foreign
from sdworker.request.problems import allowed as allowed_in_words
from sdworker.samplers import PAIRS, SAMPLERS, SCHEDULES, Sampler
from sdworker.settings import Settings
from sdworker.wording import allowed_by

__all__ = ["TABLES", "main", "rewrite"]

ROOT = Path(__file__).resolve().parents[1]

# Defaults that the model or chance decides.
_DEFAULTS = {"width": "the model's own", "height": "the model's own", "seed": "random"}
_KINDS: dict[type, str] = {Path: "a folder", HttpUrl: "a URL", SecretStr: "text, kept secret"}
_MARKED = re.compile(r"(<!-- (\w+):begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)


class MarkerError(Exception):
    """A document's markers do not make sense; the message says where."""


def parameters() -> str:
    """The fields of a job's input, for a deployment with nothing configured."""
    contract = Contract(Settings.model_construct(), (512, 512))
    return field_table(Request, contract.schema(), allowed=contract.allowed)


def fields() -> str:
    """The fields of a job's input at a glance: not those inside others, nor those of other workers' making."""
    schema = Contract(Settings.model_construct(), (512, 512)).schema()["properties"]
    return _table(
        ("field", "default", "meaning"),
        (
            (f"`{field}`", _default(field, info, schema[field]), str(info.description))
            for field, info in Request.model_fields.items()
            if info.json_schema_extra != OUTDATED
        ),
    )


def field_table(
    model: type[BaseModel], schema: dict[str, Any], *, allowed: Callable[[str], str] | None = None
) -> str:
    """The fields of a model, each followed by those of the objects it takes.

    Args:
        schema: the model's own, as `schema_of` makes it.
        allowed: what a field of the model accepts, in words, where the deployment has a say in it.
    """
    return _table(
        ("field", "also", "type", "default", "allowed", "meaning"),
        _field_rows(model, schema["properties"], schema.get("$defs", {}), "", allowed),
    )


def _field_rows(
    model: type[BaseModel],
    properties: dict[str, Any],
    inside: dict[str, Any],
    path: str,
    allowed: Callable[[str], str] | None = None,
) -> Iterator[Sequence[str]]:
    for field, info in model.model_fields.items():
        schema = properties[field]
        yield (
            f"`{path}{field}`",
            ", ".join(f"`{name}`" for name in also_called(info)),
            _type(schema),
            _default(path + field, info, schema),
            allowed(field) if allowed else allowed_in_words(info),
            str(info.description),
        )
        if part := part_of(info):
            deeper = f"{path}{field}{'[]' if part[1] else ''}."
            yield from _field_rows(part[0], inside[part[0].__name__]["properties"], inside, deeper)


def settings() -> str:
    """The environment variables the worker reads."""
    return _table(
        ("variable", "default", "allowed", "meaning"),
        (
            (f"`{name.upper()}`", _value(info.default), _allowed(info), str(info.description))
            for name, info in Settings.model_fields.items()
        ),
    )


def samplers() -> str:
    """The samplers on offer, and the names each goes by."""
    return _table(
        ("sampler", "also", "diffusers' class", "with"),
        (
            (
                f"`{sampler.name}`",
                ", ".join(f"`{alias}`" for alias in sampler.aliases if not _is_derived(alias, sampler)),
                f"`{sampler.scheduler}`",
                ", ".join(f"`{key}={value!r}`" for key, value in sampler.config.items()),
            )
            for sampler in SAMPLERS.values()
        ),
    )


def schedules() -> str:
    """The schedules on offer, and the methods that cannot be had with them."""
    methods = [sampler.name for sampler in PAIRS.values() if sampler.schedule is None]
    return _table(
        ("schedule", "also", "not with"),
        (
            (
                f"`{schedule.name}`",
                ", ".join(f"`{name}`" for name in (schedule.label, *schedule.aliases)),
                ", ".join(f"`{method}`" for method in methods if f"{method} {schedule.label}" not in PAIRS),
            )
            for schedule in SCHEDULES.values()
        ),
    )


def automatic() -> str:
    """What `automatic` means for each method that has a schedule going with it."""
    return _table(
        ("sampler", "`automatic` is"),
        ((f"`{s.name}`", f"`{s.automatic}`") for s in PAIRS.values() if s.schedule is None and s.automatic),
    )


def foreign() -> str:
    """The keys of other workers' jobs that are no fields here, and when they are ignored."""
    return _table(
        ("key", "ignored", "else"),
        (
            (f"`{key.name}`", _harmless(key), f"refused: {key.asks}" if key.harmless is not None else "")
            for key in FOREIGN.values()
        ),
    )


def _harmless(key: Foreign) -> str:
    if key.harmless is None:
        return "always"
    values = ["`null`", *(f"`{json.dumps(value)}`" for value in key.harmless)]
    inside = (f"`{name}` of {json.dumps(value)[1:-1]}" for name, value in key.inside.items())
    values = [*values, *inside]
    return ", ".join(values) + (f"; anything without a `{key.needs}`" if key.needs else "")


TABLES: dict[str, Callable[[], str]] = {
    "fields": fields,
    "parameters": parameters,
    "settings": settings,
    "samplers": samplers,
    "schedules": schedules,
    "automatic": automatic,
    "foreign": foreign,
}


def rewrite(text: str) -> str:
    """A document with its tables as they should be.

    Raises:
        MarkerError: a marker names no table, or has no partner.
    """

    def fresh(found: re.Match[str]) -> str:
        begin, name, _, end = found.groups()
        if name not in TABLES:
            raise MarkerError(f"there is no table {name!r}, only {', '.join(TABLES)}")
        return f"{begin}{TABLES[name]()}{end}"

    partnerless = re.search(r"<!-- (\w+:(begin|end)) -->", _MARKED.sub("", text))
    if partnerless:
        raise MarkerError(f"the marker {partnerless[1]} has no partner, or its line goes on")
    return _MARKED.sub(fresh, text)


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Rewrite the documents below `root`, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m builder.reference", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if one is out of date"
    )
    check = parser.parse_args(arguments).check
    stale = 0
    for file in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if not file.is_file():
            continue
        text = file.read_text("utf-8")
        try:
            wanted = rewrite(text)
        except MarkerError as error:
            print(f"{file.relative_to(root)}: {error}", file=sys.stderr)
            return 2
        if wanted == text:
            continue
        stale = 1
        if not check:
            file.write_text(wanted, "utf-8")
        print(f"{file.relative_to(root)} {'is out of date: run make reference' if check else 'rewritten'}")
    return stale if check else 0


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _default(field: str, info: FieldInfo, schema: dict[str, Any]) -> str:
    """What a field is where a job does not say, in words."""
    if info.is_required():
        return "required"
    return _DEFAULTS.get(field) or _value(schema.get("default"))


def _is_derived(alias: str, sampler: Sampler) -> bool:
    """Whether an alias is one of the method's with the schedule behind it."""
    method = PAIRS[sampler.method]
    return sampler is not method and alias.startswith(tuple(f"{n} " for n in (method.name, *method.aliases)))


def _type(schema: dict[str, Any]) -> str:
    """The JSON type of a property, without its null."""
    if "$ref" in schema or "anyOf" in schema:
        return "object"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = next(kind for kind in kinds if kind != "null")
    return f"array of {_type(schema['items'])}s" if kind == "array" else kind


def _value(value: object) -> str:
    """A default as one would write it."""
    if value is None or value in ("", [], ()):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _allowed(info: FieldInfo) -> str:
    """What a setting may hold, in words."""
    if get_origin(info.annotation) is tuple:
        return "names with commas between"
    kinds = [kind for kind in get_args(info.annotation) or (info.annotation,) if kind is not NoneType]
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return ", ".join(f"`{choice.value}`" for choice in kinds[0])
    return _KINDS.get(kinds[0]) or allowed_by(info)


if __name__ == "__main__":
    sys.exit(main())
