"""A drawing that ControlNets lead is what diffusers' ControlNet pipelines draw, alone and among any others."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from sdworker.engine.controls import Control, ControlNet
from sdworker.engine.controls.files import load_control_net
from sdworker.engine.controls.rows import Residuals
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.unet_input import UNetInput
from tests.engine.conftest import RecordingModel, Reference, load
from tests.engine.test_equals_diffusers import TOLERANCE, base, difference, with_unet

from .conftest import ControlledReference, random_net

LEVEL = 1.0


async def compare(engine: Engine, reference: ControlledReference | Reference, *drawings: Drawing) -> None:
    """Draw them together, and hold every image against diffusers'."""
    model = engine.model
    assert isinstance(model, RecordingModel)
    drawn = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    for drawing, images in zip(drawings, drawn, strict=True):
        for image, seed in zip(images, drawing.seeds, strict=True):
            theirs = reference.latents(drawing, seed)
            assert difference(model.latents_of(image), theirs) < TOLERANCE, (drawing.sampler, seed)
            decoded = model.autoencoder.decode(theirs).pixels()
            assert np.abs(decoded.astype(int) - image).max() <= LEVEL


def test_the_nets_of_these_tests_matter(nets: dict[str, ControlNet], networks: RecordingModel) -> None:
    inputs = networks.example_input(1)
    hint = nets["edges"].embed(np.full((128, 128, 3), 255, np.uint8))
    said = nets["edges"](inputs.latents, inputs.timesteps, inputs.conditioning.text, {}, hint)
    plain = networks.denoise(inputs)
    led = networks.forward(
        replace(inputs, conditioning=replace(inputs.conditioning, controls=Residuals(tuple(said))))
    )
    assert difference(led, plain) > 0.02


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a", "UniPC"])
async def test_in_every_mode_it_draws_what_diffusers_draws(
    engine: Engine, controlled: ControlledReference, mode: dict[str, Any], edges: Control, sampler: str
) -> None:
    await compare(engine, controlled, base(sampler=sampler, controls=(edges,), **mode))


@pytest.mark.parametrize("sampler", ["Heun", "DPM2 a", "PNDM", "DPM++ SDE"])
async def test_an_interval_counts_the_evaluations_of_any_sampler(
    engine: Engine, controlled: ControlledReference, edges: Control, sampler: str
) -> None:
    part = replace(edges, start=0.25, end=0.7)
    await compare(engine, controlled, base(sampler=sampler, controls=(part,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 0.0},
        {"scale": 1.7},
        {"start": 0.5},
        {"end": 0.5},
        {"start": 0.3, "end": 0.31},
        {"start": 0.2, "end": 0.4},
        {"guess_mode": True},
        {"guess_mode": True, "scale": 0.5, "end": 0.8},
    ],
    ids=str,
)
async def test_scales_intervals_and_guess_mode_are_diffusers(
    engine: Engine, controlled: ControlledReference, edges: Control, changes: dict[str, Any]
) -> None:
    await compare(engine, controlled, base(controls=(replace(edges, **changes),)))


async def test_with_a_picture_or_a_mask_they_are_too(
    engine: Engine, controlled: ControlledReference, mode: dict[str, Any], edges: Control
) -> None:
    changed = replace(edges, scale=0.8, start=0.2, end=0.9, guess_mode=True)
    await compare(engine, controlled, base(controls=(changed,), **mode))


async def test_guess_mode_without_guidance_leads_the_only_rows_there_are(
    engine: Engine, controlled: ControlledReference, edges: Control
) -> None:
    drawing = base(guidance=1.0, controls=(replace(edges, guess_mode=True),))
    await compare(engine, controlled, drawing)


@pytest.mark.parametrize("guess_mode", [False, True])
async def test_several_nets_add_up(
    engine: Engine,
    controlled: ControlledReference,
    mode: dict[str, Any],
    nets: dict[str, ControlNet],
    edges: Control,
    depth: Control,
    hints: list[np.ndarray],
    guess_mode: bool,
) -> None:
    pose = Control(net=nets["pose"], hint=hints[2], start=0.5)
    controls = tuple(replace(one, guess_mode=guess_mode) for one in (edges, replace(depth, end=0.7), pose))
    await compare(engine, controlled, base(controls=controls, **mode))


async def test_one_net_may_lead_a_drawing_twice(
    engine: Engine, controlled: ControlledReference, edges: Control, hints: list[np.ndarray]
) -> None:
    await compare(
        engine, controlled, base(controls=(edges, replace(edges, hint=hints[2], scale=0.5)), seeds=(3, 4))
    )


@pytest.mark.parametrize(("width", "height"), [(128, 72), (64, 96)])
async def test_any_size_is_led(
    engine: Engine, controlled: ControlledReference, edges: Control, width: int, height: int
) -> None:
    hint = np.zeros((height, width, 3), np.uint8)
    hint[20:40, 20:40] = 255
    await compare(engine, controlled, base(width=width, height=height, controls=(replace(edges, hint=hint),)))


