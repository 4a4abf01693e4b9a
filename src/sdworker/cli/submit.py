"""`sdworker submit`: have an endpoint draw, and save the images."""

import argparse
import base64
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdworker.cli.fields import add_set_option, read_fields
from sdworker.cli.images import suffix_of

__all__ = ["add_parser", "run"]

_LOCAL = "http://127.0.0.1:8000"
_DEFAULT_ID = "stable-diffusion-v1"
_LOCAL_KEYS = Path("~/.local/share/sdworker-endpoint/keys.json").expanduser()
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
_POLL_S = 0.5
_LARGEST_IMAGE_BYTES = 200 * 1024 * 1024


class _SubmitError(Exception):
    """What went wrong, for the user."""


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "submit",
        help="send a job to an endpoint and save its images",
        description="Sends a job to a local or a RunPod endpoint, shows its progress and saves its images. "
        "Ctrl-C cancels the job. Example: sdworker submit 'a red apple' --set seed=7 --out apples",
    )
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument(
        "--endpoint",
        default=os.environ.get("SDWORKER_ENDPOINT", _LOCAL),
        help="an endpoint's URL, or its id on RunPod (default: %(default)s)",
    )
    parser.add_argument(
        "--key", help="the API key (default: on this machine the one that `serve` made, else RUNPOD_API_KEY)"
    )
    add_set_option(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the images (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Submit, wait and save; returns the exit code."""
    try:
        base_url, endpoint_id = _address(arguments.endpoint)
        request = _request(arguments.prompt, arguments.set)
        status = _draw(base_url, endpoint_id, _key(arguments.key, base_url), request)
        for path, seed in _save(status["id"], status.get("output"), arguments.out):
            print(f"{path}  seed {seed}")
    except (_SubmitError, OSError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sdworker: cancelled", file=sys.stderr)
        return 130
    return 0


def _address(endpoint: str) -> tuple[str, str]:
    """The base URL that the official client wants, and the endpoint's id."""
    if not endpoint.startswith(("http://", "https://")):
        return "https://api.runpod.ai/v2", endpoint
    parts = urlsplit(endpoint)
    _, _, after = parts.path.partition("/v2/")
    return f"{parts.scheme}://{parts.netloc}/v2", after.split("/")[0] or _DEFAULT_ID


def _key(given: str | None, base_url: str) -> str:
    key = given or _local_key(base_url) or os.environ.get("RUNPOD_API_KEY")
    if not key:
        raise _SubmitError("no API key: give --key or set RUNPOD_API_KEY")
    return key


def _local_key(base_url: str) -> str | None:
    """The key that `serve` made, for an endpoint on this machine: RUNPOD_API_KEY is the platform's there too."""
    if urlsplit(base_url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        return str(json.loads(_LOCAL_KEYS.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _request(prompt: str, assignments: list[str]) -> dict[str, Any]:
    try:
        return {"prompt": prompt, **read_fields(assignments)}
    except ValueError as error:
        raise _SubmitError(str(error)) from error


def _draw(base_url: str, endpoint_id: str, key: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run the job through the official client; returns its last status. Cancels it on Ctrl-C."""
    # Imported here: it takes seconds, and `--help` need not wait for it.
    import requests
    import runpod

    _check_reachable(base_url)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries are told once they have failed
    runpod.endpoint_url_base = base_url
    endpoint = runpod.Endpoint(endpoint_id, api_key=key)
    try:
        job = endpoint.run({"input": request})
        try:
            status = _follow(lambda: endpoint.rp_client.get(f"{endpoint_id}/status/{job.job_id}"))
        except KeyboardInterrupt:
            job.cancel(timeout=10)
            raise
    except requests.HTTPError as error:
        raise _SubmitError(_reason(error.response)) from error
    except requests.RequestException as error:
        raise _SubmitError(f"{base_url} cannot be reached: {type(error).__name__}") from error
    except RuntimeError as error:  # what the client makes of a 401
        raise _SubmitError(str(error)) from error
    if status["status"] != "COMPLETED":
        raise _SubmitError(f"the job is {status['status']}: {status.get('error', 'no reason given')}")
    return status


def _check_reachable(base_url: str) -> None:
    """Say at once that nothing listens: the client would try for half a minute. Not through a proxy."""
    parts = urlsplit(base_url)
    if parts.scheme != "http":
        return
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10).close()
    except OSError as error:
        raise _SubmitError(f"{base_url} cannot be reached: {error.strerror or error}") from error


def _follow(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask for the status until it is final, with a bar of the steps and the time in the queue."""
    from tqdm import tqdm

    with tqdm(desc="in the queue", unit="step", disable=None) as bar:
        while (status := ask())["status"] not in _FINAL:
            queued_s = status.get("delayTime", 0) / 1000
            progress = status.get("output")
            if status["status"] == "IN_QUEUE":
                bar.set_description(f"in the queue for {queued_s:.1f} s")
            elif isinstance(progress, dict) and isinstance(progress.get("step"), int):
                bar.total = progress.get("steps")
                bar.set_description(f"drawing, after {queued_s:.1f} s in the queue", refresh=False)
                bar.update(progress["step"] - bar.n)
            time.sleep(_POLL_S)
        if bar.total:
            bar.update(bar.total - bar.n)
    return status


def _reason(response: Any) -> str:
    """What an error answer says, in one line."""
    try:
        return f"{response.json()['error']} (HTTP {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"the endpoint answered HTTP {response.status_code}"


def _save(job_id: str, output: Any, out: Path) -> Iterator[tuple[Path, Any]]:
    """Write every image of the output into the folder; yields its path and its seed."""
    if not isinstance(output, list):
        raise _SubmitError(f"the output is no list of images: {str(output)[:200]}")
    out.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(output):
        if not isinstance(item, dict) or not isinstance(item.get("image"), str):
            raise _SubmitError(f"the output's item {number} is no image: {str(item)[:200]}")
        data = _fetch(item["image"])
        path = out / f"{job_id}_{number}{suffix_of(data)}"
        path.write_bytes(data)
        yield path, item.get("seed")


def _fetch(image: str) -> bytes:
    """An image's bytes, wherever it is."""
    if not image.startswith(("http://", "https://")):
        try:
            return base64.b64decode(
                image.partition(",")[2] if image.startswith("data:") else image, validate=True
            )
        except ValueError as error:
            raise _SubmitError(f"an image is neither base64 nor a URL: {image[:60]!r}") from error
    import requests

    try:
        with requests.get(image, stream=True, timeout=60) as answer:
            answer.raise_for_status()
            data = answer.raw.read(_LARGEST_IMAGE_BYTES + 1, decode_content=True)
    except requests.RequestException as error:
        raise _SubmitError(f"an image cannot be fetched ({type(error).__name__}): {image[:200]}") from error
    if len(data) > _LARGEST_IMAGE_BYTES:
        raise _SubmitError(f"an image is larger than {_LARGEST_IMAGE_BYTES} bytes: {image[:200]}")
    return data
