"""A job's input fields on the command line: `--set FIELD=VALUE`, `--set FIELD=@FILE`, and pictures."""

import argparse
import json
from pathlib import Path
from typing import Any

from sdworker.cli.images import data_uri, is_image

__all__ = ["add_field_options", "read_fields"]

_PICTURES = {"init_image": "the picture to start from", "mask": "where to repaint it: white is, black stays"}
_SENT_AS_THEY_ARE = ("http://", "https://", "data:")


def add_field_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their values go to `read_fields`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="an input field; the value is read as JSON where it is JSON, else as text; @FILE sends a picture "
        "or the text of a file (@@ is a plain @)",
    )
    for name, meaning in _PICTURES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help=f"{meaning}; a file or a URL")
    parser.add_argument(
        "--control",
        action="append",
        default=[],
        metavar="MODEL=FILE",
        help="a ControlNet and the picture that leads it, a file or a URL; may be given again. "
        "--set controls='[…]' says more of each",
    )


def read_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The input fields that the options make.

    Raises:
        ValueError: a `--set` is not FIELD=VALUE, or a file cannot be sent.
    """
    fields = {}
    for assignment in arguments.set:
        field, equals, value = assignment.partition("=")
        if not (field and equals):
            raise ValueError(f"--set {assignment}: should be FIELD=VALUE")
        fields[field] = _value(f"--set {field}", value)
    for name in _PICTURES:
        given = getattr(arguments, name)
        if given is not None:
            fields[name] = _sent(f"--{name.replace('_', '-')}", given)
    if arguments.control:
        if "controls" in fields:
            raise ValueError("--control and --set controls=… say the same: give one of them")
        fields["controls"] = [_control(given) for given in arguments.control]
    return fields


def _control(given: str) -> dict[str, str]:
    model, equals, picture = given.partition("=")
    if not (model and equals and picture):
        raise ValueError(f"--control {given}: should be MODEL=FILE")
    return {"model": model, "image": _sent("--control", picture)}


def _sent(option: str, given: str) -> str:
    """A file as a data URI; an address as it is."""
    return given if given.startswith(_SENT_AS_THEY_ARE) else _picture(option, given)


def _value(option: str, value: str) -> Any:
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        data = _read(option, value[1:])
        return data_uri(data) if is_image(data) else _text(option, value[1:], data)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _picture(option: str, file: str) -> str:
    data = _read(option, file)
    if not is_image(data):
        raise ValueError(f"{option}: {file} is not a picture")
    return data_uri(data)


def _text(option: str, file: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{option}: {file} is neither a picture nor text") from None
    return text.rstrip("\r\n")


def _read(option: str, file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{option}: {file or 'the file'} cannot be read: {reason}") from error
