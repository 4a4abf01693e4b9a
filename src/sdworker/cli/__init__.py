"""The `sdworker` command. One module a subcommand, each with `add_parser` and `run`."""

import argparse
import sys
from collections.abc import Sequence

from sdworker import __version__
from sdworker.cli import explain, generate, serve, submit

__all__ = ["main"]

_COMMANDS = (explain, generate, serve, submit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sdworker", description="Stable Diffusion 1.x, here or on RunPod Serverless."
    )
    parser.add_argument("--version", action="version", version=f"sdworker {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
