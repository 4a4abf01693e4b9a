"""Where memory runs out or a number is lost in a ControlNet, the drawing that it leads fails, by its name."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdworker.engine.controls import Control, ControlError, ControlNet
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.networks.prepared import Prepared
from sdworker.engine.unet_input import UNetInput
from tests.engine.conftest import RecordingModel, load
from tests.engine.test_equals_diffusers import base, difference


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """name → the most rows that a net of that name has memory for."""
    most: dict[str, int] = {}
    run = ControlNet.__call__

    def scarce(net: ControlNet, latents: torch.Tensor, *rest: Any) -> Any:
        if len(latents) > most.get(net.name, 1000):
            raise torch.OutOfMemoryError
        return run(net, latents, *rest)

    monkeypatch.setattr(ControlNet, "__call__", scarce)
    return most


async def test_without_memory_for_one_row_that_drawing_alone_fails(
    engine: Engine, edges: Control, depth: Control, fault: dict[str, int]
) -> None:
    fault["edges"] = 0
    limit = engine.costs.limit((8, 8))
    plain, led, other = await asyncio.gather(
        *(engine.draw(base(controls=controls)) for controls in ((), (edges,), (depth,))),
        return_exceptions=True,
    )
    assert isinstance(plain, list)
    assert isinstance(other, list)
    assert isinstance(led, ControlError)
    assert str(led).startswith("out of memory in the ControlNet 'edges'; ")
    assert engine.costs.limit((8, 8)) == limit


async def test_with_memory_for_few_rows_they_go_in_parts_and_nothing_changes(
    engine: Engine, networks: RecordingModel, edges: Control, fault: dict[str, int]
) -> None:
    drawing = base(controls=(edges,), seeds=(1, 2, 3))
    whole = [networks.latents_of(image) for image in await engine.draw(drawing)]
    fault["edges"] = 1
    parts = [networks.latents_of(image) for image in await engine.draw(drawing)]
    for one, other in zip(parts, whole, strict=True):
        assert difference(one, other) < 1e-4


async def test_a_hint_that_cannot_be_embedded_fails_that_drawing(
    engine: Engine, edges: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(net: ControlNet, hint: np.ndarray) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ControlNet, "embed", lacking)
    with pytest.raises(EngineError, match="out of memory"):
        await engine.draw(base(controls=(edges,)))
    assert await engine.draw(base())


async def test_numbers_that_are_lost_in_a_net_fail_its_drawing_only(
    engine: Engine, edges: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ControlNet.__call__

    def lost(net: ControlNet, *given: Any) -> Any:
        return [one * float("nan") for one in run(net, *given)]

    monkeypatch.setattr(ControlNet, "__call__", lost)
    plain, led = await asyncio.gather(
        *(engine.draw(base(controls=controls)) for controls in ((), (edges,))), return_exceptions=True
    )
    assert isinstance(plain, list)
    assert isinstance(led, EngineError)
    assert "the picture came out empty" in str(led)


async def test_a_prepared_forward_gets_what_the_nets_say_as_inputs(
    model: Path, edges: Control, depth: Control
) -> None:
    """One that was prepared for a led forward serves others, whatever leads them, and none of the plain ones."""
    prepared_for: list[UNetInput] = []

    class PreparedModel(RecordingModel):
        def _make_prepared(self, _: Any) -> Prepared:
            def prepare(forward: Any, inputs: UNetInput) -> Any:
                prepared_for.append(inputs)
                return forward

            return Prepared(self.forward, prepare, lambda _: 1.0, when_idle=False)

    ready = load(PreparedModel, model)
    engine = Engine(ready, max_rows=16)
    drawings = [
        base(controls=(edges,)),
        base(controls=(replace(depth, scale=2.0), edges)),
        base(),
        base(controls=(edges,), seeds=(1,), guidance=1.0),
    ]
    plain = [[ready.latents_of(i) for i in await engine.draw(drawing)] for drawing in drawings]
    original = Prepared.__call__

    def prepare_first(prepared: Prepared, inputs: UNetInput) -> torch.Tensor:
        prepared.prepare(inputs)
        return original(prepared, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "__call__", prepare_first)
        again = [[ready.latents_of(i) for i in await engine.draw(drawing)] for drawing in drawings]
    engine.close()
    kinds = {(one.rows, one.conditioning.controls is not None) for one in prepared_for}
    assert kinds == {(2, True), (2, False)}
    for ours, theirs in zip(again, plain, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert difference(one, other) < 1e-4
