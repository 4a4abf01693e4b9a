"""The tables in README.md and docs/ that say what the code says, generated from it.

    python -m builder.reference           rewrite them
    python -m builder.reference --check   exit with 1 if one is out of date

A table stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, NAME being one of `TABLES`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import HttpUrl, SecretStr
from pydantic.fields import FieldInfo

from sdworker.request import Contract, Request, aliases_of
from sdworker.samplers import SAMPLERS
from sdworker.settings import Settings
from sdworker.wording import allowed_by

__all__ = ["TABLES", "main", "rewrite"]

ROOT = Path(__file__).resolve().parents[1]

_DERIVED = (" Karras", " Exponential")  # a twin's aliases are its plain sampler's with this behind
# Defaults that the model or chance decides.
_DEFAULTS = {"width": "the model's own", "height": "the model's own", "seed": "random", "prompt": "required"}
_KINDS: dict[type, str] = {Path: "a folder", HttpUrl: "a URL", SecretStr: "text, kept secret"}
_MARKED = re.compile(r"(<!-- (\w+):begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)


class MarkerError(Exception):
    """A document's markers do not make sense; the message says where."""


def parameters() -> str:
    """The fields of a job's input, for a deployment with nothing configured."""
    contract = Contract(Settings.model_construct(), (512, 512))
    properties = contract.schema()["properties"]
    return _table(
        ("field", "also", "type", "default", "allowed", "meaning"),
        (
            (
                f"`{field}`",
                ", ".join(f"`{name}`" for name in aliases_of(field)),
                _type(properties[field]),
                _DEFAULTS.get(field) or _value(properties[field]["default"]),
                contract.allowed(field),
                str(info.description),
            )
            for field, info in Request.model_fields.items()
        ),
    )


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
                ", ".join(f"`{alias}`" for alias in sampler.aliases if not alias.endswith(_DERIVED)),
                f"`{sampler.scheduler}`",
                ", ".join(f"`{key}={value!r}`" for key, value in sampler.config.items()),
            )
            for sampler in SAMPLERS.values()
        ),
    )


TABLES: dict[str, Callable[[], str]] = {"parameters": parameters, "settings": settings, "samplers": samplers}


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


def _type(schema: dict[str, Any]) -> str:
    """The JSON type of a property, without its null."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return next(kind for kind in kinds if kind != "null")


def _value(value: object) -> str:
    """A default as one would write it."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _allowed(info: FieldInfo) -> str:
    """What a setting may hold, in words."""
    kinds = [kind for kind in get_args(info.annotation) or (info.annotation,) if kind is not NoneType]
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return ", ".join(f"`{choice.value}`" for choice in kinds[0])
    return _KINDS.get(kinds[0]) or allowed_by(info)


if __name__ == "__main__":
    sys.exit(main())
