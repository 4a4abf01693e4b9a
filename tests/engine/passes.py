"""What a user of diffusers does for a second pass: a call, something in between, and another call."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from sdworker.engine.drawing import Drawing
from sdworker.larger import SecondPass

from .conftest import run_pipeline

__all__ = ["assert_same", "drawn_again"]


def drawn_again(
    pipeline: Any,
    scheduler_config: Mapping[str, Any],
    first: Drawing,
    again: SecondPass,
    *,
    seed: int,
    latents: torch.Tensor,
    **more: Any,
) -> np.ndarray:
    """What the second call draws, uint8 [h, w, 3].

    Args:
        pipeline: diffusers' for image to image, or for inpainting where the second pass has a mask.
        latents: [1, 4, h, w] of the first call.
        more: what the pipeline is given beside that.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    image: Any
    if again.hires.upscaler == "latent":
        width, height = (side // pipeline.vae_scale_factor for side in again.size)
        image = interpolate(latents, size=(height, width), mode="bilinear")
        if again.mask is not None:
            image, masked = _latents_around(pipeline, again, image, generator)
            more["masked_image_latents"] = masked
    else:
        with torch.no_grad():
            decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        (image,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
        if again.upscaler is not None:
            pixels = torch.from_numpy(np.asarray(image).copy()).float().div(255).permute(2, 0, 1)[None]
            large = again.upscaler._described(pixels)[0]
            image = Image.fromarray(large.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        image = image.resize(again.size, Image.Resampling.LANCZOS)
        if again.mask is not None and again.image is not None:
            hard = Image.fromarray(np.where(again.mask >= 128, 255, 0).astype(np.uint8))
            image = Image.composite(image, Image.fromarray(again.image), hard)
    if again.mask is not None:
        width, height = again.size
        more |= {"mask_image": Image.fromarray(again.mask), "width": width, "height": height}
    drawn = run_pipeline(
        pipeline,
        scheduler_config,
        first,
        seed,
        image=image,
        num_inference_steps=again.hires.steps or first.steps,
        strength=again.hires.strength,
        generator=generator,
        output_type="pil",
        **more,
    )
    return np.asarray(drawn[0])


def _latents_around(
    pipeline: Any, again: SecondPass, enlarged: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture's latents around those of the first pass; and the masked picture's, for a UNet that wants it."""
    assert again.image is not None
    assert again.mask is not None
    vae = pipeline.vae
    pixels = torch.from_numpy(again.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    repainted = torch.from_numpy(again.mask >= 128)[None, None].float()

    def encoded(given: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            latents: torch.Tensor = (
                vae.encode(given).latent_dist.sample(generator) * vae.config.scaling_factor
            )
        return latents

    kept = encoded(pixels)
    masked = encoded(pixels * (1 - repainted)) if pipeline.unet.config.in_channels == 9 else kept
    small = interpolate(repainted, size=enlarged.shape[2:])
    return small * enlarged + (1 - small) * kept, masked


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """To one level of 255."""
    assert ours.std() > 1, "an image without contrast proves nothing"
    assert np.abs(ours.astype(int) - theirs).max() <= 1
