"""Larger pictures: a second pass is what the same two calls of diffusers' pipelines draw, alone and among others."""

import asyncio
import base64
import io
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from sdworker.assets import AddOns, Kind
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.errors import UserError
from sdworker.larger import SecondPass, Upscalers, draw_twice, enlarge
from sdworker.request.declaration import Hires
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker
from tests.engine.conftest import Reference, engine, networks, reference  # noqa: F401

FIRST = Drawing(
    prompt="a red apple",
    negative_prompt="blue",
    width=64,
    height=64,
    steps=4,
    guidance=4.0,
    sampler="DPM++ 2M Karras",
    seeds=(7, 8),
)


def by_hand(reference: Reference, first: Drawing, seed: int, hires: Hires, mode: str) -> np.ndarray:  # noqa: F811
    """diffusers' text to image, then its image to image, each with a generator of that seed."""
    latents = reference.latents(first, seed)
    arguments: dict[str, Any] = {"image": interpolate(latents, scale_factor=2.0, mode=mode)}
    vae = reference._image.vae
    if mode == "lanczos":
        arguments = {}
    pipeline = reference._image
    from sdworker.engine.tables import make_scheduler
    from sdworker.samplers import PAIRS

    pipeline.scheduler = make_scheduler(PAIRS[first.sampler], reference.scheduler_config)
    pipeline.set_progress_bar_config(disable=True)
    del vae
    return pipeline(
        prompt=first.prompt,
        negative_prompt=first.negative_prompt,
        num_inference_steps=hires.steps or first.steps,
        strength=hires.strength,
        guidance_scale=first.guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
        **arguments,
    ).images[0]
