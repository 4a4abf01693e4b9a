"""Saving a finished job's images, and finding out beforehand that they can be."""

import base64
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdworker.cli.client import EndpointError, UsageError
from sdworker.cli.images import suffix_of

__all__ = ["check_folder", "save_images"]

_LARGEST_IMAGE_BYTES = 200 * 1024 * 1024


def check_folder(out: Path) -> None:
    """See that files can be written in a folder, or in the one where it would be made. Raises `UsageError`."""
    try:
        place = out
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise UsageError(f"--out {out}: is not a folder")
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UsageError(f"--out {out}: nothing can be written there: {error.strerror}") from error


def save_images(job_id: str, output: Any, out: Path) -> Iterator[tuple[Path, str]]:
    """Write every image of the output into the folder; yields its path and what it is, its seed say.

    Raises `EndpointError` for what is no image or cannot be fetched, and `OSError`.
    """
    output = _items(output)
    out.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(output):
        if not isinstance(item, dict) or not isinstance(item.get("image"), str):
            raise EndpointError(f"the output's item {number} is no image: {str(item)[:200]}")
        data = _fetch(item["image"])
        path = out / f"{re.sub(r'[^A-Za-z0-9_-]', '_', job_id)}_{number}{suffix_of(data)}"
        path.write_bytes(data)
        yield path, f"hint {item['control']}" if "control" in item else f"seed {item.get('seed')}"


def _items(output: Any) -> list[Any]:
    """The images, in whichever shape the worker answers (`ANSWER`)."""
    if isinstance(output, dict) and isinstance(output.get("images"), list):
        images, seed = output["images"], output.get("seed")
        if all(isinstance(one, str) for one in images):  # as worker-sdxl: seeds count up from the first
            return [
                {"image": one, "seed": seed + i if isinstance(seed, int) else None}
                for i, one in enumerate(images)
            ]
        return images
    if not isinstance(output, list):
        raise EndpointError(f"the output is no list of images: {str(output)[:200]}")
    return output


def _fetch(image: str) -> bytes:
    """An image's bytes, wherever it is."""
    if not image.startswith(("http://", "https://")):
        try:
            return base64.b64decode(
                image.partition(",")[2] if image.startswith("data:") else image, validate=True
            )
        except ValueError as error:
            raise EndpointError(f"an image is neither base64 nor a URL: {image[:60]!r}") from error
    import requests

    try:
        with requests.get(image, stream=True, timeout=60) as answer:
            answer.raise_for_status()
            data = answer.raw.read(_LARGEST_IMAGE_BYTES + 1, decode_content=True)
    except requests.RequestException as error:
        raise EndpointError(f"an image cannot be fetched ({type(error).__name__}): {image[:200]}") from error
    if len(data) > _LARGEST_IMAGE_BYTES:
        raise EndpointError(f"an image is larger than {_LARGEST_IMAGE_BYTES} bytes: {image[:200]}")
    return data
