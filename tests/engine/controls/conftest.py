"""ControlNets that do something, made at random for the embedded model, and diffusers' own pipelines with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from sdworker.engine.controls import Control, ControlNet
from sdworker.engine.controls.files import load_control_net
from sdworker.engine.drawing import Drawing
from tests.engine.conftest import RecordingModel, run_pipeline

NAMES = ("edges", "depth", "pose")


def random_net(unet: Any, seed: int, **changes: Any) -> ControlNetModel:
    """A ControlNet for that UNet whose last layers are not zero, as those of an untrained one are."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    if changes:
        net = ControlNetModel.from_config({**net.config, **changes})
    last = [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]
    for layer in last:
        torch.nn.init.normal_(layer.weight, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def nets_folder(networks: RecordingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet in diffusers' layout by each of NAMES."""
    folder = tmp_path_factory.mktemp("controlnets")
    for seed, name in enumerate(NAMES):
        random_net(networks._unet, seed).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def nets(networks: RecordingModel, nets_folder: Path) -> dict[str, ControlNet]:
    return {name: load_control_net(nets_folder / name, name=name, model=networks) for name in NAMES}


@pytest.fixture(scope="session")
def hints() -> list[np.ndarray]:
    """uint8 [64, 64, 3], white lines on black."""
    first, second, third = np.zeros((3, 64, 64, 3), np.uint8)
    first[10:50, 20:22] = first[30:32, 5:60] = 255
    second[::8] = 255
    third[:, :, 1] = np.linspace(0, 255, 64, dtype=np.uint8)
    return [first, second, third]


class ControlledReference:
    """diffusers' ControlNet pipelines, called as a user would: one image, one generator."""

    def __init__(self, model: Path, nets_folder: Path, unet: Any = None) -> None:
        parts: dict[str, Any] = {} if unet is None else {"unet": unet}
        base = diffusers.StableDiffusionPipeline.from_pretrained(
            model, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, **parts
        )
        self._components = base.components
        self._config = base.scheduler.config
        self.nets = {path.name: ControlNetModel.from_pretrained(path) for path in nets_folder.iterdir()}

    def latents(self, drawing: Drawing, seed: int) -> torch.Tensor:
        """The finished latents [1, 4, h, w] of one image of a drawing with controls."""
        controls = drawing.controls
        hints: Sequence[Any] = [Image.fromarray(control.hint) for control in controls]
        nets = [self.nets[control.net.name] for control in controls]
        one = len(nets) == 1

        def each(values: list[Any]) -> Any:
            return values[0] if one else values

        arguments: dict[str, Any] = {
            "controlnet_conditioning_scale": each([control.scale for control in controls]),
            "control_guidance_start": each([control.start for control in controls]),
            "control_guidance_end": each([control.end for control in controls]),
            "guess_mode": controls[0].guess_mode,
            "width": drawing.width,
            "height": drawing.height,
        }
        kind: Any = diffusers.StableDiffusionControlNetPipeline
        if drawing.image is None:
            arguments["image"] = each(list(hints))
        else:
            kind = diffusers.StableDiffusionControlNetImg2ImgPipeline
            arguments |= {"image": Image.fromarray(drawing.image), "control_image": each(list(hints))}
            arguments["strength"] = drawing.strength
        if drawing.mask is not None:
            kind = diffusers.StableDiffusionControlNetInpaintPipeline
            arguments["mask_image"] = Image.fromarray(drawing.mask)
        pipeline = kind(**self._components, controlnet=each(nets), requires_safety_checker=False)
        latents: torch.Tensor = run_pipeline(pipeline, self._config, drawing, seed, **arguments)
        return latents


@pytest.fixture(scope="session")
def controlled(model: Path, nets_folder: Path) -> ControlledReference:
    return ControlledReference(model, nets_folder)


@pytest.fixture
def edges(nets: dict[str, ControlNet], hints: list[np.ndarray]) -> Control:
    return Control(net=nets["edges"], hint=hints[0])


@pytest.fixture
def depth(nets: dict[str, ControlNet], hints: list[np.ndarray]) -> Control:
    return Control(net=nets["depth"], hint=hints[1], scale=0.6)
