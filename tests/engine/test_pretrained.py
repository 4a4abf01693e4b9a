"""What loads in threads of its own builds its networks one at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from sdworker.engine.controls.files import load_control_net
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.pretrained import BUILDING
from sdworker.engine.upscaling import Upscaler
from tests.engine.conftest import CPU, RecordingModel, load
from tests.engine.controls.conftest import random_net

UPSCALER = Path(__file__).resolve().parents[2] / "models" / "upscalers" / "emoji-x2.safetensors"


@pytest.fixture
def load_any(model: Path, networks: RecordingModel, tmp_path: Path) -> dict[str, Callable[[], object]]:
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    random_net(unet, 0).save_pretrained(tmp_path / "net")
    return {
        "model": lambda: load(StableDiffusion, model),
        "ControlNet": lambda: load_control_net(tmp_path / "net", name="net", model=networks),
        "upscaler": lambda: Upscaler.load(UPSCALER, "x2", device=CPU),
    }


@pytest.mark.parametrize("kind", ["model", "ControlNet", "upscaler"])
def test_nothing_else_is_built_while_a_network_is(
    kind: str, load_any: dict[str, Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[bool] = []
    build = nn.Conv2d.__init__

    def watched(self: nn.Conv2d, *given: Any, **named: Any) -> None:
        alone.append(BUILDING.locked())
        build(self, *given, **named)

    monkeypatch.setattr(torch.nn.Conv2d, "__init__", watched)
    load_any[kind]()
    assert alone
    assert all(alone)
    assert not BUILDING.locked()
