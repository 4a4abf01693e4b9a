"""Which files of a diffusers repository a text-to-image worker needs, and what they are called afterwards.

Pure: works on a `model_index.json` and a list of file names, whether they are on a disk or on the hub.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import FetchError
from sdworker.model_layout import INDEX, SAFETY, STABLE_DIFFUSION_XL, Layout, Part, layout_of

__all__ = ["INDEX", "Plan", "clean_index", "layout_in", "plan_files"]

_SUPPORTED = "Stable Diffusion 1.x, 2.x and XL for text to image, and their 9-channel inpainting models"
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
_FORGETS = "force_zeros_for_empty_prompt"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Plan:
    """What to take: `copies` maps each small file to itself; `weights` maps the name a component's weights
    shall have to the file, or the shards in order, that hold them now."""

    copies: tuple[str, ...]
    weights: Mapping[str, tuple[str, ...]]

    @property
    def sources(self) -> list[str]:
        """Every file to read, small ones first."""
        return [INDEX, *self.copies, *(name for names in self.weights.values() for name in names)]


def plan_files(
    index: Mapping[str, Any], names: Collection[str], *, with_weights: bool = True, with_safety: bool = False
) -> Plan:
    """The files of a repository that make a clean model folder.

    Args:
        index: The repository's `model_index.json`.
        names: All its file names, relative and with slashes.
        with_weights: False plans the configuration and the tokenizer only.
        with_safety: The safety checker and its image processor are wanted too.

    Raises:
        FetchError: if it is not a pipeline the worker can run, lacks a file, or has pickled weights only.
    """
    layout = layout_in(index)
    _check_parts(index, layout)
    have = set(names)
    copies = [name for name in _LICENCES if name in have]
    weights: dict[str, tuple[str, ...]] = {}
    for folder, component in {**layout.parts, **(SAFETY if with_safety else {})}.items():
        found = [f"{folder}/{name}" for name in component.configs if f"{folder}/{name}" in have]
        if folder in SAFETY and not found:
            raise FetchError(f"it has no safety checker to keep: {folder}/{component.configs[0]} is missing")
        _check_configs(folder, component, found)
        copies += found
        if with_weights and component.weights:
            target = f"{folder}/{component.weights}.safetensors"
            weights[target] = _choose_weights(folder, component.weights, have)
    return Plan(tuple(copies), weights)


def clean_index(index: Mapping[str, Any], *, unet_channels: int, with_safety: bool = False) -> dict[str, Any]:
    """A `model_index.json` that names the kept components only, and the pipeline that fits the UNet."""
    layout = layout_in(index)
    kind = "StableDiffusionXL" if layout is STABLE_DIFFUSION_XL else "StableDiffusion"
    own: dict[str, Any]
    if layout is STABLE_DIFFUSION_XL:
        own = {_FORGETS: bool(index.get(_FORGETS, True))}
    else:
        own = {
            "requires_safety_checker": with_safety,
            **{folder: index[folder] if with_safety else [None, None] for folder in SAFETY},
        }
    return {
        "_class_name": f"{kind}{'Inpaint' if unet_channels == 9 else ''}Pipeline",
        **({"_diffusers_version": index["_diffusers_version"]} if "_diffusers_version" in index else {}),
        **own,
        **{folder: index[folder] for folder in layout.parts},
    }


def layout_in(index: Mapping[str, Any]) -> Layout:
    """The family of a model, by its index.

    Raises:
        FetchError: it is none that the worker can run.
    """
    pipeline = index.get("_class_name")
    layout = layout_of(pipeline)
    if layout is None:
        raise FetchError(f"this is a {pipeline}, which the worker cannot run; supported: {_SUPPORTED}")
    return layout


def _check_parts(index: Mapping[str, Any], layout: Layout) -> None:
    for folder, component in layout.parts.items():
        library, name = (*(index.get(folder) or (None, None)), None)[:2]
        if name is None:
            raise FetchError(f"{INDEX} names no {folder}")
        if library not in ("diffusers", "transformers"):
            raise FetchError(f"its {folder} is code of its own ({library}.{name}), which is not run")
        if component.classes and name not in component.classes:
            raise FetchError(
                f"its {folder} is a {name}, which the worker cannot run; supported: {_SUPPORTED}"
            )


def _check_configs(folder: str, component: Part, found: list[str]) -> None:
    if folder.startswith("tokenizer"):
        complete = f"{folder}/tokenizer.json" in found or {
            f"{folder}/vocab.json",
            f"{folder}/merges.txt",
        } <= set(found)
        wanted = f"{folder}/vocab.json and {folder}/merges.txt"
    else:
        complete = bool(found)
        wanted = f"{folder}/{component.configs[0]}"
    if not complete:
        raise FetchError(f"{wanted} is missing")


def _choose_weights(folder: str, base: str, have: set[str]) -> tuple[str, ...]:
    """The half precision file if there is one, else the full one; either may be in shards."""
    for middle in ("fp16", None):
        dotted = f".{middle}" if middle else ""
        whole = f"{folder}/{base}{dotted}.safetensors"
        if whole in have:
            return (whole,)
        # Both orders are in use: `model.fp16-00001-of-00002` and `model-00001-of-00002.fp16`.
        for pattern in (rf"{base}{dotted}-(\d+)-of-(\d+)", rf"{base}-(\d+)-of-(\d+){dotted}"):
            shards = _match_shards(rf"{folder}/{pattern}\.safetensors", have)
            if shards:
                return shards
    if any(name.startswith(f"{folder}/") and name.endswith(_PICKLES) for name in have):
        raise FetchError(
            f"its {folder} has pickled weights only, which can run code when they are read and are refused; "
            "use a revision or a conversion with safetensors"
        )
    raise FetchError(f"{folder}/{base}.safetensors is missing")


def _match_shards(pattern: str, have: set[str]) -> tuple[str, ...]:
    matches = sorted((m for m in (re.fullmatch(pattern, name) for name in have) if m), key=lambda m: m[0])
    if not matches:
        return ()
    count = int(matches[0][2])
    if [int(m[1]) for m in matches] != list(range(1, count + 1)):
        raise FetchError(f"{matches[0][0]} is one of {count} shards, of which some are missing")
    return tuple(m[0] for m in matches)
