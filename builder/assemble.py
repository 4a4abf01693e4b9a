"""A folder in diffusers' layout, however full, made a clean one: needed files only, weights in fp16."""

import json
from pathlib import Path
from typing import Any

from builder.errors import FetchError
from builder.layout import INDEX, clean_index, layout_in, plan_files
from builder.weights import link_or_copy, to_half
from sdworker.model_layout import STABLE_DIFFUSION_XL, Layout

__all__ = ["assemble", "read_json"]


def assemble(source: Path, target: Path, *, link: bool, with_safety: bool = False) -> list[str]:
    """Build the target from what is needed of the source.

    Args:
        source: A model in diffusers' layout. It is only read.
        target: The folder to make.
        link: Whether files may be shared with the source by hard links, because it is ours and goes away.
        with_safety: Whether its safety checker is kept.

    Returns:
        The weights files that were converted or joined.

    Raises:
        FetchError: if the source is not a model the worker can run.
        OSError: if the disk is full.
    """
    if not (source / INDEX).is_file():
        raise FetchError(f"{source.name} is not a model in diffusers' layout: it has no {INDEX}")
    index = read_json(source / INDEX)
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    plan = plan_files(index, names, with_safety=with_safety)
    channels = _check_unet(read_json(source / "unet" / "config.json"), layout_in(index))

    target.mkdir(parents=True)
    for name in plan.copies:
        link_or_copy(source / name, target / name, link=link)
    converted = [
        name
        for name, parts in plan.weights.items()
        if to_half([source / part for part in parts], target / name, link=link)
    ]
    cleaned = clean_index(index, unet_channels=channels, with_safety=with_safety)
    (target / INDEX).write_text(json.dumps(cleaned, indent=2) + "\n")
    return converted


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FetchError: if the file holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FetchError(f"{path.parent.name}/{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{path.parent.name}/{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise FetchError(f"{path.parent.name}/{path.name} does not hold a JSON object")
    return content


def _check_unet(config: dict[str, Any], layout: Layout) -> int:
    """The UNet's input channels, if the worker can feed it."""
    channels = config.get("in_channels")
    if channels not in (4, 9):
        raise FetchError(
            f"its UNet has {channels} input channels; 4 (text to image) or 9 (inpainting) are supported"
        )
    more = config.get("addition_embed_type")
    if layout is STABLE_DIFFUSION_XL and more != "text_time":
        raise FetchError(
            "its UNet is not that of Stable Diffusion XL: it is not told the whole text and the size"
        )
    if config.get("class_embed_type") or (more and layout is not STABLE_DIFFUSION_XL):
        raise FetchError("its UNet wants more than a timestep, a prompt and a guidance scale")
    return int(channels)
