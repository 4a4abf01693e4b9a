"""`sdworker models`: the models that a worker would serve here, as its variables name them."""

import argparse
import sys
from typing import Any

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "models",
        help="list the models that a worker would serve here",
        description="Lists what MODEL_DIR, MODEL_ID, MODELS and MODELS_DIR come to: name, family, own size, GB of "
        "memory in half precision, and the folder or file. The first is drawn with where a job names none.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; returns the exit code."""
    del arguments
    # Imported here: it reads the settings and the models' configurations.
    from sdworker.catalogue import list_models
    from sdworker.errors import DeploymentError
    from sdworker.settings import load_settings

    try:
        listed = list_models(load_settings())
    except (DeploymentError, OSError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    rows = [
        (
            one.served.name,
            one.checked.layout.name,
            "x".join(str(side) for side in one.served.size),
            f"{one.checked.half_bytes / 1e9:.2f} GB",
            str(one.place),
        )
        for one in listed
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
