"""`sdworker submit`: have an endpoint draw, and save the images; one job, or a file of them."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdworker.cli import batch
from sdworker.cli.client import FINAL, Client, EndpointError, UsageError, add_endpoint_options, client_for
from sdworker.cli.fields import add_field_options, read_fields
from sdworker.cli.previews import PreviewScreen, add_previews_option
from sdworker.cli.results import check_folder, save_images

__all__ = ["add_parser", "run"]

_POLL_S = 0.5
_MOST_PARALLEL = 200
"""What the platform lets one key have under way at once."""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "submit",
        help="send jobs to an endpoint and save their images",
        description="Sends a job to a local or a RunPod endpoint, shows its progress and saves its images. "
        "Ctrl-C cancels the job. Example: sdworker submit 'a red apple' --set seed=7 --out apples. "
        "With --jobs it sends a whole file of them, and the same command goes on where it was interrupted.",
    )
    parser.add_argument("prompt", nargs="?", help="what to draw; also --set prompt=…")
    parser.add_argument("--job", type=Path, metavar="FILE", help="a job as JSON, for what is not set here")
    parser.add_argument(
        "--jobs", type=Path, metavar="FILE", help="many jobs, one in a line, each as JSON (an input will do)"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=8,
        metavar="N",
        help=f"with --jobs: how many are under way at once, 1 to {_MOST_PARALLEL} (default: %(default)s)",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="with --jobs: where to note what was done (default: jobs-log.jsonl in --out)",
    )
    add_endpoint_options(parser)
    add_field_options(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the images (default: %(default)s)"
    )
    add_previews_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Submit, wait and save; returns the exit code."""
    try:
        if not 1 <= arguments.parallel <= _MOST_PARALLEL:
            raise UsageError(f"--parallel must be between 1 and {_MOST_PARALLEL}; it is {arguments.parallel}")
        if arguments.log is not None and arguments.jobs is None:
            raise UsageError("--log goes with --jobs")
        fields = read_fields(arguments)
        if arguments.jobs is not None:
            if arguments.job is not None or arguments.prompt is not None:
                raise UsageError("--jobs holds whole jobs: no prompt and no --job beside it")
            jobs = batch.read_jobs(arguments.jobs, fields)
            check_folder(arguments.out)
            client = client_for(
                arguments, patience_s=batch.PATIENCE_S, connections=max(10, arguments.parallel)
            )
            log = arguments.log or arguments.out / "jobs-log.jsonl"
            return batch.run(client, jobs, arguments.out, log, arguments.parallel)
        job = _job(arguments, fields)
        check_folder(arguments.out)
        client = client_for(arguments)
        if arguments.previews:
            job["input"]["previews"] = True
        status = _draw(client, job, PreviewScreen(arguments.out))
        for path, what in save_images(status["id"], status.get("output"), arguments.out):
            print(f"{path}  {what}")
    except ValueError as error:  # UsageError too
        print(f"sdworker: {error}", file=sys.stderr)
        return 2
    except (EndpointError, OSError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sdworker: cancelled", file=sys.stderr)
        return 130
    return 0


def _job(arguments: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """The job to send. Raises `UsageError`."""
    job: dict[str, Any] = {"input": {}} if arguments.job is None else read_job(arguments.job)
    if arguments.prompt is not None:
        job["input"]["prompt"] = arguments.prompt
    job["input"] |= fields
    if not job["input"]:
        raise UsageError("nothing to draw: give a prompt, --set prompt=…, --job or --jobs")
    return job


def read_job(file: Path) -> dict[str, Any]:
    """The job in a file. Raises `UsageError` when there is none."""
    try:
        job = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    if not isinstance(job, dict) or not isinstance(job.get("input"), dict):
        raise UsageError(f'{file} should hold a job: {{"input": {{"prompt": …}}}}')
    return job


def _draw(client: Client, job: dict[str, Any], screen: PreviewScreen) -> dict[str, Any]:
    """Have the job done; returns its last status. Cancels it on Ctrl-C."""
    client.check_reachable()
    job_id = client.run(job)
    try:
        print(f"job {job_id}", file=sys.stderr, flush=True)
        status = _follow(lambda: client.status(job_id), screen)
    except KeyboardInterrupt:
        client.cancel(job_id)
        raise
    if status["status"] != "COMPLETED":
        raise EndpointError(f"the job is {status['status']}: {status.get('error', 'no reason given')}")
    return status


def _follow(ask: Callable[[], dict[str, Any]], screen: PreviewScreen) -> dict[str, Any]:
    """Ask for the status until it is final, with a bar of the steps and the time in the queue, and previews."""
    from tqdm import tqdm

    with tqdm(desc="in the queue", unit="step", disable=None) as bar:
        while (status := ask())["status"] not in FINAL:
            queued_s = status.get("delayTime", 0) / 1000
            progress = status.get("output")
            if status["status"] == "IN_QUEUE":
                bar.set_description(f"in the queue for {queued_s:.1f} s")
            elif isinstance(progress, dict) and isinstance(progress.get("step"), int):
                bar.total = progress.get("steps")
                bar.set_description(f"drawing, after {queued_s:.1f} s in the queue", refresh=False)
                bar.update(progress["step"] - bar.n)
                if isinstance(progress.get("preview"), str):
                    screen.show(progress["preview"])
            time.sleep(_POLL_S)
        if bar.total:
            bar.update(bar.total - bar.n)
    return status
