"""ControlNets lead Stable Diffusion XL too, and what is for one family does not pass for the other's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sdworker.engine.controls import Control, ControlError
from sdworker.engine.controls.files import load_control_net
from sdworker.engine.engine import Engine
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.tables import make_scheduler
from sdworker.samplers import PAIRS
from tests.engine.conftest import RecordingModel
from tests.engine.controls.conftest import random_net

from .conftest import XLReference
from .test_stable_diffusion_xl import CLOSE, apart, base


@pytest.fixture
def folder(xl: StableDiffusionXL, tmp_path: Path) -> Path:
    scale = xl.autoencoder.pixels_per_latent
    widths = {2: (4, 8), 4: (4, 8, 8), 8: (4, 8, 8, 8)}[scale]
    random_net(xl._unet, 0, conditioning_embedding_out_channels=widths).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("changes", [{}, {"guess_mode": True, "scale": 0.7}], ids=str)
async def test_it_draws_what_diffusers_draws(
    xl: StableDiffusionXL,
    xl_engine: Engine,
    xl_reference: XLReference,
    folder: Path,
    picture: np.ndarray,
    changes: dict[str, Any],
) -> None:
    net = load_control_net(folder, name="xl", model=xl)
    control = replace(Control(net=net, hint=picture), **changes)
    drawing = base(controls=(control,))
    (ours,) = await xl_engine.draw(drawing)
    pipeline = diffusers.StableDiffusionXLControlNetPipeline(
        **xl_reference.pipeline.components,
        controlnet=diffusers.ControlNetModel.from_pretrained(folder),
        add_watermarker=False,
    )
    pipeline.scheduler = make_scheduler(PAIRS[drawing.sampler], xl_reference.scheduler_config)
    pipeline.set_progress_bar_config(disable=True)
    theirs: np.ndarray = pipeline(
        prompt=drawing.prompt,
        negative_prompt=drawing.negative_prompt,
        image=Image.fromarray(picture),
        width=drawing.width,
        height=drawing.height,
        num_inference_steps=drawing.steps,
        guidance_scale=drawing.guidance,
        generator=torch.Generator("cpu").manual_seed(drawing.seeds[0]),
        controlnet_conditioning_scale=control.scale,
        guess_mode=control.guess_mode,
        output_type="np",
    ).images[0]
    assert apart(ours, (theirs * 255).round().astype(np.uint8)) <= CLOSE
    plain = await xl_engine.draw(base())
    assert apart(ours, plain[0]) > CLOSE


def test_a_net_of_one_family_is_refused_by_the_other(
    xl: StableDiffusionXL, networks: RecordingModel, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ControlError, match="for another kind of model: it is told text_time beside the text"):
        load_control_net(folder, name="xl", model=networks)
    random_net(networks._unet, 0).save_pretrained(tmp_path / "sd")
    with pytest.raises(ControlError, match="for another kind of model: it is told nothing beside the text"):
        load_control_net(tmp_path / "sd", name="sd", model=xl)
