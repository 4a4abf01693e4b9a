"""Tiny models of the families, of random weights, and diffusers' own pipelines on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from bench.random_model import TINY_SDXL, write_random_model
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from tests.engine.conftest import load, run_pipeline


class XLReference:
    """diffusers' pipelines of Stable Diffusion XL, called as a user would: one image, one generator."""

    def __init__(self, model: Path, **parts: Any) -> None:
        base = diffusers.StableDiffusionXLPipeline.from_pretrained(
            model, dtype=torch.float32, add_watermarker=False, **parts
        )
        self.scheduler_config = base.scheduler.config
        self.pipeline = base
        shared = {**base.components, "add_watermarker": False}
        self._image = diffusers.StableDiffusionXLImg2ImgPipeline(**shared)
        self._mask = diffusers.StableDiffusionXLInpaintPipeline(**shared)

    def image(self, drawing: Drawing, seed: int, **changes: Any) -> np.ndarray:
        """One image of a drawing, uint8 [h, w, 3]."""
        size: dict[str, Any] = {"width": drawing.width, "height": drawing.height}
        pipeline, arguments = self.pipeline, size
        if drawing.image is not None:
            picture = {"image": Image.fromarray(drawing.image), "strength": drawing.strength}
            pipeline, arguments = self._image, picture
            if drawing.mask is not None:
                arguments = {**picture, **size, "mask_image": Image.fromarray(drawing.mask)}
                pipeline = self._mask
        arguments |= {"negative_prompt": drawing.negative_prompt or None, "output_type": "np"} | changes
        pixels: np.ndarray = run_pipeline(pipeline, self.scheduler_config, drawing, seed, **arguments)[0]
        return (pixels * 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("models") / "tiny-xl"
    write_random_model(folder, TINY_SDXL)
    return folder


@pytest.fixture(scope="session")
def xl(xl_folder: Path) -> StableDiffusionXL:
    return load(StableDiffusionXL, xl_folder)


@pytest.fixture(scope="session")
def xl_engine(xl: StableDiffusionXL) -> Iterator[Engine]:
    engine = Engine(xl, max_rows=16)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def xl_reference(xl_folder: Path) -> XLReference:
    return XLReference(xl_folder)
