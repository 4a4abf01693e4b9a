"""The shapes in which a job's images are answered: this worker's own, and those of peers, whose callers need not
change (docs/migrating.md).

    images      [{"image": base64 or URL, "seed": n}, …]
    sdxl        {"image_url": the first, "images": [data URI or URL, …], "seed": the first's}
    sdxl_turbo  {"images": [{"image": …, "seed": n}, …], "generation_time": seconds, "parameters": {…}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdworker.request import Request
from sdworker.settings import Answer

__all__ = ["Done", "answer_of"]

_URLS = ("http://", "https://")


@dataclass(frozen=True)
class Done:
    """A job that is done.

    Attributes:
        request: what it asked for.
        size: width and height of its images, in pixels.
        images: in this worker's own shape.
        seconds: from when it was begun.
    """

    request: Request
    size: tuple[int, int]
    images: list[dict[str, Any]]
    seconds: float


def answer_of(done: Done, shape: Answer) -> list[dict[str, Any]] | dict[str, Any]:
    """A job's output in a shape."""
    match shape:
        case Answer.SDXL:
            return _as_sdxl(done)
        case Answer.SDXL_TURBO:
            return _as_turbo(done)
        case _:
            return done.images


def _as_sdxl(done: Done) -> dict[str, Any]:
    """worker-sdxl's; what it does not know goes beside: which images are flagged, and hints."""
    images = [one for one in done.images if "control" not in one]
    hints = [one for one in done.images if "control" in one]
    pictures = _uris(done, images)
    answer: dict[str, Any] = {"image_url": pictures[0], "images": pictures, "seed": images[0]["seed"]}
    if any("nsfw" in one for one in images):
        answer["nsfw"] = [bool(one.get("nsfw")) for one in images]
    if hints:
        answer["controls"] = _uris(done, hints)
    return answer


def _as_turbo(done: Done) -> dict[str, Any]:
    request = done.request
    return {
        "images": done.images,
        "generation_time": done.seconds,
        "parameters": {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "width": done.size[0],
            "height": done.size[1],
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "seed": request.seed,
        },
    }


def _uris(done: Done, items: Sequence[Mapping[str, Any]]) -> list[str]:
    beginning = f"data:image/{done.request.output_format};base64,"
    images = [str(one["image"]) for one in items]
    return [image if image.startswith(_URLS) else beginning + image for image in images]
