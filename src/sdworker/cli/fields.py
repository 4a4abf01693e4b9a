"""`--set FIELD=VALUE`: a job's input fields on the command line."""

import argparse
import json
from collections.abc import Iterable
from typing import Any

__all__ = ["add_set_option", "read_fields"]


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--set`; its values go to `read_fields`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="an input field; the value is read as JSON where it is JSON, else as text",
    )


def read_fields(assignments: Iterable[str]) -> dict[str, Any]:
    """The input fields that `--set` options make.

    Raises:
        ValueError: one is not FIELD=VALUE.
    """
    fields = {}
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not (field and equals):
            raise ValueError(f"--set {assignment}: should be FIELD=VALUE")
        fields[field] = _json_or_text(value)
    return fields


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
