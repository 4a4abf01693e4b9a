"""What ControlNets and previews add to a step.

A forward of eight rows of which two are led, against one of eight plain rows, in turn; beside it what their
arithmetic alone would be. And a preview, which one step in a second makes at most, against a step of two rows and
of eight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from bench.common import load_here
from bench.report import spread, table
from sdworker.engine.controls import ControlNet
from sdworker.engine.controls.rows import Lead, RowControls
from sdworker.engine.device import time_call
from sdworker.engine.networks.model import Model
from sdworker.engine.unet_input import UNetInput

__all__ = ["flops_of_a_led_row", "measure", "report", "write_net"]

_ROWS, _LED = 8, 2
_REPEATS = 5
_COLUMNS = 50  # of a history, as a 25-step drawing's


def write_net(model: Path, folder: Path) -> None:
    """A ControlNet for that model, as one begins its training: as slow as any, of no effect."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=_widths(unet.config)).save_pretrained(
        folder
    )


def _widths(config: Any) -> tuple[int, ...]:
    """Of the hint's embedding: Stable Diffusion's, or in proportion."""
    return tuple(max(4, width * config.block_out_channels[0] // 320) for width in (16, 32, 96, 256))


def flops_of_a_led_row(model: Path, latent_width: int, latent_height: int) -> float:
    """Of a UNet's and its ControlNet's forward, over the UNet's alone."""
    config = UNet2DConditionModel.load_config(model / "unet")
    with torch.device("meta"), torch.inference_mode():
        unet = UNet2DConditionModel.from_config(config)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        net.controlnet_cond_embedding = torch.nn.Identity()
        latents = torch.empty(1, unet.config.in_channels, latent_height, latent_width)
        text = torch.empty(1, 77, unet.config.cross_attention_dim)
        hint = torch.empty(1, unet.config.block_out_channels[0], latent_height, latent_width)
        counted = []
        for call in (
            lambda: unet(latents, torch.empty(1), encoder_hidden_states=text, return_dict=False),
            lambda: net(latents, torch.empty(1), text, controlnet_cond=hint, return_dict=False),
        ):
            with FlopCounterMode(display=False) as counter:
                call()
            counted.append(counter.get_total_flops())
    return 1 + counted[1] / counted[0]


@dataclass
class _Round:
    """Milliseconds."""

    plain: float
    led: float
    preview: float
    two_rows: float


def measure(folder: Path, net_folder: Path, rounds: int) -> dict[str, Any]:
    """The figures, as they are written."""
    model = load_here(folder)
    net = ControlNet(ControlNetModel.from_pretrained(net_folder, dtype=model.dtype).eval(), "edges")
    net.place(model.device, channels_last=True)
    with torch.inference_mode():
        plain, two = model.example_input(_ROWS), model.example_input(2)
        led = _led(plain, net, model)
        preview = _preview(model)

        def milliseconds(call: Callable[[], object]) -> float:
            return min(time_call(model.device, call, _REPEATS)) * 1000

        measured = [
            _Round(
                milliseconds(lambda: model.denoise(plain)),
                milliseconds(lambda: model.denoise(led)),
                milliseconds(preview),
                milliseconds(lambda: model.denoise(two)),
            )
            for _ in range(rounds)
        ]
    height, width = model.default_shape
    return {
        "plain_ms": spread([one.plain for one in measured]),
        "two_of_eight_led_ms": spread([one.led for one in measured]),
        "led_over_plain": spread([one.led / one.plain for one in measured]),
        "flops_led_over_plain": 1 + (flops_of_a_led_row(folder, width, height) - 1) * _LED / _ROWS,
        "preview_ms": spread([one.preview for one in measured]),
        "preview_over_a_step_of_two_rows": spread([one.preview / one.two_rows for one in measured]),
        "preview_over_a_step_of_eight_rows": spread([one.preview / one.plain for one in measured]),
    }


def report(figures: dict[str, Any]) -> None:
    """Print the figures of `measure`."""
    led, preview = figures["led_over_plain"], figures["preview_over_a_step_of_two_rows"]
    table(
        "controls: what they and previews add to a step",
        (
            "eight rows ms",
            "two of them led ms",
            "led / plain",
            "by arithmetic",
            "preview ms",
            "of two rows' step",
        ),
        [
            (
                f"{figures['plain_ms']['median']:.1f}",
                f"{figures['two_of_eight_led_ms']['median']:.1f}",
                f"{led['median']:.2f} ({led['min']:.2f} … {led['max']:.2f})",
                f"{figures['flops_led_over_plain']:.2f}",
                f"{figures['preview_ms']['median']:.2f}",
                f"{100 * preview['median']:.1f} %",
            )
        ],
    )


def _led(inputs: UNetInput, net: ControlNet, model: Model) -> UNetInput:
    """The same with its first rows led, each by a hint of its own."""
    scale = model.autoencoder.pixels_per_latent
    height, width = inputs.shape
    strengths = torch.ones(net.residuals, device=model.device)
    leads = []
    for row in range(_LED):
        hint = np.zeros((height * scale, width * scale, 3), np.uint8)
        hint[:, :: 8 + row] = 255
        leads.append((row, Lead(net, net.embed(hint), strengths)))
    told = replace(inputs.conditioning, controls=RowControls(inputs.rows, tuple(leads)))
    return replace(inputs, conditioning=told)


def _preview(model: Model) -> Callable[[], object]:
    """What a generation does for a preview, until its pixels are there."""
    height, width = model.default_shape
    shape = (1, model.autoencoder.latent_channels, height, width)
    history = torch.randn(_COLUMNS, *shape, device=model.device)
    coefficients = torch.randn(_COLUMNS, device=model.device)
    previewer = model.previewer()

    def preview() -> object:
        told = (coefficients @ history.reshape(_COLUMNS, -1)).view(shape)
        return previewer.picture(previewer.clean(told, history[0], 500.0)).pixels()

    return preview
