"""A real engine on the embedded model, and diffusers' own pipelines on the same weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.autoencoder import Autoencoder, ComingImage
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.tables import make_scheduler
from sdworker.samplers import PAIRS

CPU = torch.device("cpu")

M = TypeVar("M", bound=Model)


def load(kind: type[M], folder: Path, device: torch.device = CPU, **options: Any) -> M:
    """A model as `load_model` loads it, of a class that a test made."""
    return kind.load(check_model_folder(folder), Loading(device, **{"dtype": torch.float32, **options}))


class RecordingAutoencoder(Autoencoder):
    """The real one; remembers the finished latents that each decoded image came from."""

    def __init__(self, vae: Any, **placed: Any) -> None:
        super().__init__(vae, **placed)
        self.decoded: list[tuple[np.ndarray, torch.Tensor]] = []

    def decode(self, latents: torch.Tensor) -> ComingImage:
        coming = super().decode(latents)
        self.decoded.append((coming.pixels(), latents.clone()))
        return coming

    def latents_of(self, image: np.ndarray) -> torch.Tensor:
        """The latents [1, 4, h, w] of an image that `decode` returned."""
        return next(latents for decoded, latents in self.decoded if np.shares_memory(decoded, image))


class RecordingModel(StableDiffusion):
    """The real model with an autoencoder that remembers."""

    autoencoder: RecordingAutoencoder

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.autoencoder = RecordingAutoencoder(parts["vae"], device=self.device, dtype=self.dtype)

    def latents_of(self, image: np.ndarray) -> torch.Tensor:
        """The latents [1, 4, h, w] of an image that it decoded."""
        return self.autoencoder.latents_of(image)


def run_pipeline(
    pipeline: Any, scheduler_config: Mapping[str, Any], drawing: Drawing, seed: int, **arguments: Any
) -> Any:
    """What one of diffusers' pipelines draws of one image of a drawing: its `images`, latents where `arguments` do
    not say otherwise."""
    pipeline.scheduler = make_scheduler(PAIRS[drawing.sampler], scheduler_config)
    pipeline.set_progress_bar_config(disable=True)
    usual: dict[str, Any] = {
        "prompt": drawing.prompt,
        "negative_prompt": drawing.negative_prompt,
        "num_inference_steps": drawing.steps,
        "guidance_scale": drawing.guidance,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "latent",
    }
    return pipeline(**usual | arguments).images


class Reference:
    """diffusers' pipelines, called as a user would: one image, one generator."""

    def __init__(self, model: Path, unet: Any = None) -> None:
        parts: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
        if unet is not None:
            parts["unet"] = unet
        base = diffusers.StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, **parts)
        self.scheduler_config = base.scheduler.config
        components = base.components
        self._text = base
        self._image = diffusers.StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False)
        self._mask = diffusers.StableDiffusionInpaintPipeline(**components, requires_safety_checker=False)

    def latents(self, drawing: Drawing, seed: int) -> torch.Tensor:
        """The finished latents [1, 4, h, w] of one image of a drawing."""
        pipeline, arguments = self._call(drawing)
        latents: torch.Tensor = run_pipeline(pipeline, self.scheduler_config, drawing, seed, **arguments)
        return latents

    def with_embeddings(
        self, drawing: Drawing, prompted: torch.Tensor, plain: torch.Tensor, *, seed: int
    ) -> torch.Tensor:
        """The same of a drawing without picture whose texts, [1, tokens, d] each, are already encoded."""
        latents: torch.Tensor = run_pipeline(
            self._text,
            self.scheduler_config,
            drawing,
            seed,
            prompt=None,
            negative_prompt=None,
            prompt_embeds=prompted,
            negative_prompt_embeds=plain,
            width=drawing.width,
            height=drawing.height,
        )
        return latents

    def _call(self, drawing: Drawing) -> tuple[Any, dict[str, Any]]:
        size = {"width": drawing.width, "height": drawing.height}
        if drawing.image is None:
            return self._text, size
        picture = {"image": Image.fromarray(drawing.image), "strength": drawing.strength}
        if drawing.mask is None:
            return self._image, picture
        return self._mask, {**picture, **size, "mask_image": Image.fromarray(drawing.mask)}


@pytest.fixture(scope="session")
def networks(model: Path) -> RecordingModel:
    return load(RecordingModel, model)


@pytest.fixture(scope="session")
def engine(networks: RecordingModel) -> Iterator[Engine]:
    engine = Engine(networks, max_rows=16)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    return Reference(model)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """uint8 [64, 64, 3]: a disc on a gradient."""
    y, x = np.mgrid[0:64, 0:64]
    pixels = np.stack([x * 4, y * 4, 255 - x * 2], axis=-1).astype(np.uint8)
    pixels[(x - 32) ** 2 + (y - 28) ** 2 < 200] = (250, 200, 30)
    return pixels


@pytest.fixture(scope="session")
def mask() -> np.ndarray:
    """uint8 [64, 64]: the right half, with a soft edge."""
    ramp = np.clip((np.arange(64) - 28) * 32, 0, 255).astype(np.uint8)
    return np.tile(ramp, (64, 1))


@pytest.fixture(params=["text", "image", "mask"])
def mode(request: pytest.FixtureRequest, picture: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """What a drawing has for text to image, image to image and inpainting."""
    return {
        "text": {},
        "image": {"image": picture, "strength": 0.7},
        "mask": {"image": picture, "mask": mask, "strength": 0.7},
    }[request.param]
