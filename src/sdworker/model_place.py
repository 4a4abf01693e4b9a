"""Where the model is and what its files say of it, without loading it or what loads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "BAKED_MODEL",
    "EMBEDDED_MODEL",
    "model_folder",
    "own_defaults",
    "own_size",
    "pixels_per_latent",
    "trained_size",
]

BAKED_MODEL = Path("/opt/model")
"""Where the Dockerfile puts the model."""

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "emoji"
"""The small model in the repository."""


def model_folder(named: Path | None) -> Path:
    """The folder that was named, else the image's baked model, else the embedded one, there or not."""
    return named or (BAKED_MODEL if BAKED_MODEL.is_dir() else EMBEDDED_MODEL)


def own_size(folder: Path) -> tuple[int, int]:
    """Width and height, in pixels, of the pictures that a model was trained on.

    Raises:
        OSError, ValueError, KeyError: its configuration is missing or broken.
    """
    unet, vae = (json.loads((folder / part / "config.json").read_text("utf-8")) for part in ("unet", "vae"))
    return trained_size(unet, vae)


def trained_size(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """The same, from the two networks' configurations."""
    sample = unet["sample_size"]
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return width * pixels_per_latent(vae), height * pixels_per_latent(vae)


def own_defaults(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """What a job gets of a model that it does not ask, field by field, where the model was made for it.

    Distilled models draw in a few steps and without guidance; no file of theirs says so, but their noise schedule
    ends where nothing else does. Turbo's sampler is ancestral and takes one step. Lightning's is not, and its
    models are for two, four or eight, which nothing tells apart: four.

    Args:
        scheduler: the contents of `scheduler/scheduler_config.json`.
    """
    distilled = _DISTILLED.get(str(scheduler.get("_class_name")))
    if (
        distilled is None
        or scheduler.get("timestep_spacing") != "trailing"
        or scheduler.get("prediction_type", "epsilon") != "epsilon"
        or scheduler.get("rescale_betas_zero_snr")
    ):
        return {}
    sampler, steps = distilled
    return {"scheduler": sampler, "num_inference_steps": steps, "guidance_scale": 0.0}


_DISTILLED = {"EulerAncestralDiscreteScheduler": ("Euler a", 1), "EulerDiscreteScheduler": ("Euler", 4)}


def pixels_per_latent(vae: Mapping[str, Any]) -> int:
    """Pixels along one side of a latent, from the VAE's configuration."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))
