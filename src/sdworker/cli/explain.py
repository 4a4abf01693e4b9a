"""`sdworker explain`: how a prompt is read, without drawing it: tokens, chunks, weights, what is said when."""

import argparse
import sys
from typing import Any

from sdworker.cli.fields import add_field_options, read_fields

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "explain",
        help="show how a prompt is read: tokens, chunks, weights, schedule",
        description="Shows how the worker's model reads a prompt. Nothing is drawn. "
        "Example: sdworker explain 'a (red:1.4) [sun:moon:0.5]' --set steps=20",
    )
    parser.add_argument("prompt", help="what would be drawn")
    add_field_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    from sdworker.errors import DeploymentError, UserError

    try:
        for line in _explain({"prompt": arguments.prompt, **read_fields(arguments)}):
            print(line)
    except (UserError, DeploymentError, OSError, ValueError, KeyError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    return 0


def _explain(given: dict[str, Any]) -> list[str]:
    """Lines about a job's prompts.

    Raises:
        InputError, PromptError, SettingsError: with a message for the user.
        OSError, ValueError, KeyError: the model's files cannot be read.
    """
    from sdworker.cli.prompt_reader import PromptReader
    from sdworker.engine.text.explain import explain_prompt

    reader = PromptReader()
    read = reader.read(given)
    lines = list(explain_prompt(read.parts, reader.tokenizer))
    if read.negative:
        lines += ["negative prompt", *explain_prompt([read.negative], reader.tokenizer)]
    return lines
