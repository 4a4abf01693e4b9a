"""`sdworker generate`: run a job here, without any endpoint, and save its images."""

import argparse
import asyncio
import base64
import contextlib
import re
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from sdworker.cli.fields import add_field_options, read_fields
from sdworker.cli.images import suffix_of
from sdworker.cli.previews import PreviewScreen, Watcher, add_previews_option
from sdworker.cli.results import check_folder
from sdworker.cli.submit import read_job
from sdworker.waiting import wait_a_moment

__all__ = ["add_parser", "run"]

_JOB = Path("test_input.json")


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "generate",
        help="draw on this machine and save the images",
        description="Runs one job through the worker on this machine and saves its images. "
        "Example: sdworker generate 'a red apple' --set seed=7 --set num_outputs=4",
    )
    parser.add_argument("prompt", nargs="?", help="what to draw; unset: the job in --job")
    parser.add_argument(
        "--job",
        type=Path,
        metavar="FILE",
        help=f"a job as JSON, for what is not set here (default: {_JOB}, where no prompt is given)",
    )
    add_field_options(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the images (default: %(default)s)"
    )
    add_previews_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw; returns the exit code."""
    try:
        job = _job(arguments)
        check_folder(arguments.out)
    except ValueError as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 2
    if arguments.previews:
        job["input"]["previews"] = True
    return asyncio.run(_generate(job, arguments.out, PreviewScreen(arguments.out)))


def _job(arguments: argparse.Namespace) -> dict[str, Any]:
    """The job to run: what the options say, over that in --job, which is read where they name no prompt too.

    Raises:
        ValueError: there is none.
    """
    fields = read_fields(arguments)
    if arguments.prompt is not None:
        fields = {"prompt": arguments.prompt, **fields}
    job: dict[str, Any] = {"input": {}}
    if arguments.job is not None or "prompt" not in fields:
        job = read_job(arguments.job or _JOB)
    job["input"] |= fields
    return {"id": "local", **job}


async def _generate(job: dict[str, Any], out: Path, screen: PreviewScreen) -> int:
    """Run the job and save its images, showing it on its way where it asks for that; returns the exit code."""
    wait_a_moment()
    # Imported here: the heavy part, and `--help` need not wait for it.
    from tqdm import tqdm

    from sdworker.errors import DeploymentError, UserError
    from sdworker.settings import load_settings
    from sdworker.startup import build_worker

    try:
        settings = load_settings()
        worker = build_worker(settings)
        with contextlib.ExitStack() as stack:
            bars: list[Any] = []  # one, once there is something to show

            def on_step(step: int, steps: int) -> None:
                if not bars:
                    bars.append(stack.enter_context(tqdm(desc="drawing", unit="step", total=steps)))
                bars[0].update(step - bars[0].n)

            watcher = Watcher(screen, every_s=settings.progress_interval_ms / 1000)
            stack.callback(watcher.end)
            output = await worker.run(job, on_step, watcher)
    except (UserError, DeploymentError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    try:
        for item in output:
            what = f"seed {item['seed']}" if "seed" in item else f"hint {item['control']}"
            name = f"{_slug(str(job['input'].get('prompt')))}-{what.removeprefix('seed ').replace(' ', '-')}"
            print(f"{_save(item['image'], out / name)}  {what}")
    except OSError as error:
        print(f"sdworker: {out} takes no images: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _save(image: str, stem: Path) -> str:
    """Write a base64 image to `stem` and its suffix, or leave a URL as it is; returns what to print."""
    if urllib.parse.urlsplit(image).scheme in ("http", "https"):
        return image
    data = base64.b64decode(image)
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(stem.name + suffix_of(data))
    path.write_bytes(data)
    return str(path)


def _slug(prompt: str) -> str:
    """A prompt as part of a file's name."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "image"
