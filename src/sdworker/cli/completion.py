"""`sdworker completion`: the script that completes this command's words in a shell."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "run"]

_SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description='Prints a completion script. In bash: eval "$(sdworker completion bash)"; '
        "in fish: sdworker completion fish | source; in zsh write it as _sdworker into a folder of $fpath.",
    )
    parser.add_argument("shell", choices=_SHELLS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from sdworker.cli import build_parser

    parser = build_parser()
    for each in (parser, *_below(parser)):
        for action in each._actions:
            if action.type is Path or action.metavar == "FILE":
                action.complete = shtab.DIRECTORY if action.dest in ("out", "data") else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        choice
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action.choices.values()
    ]