async def test_a_net_that_pools_says_the_same_everywhere_and_to_prompted_rows_only(
    engine: Engine, model: Path, networks: RecordingModel, tmp_path: Path, hints: list[np.ndarray]
) -> None:
    random_net(networks._unet, 5, global_pool_conditions=True).save_pretrained(tmp_path / "shuffle")
    net = load_control_net(tmp_path / "shuffle", name="shuffle", model=networks)
    reference = ControlledReference(model, tmp_path)
    await compare(engine, reference, base(controls=(Control(net=net, hint=hints[0]),)))


async def test_a_net_that_wants_blue_first_gets_it(
    engine: Engine, model: Path, networks: RecordingModel, tmp_path: Path, hints: list[np.ndarray]
) -> None:
    net = random_net(networks._unet, 6, controlnet_conditioning_channel_order="bgr")
    net.save_pretrained(tmp_path / "bgr")
    ours = load_control_net(tmp_path / "bgr", name="bgr", model=networks)
    hint = hints[0] * np.array([1, 0, 0], np.uint8)
    reference = ControlledReference(model, tmp_path)
    await compare(engine, reference, base(controls=(Control(net=ours, hint=hint),)))


async def test_an_inpainting_unet_is_led_too(
    networks: RecordingModel,
    model: Path,
    nets_folder: Path,
    picture: np.ndarray,
    mask: np.ndarray,
    edges: Control,
) -> None:
    config = dict(networks._unet.config) | {"in_channels": 9}
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    engine = Engine(with_unet(networks, unet), max_rows=16)
    reference = ControlledReference(model, nets_folder, unet)
    await compare(
        engine, reference, base(image=picture, mask=mask, strength=0.8, controls=(edges,), seeds=(5, 6))
    )
    engine.close()


@pytest.mark.slow
async def test_in_a_mixed_batch_of_forty_each_is_what_diffusers_draws_alone(
    engine: Engine,
    controlled: ControlledReference,
    reference: Reference,
    edges: Control,
    depth: Control,
    picture: np.ndarray,
    mask: np.ndarray,
) -> None:
    samplers = ["DPM++ 2M Karras", "Euler a", "Heun", "DDIM", "UniPC"]
    kinds: list[dict[str, Any]] = [
        {},
        {"controls": (edges,)},
        {"controls": (replace(depth, end=0.6),), "image": picture, "strength": 0.6},
        {"guidance": 1.0, "controls": (edges, depth)},
        {"controls": (replace(edges, guess_mode=True),), "seeds": (3, 4)},
        {"image": picture, "mask": mask, "strength": 0.8},
        {"controls": (replace(edges, start=0.4, scale=0.3),), "prompt": "red " * 90},
        {"image": picture, "mask": mask, "strength": 0.7, "controls": (depth,)},
    ]
    drawings = [
        base(sampler=samplers[i % 5], steps=2 + i % 3, **{"prompt": f"thing {i}", **kinds[i % 8]})
        for i in range(40)
    ]
    short = [one for one in drawings if len(one.prompt) < 100]
    await asyncio.gather(
        compare(engine, controlled, *(one for one in short if one.controls)),
        compare(engine, reference, *(one for one in short if not one.controls)),
        *(engine.draw(one) for one in drawings if one not in short),
    )


class CountingModel(RecordingModel):
    """Remembers what each forward was told."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.told: list[UNetInput] = []

    def forward(self, inputs: UNetInput) -> torch.Tensor:
        self.told.append(inputs)
        return super().forward(inputs)


async def test_led_and_plain_drawings_share_one_unet_forward_and_each_net_runs_once(
    model: Path,
    edges: Control,
    depth: Control,
    hints: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, int]] = []
    run = ControlNet.__call__

    def counted(net: ControlNet, latents: torch.Tensor, *rest: Any) -> Any:
        ran.append((net.name, len(latents)))
        return run(net, latents, *rest)

    monkeypatch.setattr(ControlNet, "__call__", counted)
    counting = load(CountingModel, model)
    engine = Engine(counting, max_rows=16)
    gate = threading.Event()
    engine.call(gate.wait)
    drawings = [
        base(sampler="DDIM", steps=4),
        base(sampler="DDIM", steps=4, controls=(edges,)),
        base(sampler="DDIM", steps=4, controls=(replace(edges, hint=hints[1], scale=0.3), depth)),
    ]
    drawn = [asyncio.create_task(engine.draw(drawing)) for drawing in drawings]
    while len(engine._inbox) < len(drawings):  # noqa: ASYNC110 - of a queue there is no event
        await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*drawn)
    engine.close()
    assert any(one.rows == 6 for one in counting.told)
    # A led drawing's forward has edges once, and depth once where the third has part in it.
    assert sum(count for name, count in ran if name == "edges") == 2 * 2 * 4
    assert sum(count for name, count in ran if name == "depth") == 2 * 4
    assert any(one == ("edges", 4) for one in ran)
    led = sum(one.conditioning.controls is not None for one in counting.told)
    assert sum(name == "edges" for name, _ in ran) == led
