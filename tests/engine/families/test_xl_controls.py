"""ControlNets lead Stable Diffusion XL too, and what is for one family does not pass for the other's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

from sdworker.engine.controls import Control, ControlError
from sdworker.engine.controls.files import load_control_net
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from tests.engine.conftest import RecordingModel, run_pipeline
from tests.engine.controls.conftest import random_net

from .conftest import XLReference
from .test_stable_diffusion_xl import CLOSE, apart, base


@pytest.fixture
def folder(xl: StableDiffusionXL, tmp_path: Path) -> Path:
    scale = xl.autoencoder.pixels_per_latent
    widths = {2: (4, 8), 4: (4, 8, 8), 8: (4, 8, 8, 8)}[scale]
    random_net(xl._unet, 0, conditioning_embedding_out_channels=widths).save_pretrained(tmp_path)
    return tmp_path


CHANGES: list[dict[str, Any]] = [{}, {"guess_mode": True, "scale": 0.7}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
async def test_it_draws_in_every_mode_what_diffusers_draws(
    xl: StableDiffusionXL,
    xl_engine: Engine,
    xl_reference: XLReference,
    folder: Path,
    picture: np.ndarray,
    mode: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    net = load_control_net(folder, name="xl", model=xl)
    control = replace(Control(net=net, hint=np.ascontiguousarray(picture[::-1])), **changes)
    drawing = base(controls=(control,), **mode)
    (ours,) = await xl_engine.draw(drawing)
    assert apart(ours, _by_diffusers(xl_reference, drawing, control, folder)) <= CLOSE
    plain = await xl_engine.draw(base(**mode))
    assert apart(ours, plain[0]) > CLOSE


def _by_diffusers(reference: XLReference, drawing: Drawing, control: Control, folder: Path) -> np.ndarray:
    """The image as the pipeline for its mode draws it, uint8 [h, w, 3]."""
    hint = Image.fromarray(control.hint)
    size = {"width": drawing.width, "height": drawing.height}
    kind, arguments = diffusers.StableDiffusionXLControlNetPipeline, {"image": hint, **size}
    if drawing.image is not None:
        start = {"image": Image.fromarray(drawing.image), "strength": drawing.strength, "control_image": hint}
        kind, arguments = diffusers.StableDiffusionXLControlNetImg2ImgPipeline, {**start, **size}
        if drawing.mask is not None:
            arguments["mask_image"] = Image.fromarray(drawing.mask)
            kind = diffusers.StableDiffusionXLControlNetInpaintPipeline
    pipeline = kind(
        **reference.pipeline.components,
        controlnet=diffusers.ControlNetModel.from_pretrained(folder),
        add_watermarker=False,
    )
    images: Any = run_pipeline(
        pipeline,
        reference.scheduler_config,
        drawing,
        drawing.seeds[0],
        controlnet_conditioning_scale=control.scale,
        guess_mode=control.guess_mode,
        output_type="np",
        **arguments,
    )
    pixels: np.ndarray = (images[0] * 255).round().astype(np.uint8)
    return pixels


def test_a_net_of_one_family_is_refused_by_the_other(
    xl: StableDiffusionXL, networks: RecordingModel, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ControlError, match=r"for another kind of model: it is told text_time .*as Stable Diffusion XL's"
    ):
        load_control_net(folder, name="xl", model=networks)
    random_net(networks._unet, 0).save_pretrained(tmp_path / "sd")
    with pytest.raises(ControlError, match="for another kind of model: it is told nothing beside the text"):
        load_control_net(tmp_path / "sd", name="sd", model=xl)
