"""`sdworker status|cancel|retry|health|purge`: what else an endpoint can be asked; and `schema`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdworker.cli.client import Client, EndpointError, add_endpoint_options, client_for
from sdworker.cli.results import check_folder, save_images

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommands."""
    status = _of_jobs(subparsers, "status", "tell how jobs stand, and save their images", _status)
    status.add_argument("--out", type=Path, help="save the images of those that are COMPLETED in this folder")
    status.add_argument("--json", action="store_true", help="the endpoint's answers as they are, one a line")
    _of_jobs(subparsers, "cancel", "cancel jobs", _cancel)
    _of_jobs(subparsers, "retry", "queue FAILED or TIMED_OUT jobs again", _retry)
    health = _asking(subparsers, "health", "tell what an endpoint's jobs and workers do", _health)
    health.add_argument("--json", action="store_true", help="the endpoint's answer as it is")
    _asking(subparsers, "purge", "cancel every job that waits", _purge)
    subparsers.add_parser(
        "schema",
        help="print the JSON Schema of a job's input",
        description="Prints the JSON Schema of a job's input, as the worker on this machine takes it with its "
        "settings and model.",
    ).set_defaults(run=_schema)


def run(arguments: argparse.Namespace) -> int:
    """Ask; returns the exit code: 1 where any of it failed."""
    try:
        if getattr(arguments, "out", None) is not None:
            check_folder(arguments.out)
        client = client_for(arguments)
    except ValueError as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 2
    try:
        client.check_reachable()
        if not hasattr(arguments, "id"):
            arguments.ask(client, arguments)
            return 0
    except (EndpointError, OSError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    code = 0
    for job_id in arguments.id:
        try:
            arguments.ask(client, job_id, arguments)
        except (EndpointError, OSError) as error:
            print(f"sdworker: {job_id}: {error}", file=sys.stderr)
            code = 1
    return code


def _asking(subparsers: Any, name: str, help_: str, ask: Callable[..., None]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=help_, description=f"{help_[0].upper() + help_[1:]}."
    )
    add_endpoint_options(parser)
    parser.set_defaults(run=run, ask=ask)
    return parser


def _of_jobs(subparsers: Any, name: str, help_: str, ask: Callable[..., None]) -> argparse.ArgumentParser:
    parser = _asking(subparsers, name, help_, ask)
    parser.add_argument("id", nargs="+", help="a job's id, as `submit` prints it")
    return parser


def _status(client: Client, job_id: str, arguments: argparse.Namespace) -> None:
    status = client.status(job_id)
    if arguments.json:
        print(json.dumps(status, ensure_ascii=False))
    else:
        print(_told(job_id, status))
    if arguments.out is not None and status["status"] == "COMPLETED":
        for path, what in save_images(job_id, status.get("output"), arguments.out):
            print(f"{path}  {what}")


def _told(job_id: str, status: dict[str, Any]) -> str:
    """A job's state in one line."""
    parts = [f"{job_id}  {status['status']}", f"{status.get('delayTime', 0) / 1000:.1f} s in the queue"]
    if "executionTime" in status:
        parts.append(f"{status['executionTime'] / 1000:.1f} s with {status.get('workerId', 'its worker')}")
    output = status.get("output")
    if status["status"] == "IN_PROGRESS" and isinstance(output, dict) and "step" in output:
        parts.append(f"step {output['step']} of {output.get('steps')}")
    if "error" in status:
        parts.append(str(status["error"]))
    return ", ".join(parts)


def _cancel(client: Client, job_id: str, arguments: argparse.Namespace) -> None:
    print(f"{job_id}  {client.cancel(job_id)['status']}")


def _retry(client: Client, job_id: str, arguments: argparse.Namespace) -> None:
    print(f"{job_id}  {client.retry(job_id)['status']}")


def _health(client: Client, arguments: argparse.Namespace) -> None:
    health = client.health()
    if arguments.json:
        print(json.dumps(health))
        return
    for name in ("jobs", "workers"):
        counts = health.get(name) or {}
        print(f"{name:8} " + "  ".join(f"{key} {count}" for key, count in counts.items()))


def _purge(client: Client, arguments: argparse.Namespace) -> None:
    print(f"{client.purge()} cancelled")


def _schema(arguments: argparse.Namespace) -> int:
    # Imported here: it reads the settings and the model's configuration.
    from sdworker.assets import AddOns
    from sdworker.catalogue import contract_of
    from sdworker.errors import DeploymentError
    from sdworker.settings import load_settings

    try:
        settings = load_settings()
        schema = contract_of(settings).schema(AddOns.from_settings(settings).all_names())
    except (DeploymentError, OSError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    print(json.dumps(schema, indent=2, ensure_ascii=False))
    return 0
