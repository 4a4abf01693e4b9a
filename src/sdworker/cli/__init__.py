"""The `sdworker` command. One module a subcommand, each with `add_parser` and `run`.

Exit codes: 0, 1 for what failed, 2 for what makes no sense, 130 after Ctrl-C. Every error is one line.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sdworker import __version__
from sdworker.cli import completion, explain, generate, manage, models, serve, submit

__all__ = ["build_parser", "main"]

_COMMANDS = (generate, explain, models, serve, submit, manage, completion)


class _Parser(argparse.ArgumentParser):
    """argparse, with an error in one line: `serve` has a screen full of options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line with all its subcommands."""
    parser = _Parser(prog="sdworker", description="Stable Diffusion, here or on RunPod Serverless.")
    parser.add_argument("--version", action="version", version=f"sdworker {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parsed = build_parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
