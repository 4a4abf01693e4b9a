"""What a led drawing weighs in the choice of who shares a step: its nets' forwards too."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdworker.engine.controls import Control
from sdworker.engine.controls.files import load_control_net
from sdworker.engine.costs import multiplications
from sdworker.engine.drawing import Standing
from sdworker.engine.generation import Generation, table_for
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.networks.model import Model
from sdworker.engine.tables import SamplerTables
from tests.engine.conftest import CPU, RecordingModel
from tests.engine.families.conftest import xl, xl_folder
from tests.engine.test_equals_diffusers import base

from .conftest import random_net

__all__ = ["xl", "xl_folder"]


def counted(network: Any, model: Model, **more: Any) -> int:
    """Multiplications and additions of one row's forward at the model's own size."""
    told = model.example_input(1)
    added = dict(told.conditioning.added) or None
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(
            told.latents,
            told.timesteps,
            encoder_hidden_states=told.conditioning.text,
            added_cond_kwargs=added,
            return_dict=False,
            **more,
        )
    return counter.get_total_flops()


def check_proportion(model: Model, folder: Path, widths: tuple[int, ...]) -> None:
    module = random_net(model._unet, 0, conditioning_embedding_out_channels=widths)
    module.save_pretrained(folder)
    net = load_control_net(folder, name="edges", model=model)
    module.controlnet_cond_embedding = torch.nn.Identity()
    height, width = model.default_shape
    hint = torch.zeros(1, net.hint_channels, height, width)
    share = counted(module, model, controlnet_cond=hint) / counted(model._unet, model)
    assert net.multiplications / model.multiplications == pytest.approx(share, rel=0.05)


def test_a_nets_share_of_the_unets_forward_is_what_is_counted_when_both_run(
    networks: RecordingModel, tmp_path: Path
) -> None:
    check_proportion(networks, tmp_path, (4, 8, 8, 8))


def test_of_xl_too(xl: StableDiffusionXL, tmp_path: Path) -> None:
    scale = xl.autoencoder.pixels_per_latent
    check_proportion(xl, tmp_path, {2: (4, 8), 4: (4, 8, 8), 8: (4, 8, 8, 8)}[scale])


def test_each_level_has_a_quarter_of_the_places_of_the_one_above() -> None:
    shapes = {
        "conv_in.weight": (8, 1),
        "conv_in.bias": (8,),  # added, not multiplied
        "time_embedding.linear_1.weight": (99, 99),  # once a row
        "down_blocks.0.resnets.0.conv1.weight": (16, 1),
        "down_blocks.0.downsamplers.0.conv.weight": (16, 1),
        "mid_block.resnets.0.conv1.weight": (16, 1),
        "up_blocks.0.resnets.0.conv1.weight": (16, 1),
        "up_blocks.0.upsamplers.0.conv.weight": (16, 1),
        "up_blocks.1.attentions.0.attn2.to_k.weight": (99, 99),  # over the text
        "controlnet_down_blocks.0.weight": (4, 1),
        "controlnet_down_blocks.1.weight": (4, 1),
        "controlnet_down_blocks.2.weight": (4, 1),
        "controlnet_down_blocks.3.weight": (4, 1),
    }
    weights = [(name, torch.empty(shape, device="meta")) for name, shape in shapes.items()]
    assert multiplications(weights, levels=2) == 8 + 16 + 4 + 4 + 4 + 16 + 4 + 4 + 1 + 1


@pytest.fixture
def generation(networks: RecordingModel, edges: Control, depth: Control) -> Generation:
    controls = (edges, replace(depth, start=0.4, end=0.8, guess_mode=True))
    drawing = base(sampler="Euler", steps=5, seeds=(1, 2), controls=controls)
    table = table_for(drawing, SamplerTables(networks.scheduler_config, CPU), inpaints_natively=False)
    return Generation(drawing, table, networks)


def told(generation: Generation) -> Sequence[tuple[int, bool, float, float]]:
    return [(one.rows, one.now, one.evaluations, one.evaluations_left) for one in generation.led]


def test_a_drawing_says_which_rows_are_led_and_how_often(generation: Generation) -> None:
    assert told(generation) == [(4, True, 5, 5), (2, False, 2, 2)]
    assert generation.led[0].net != generation.led[1].net
    generation.evaluation = 2
    assert told(generation) == [(4, True, 5, 3), (2, True, 2, 2)]
    generation.evaluation = 4
    assert told(generation) == [(4, True, 5, 1), (2, False, 2, 0)]
    generation.evaluation = 5
    assert told(generation) == [(4, False, 5, 0), (2, False, 2, 0)]


def test_a_second_pass_to_come_is_led_in_proportion(generation: Generation) -> None:
    generation.standing = Standing(to_come=10.0)
    assert told(generation) == [(4, True, 15, 15), (2, False, 6, 6)]
