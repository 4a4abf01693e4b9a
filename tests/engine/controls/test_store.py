"""ControlNets are loaded once, kept while memory lasts, and never let go while a drawing uses them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from sdworker.engine.controls import ControlError, ControlNet
from sdworker.engine.controls.store import ControlNets
from tests.engine.conftest import RecordingModel

from .conftest import NAMES


@pytest.fixture
def paths(nets_folder: Path) -> dict[str, Path]:
    return {name: nets_folder / name for name in NAMES}


@pytest.fixture
def one_net(nets: dict[str, ControlNet]) -> int:
    """Bytes."""
    return nets["edges"].bytes_


async def test_a_net_is_loaded_once_for_all_who_ask(networks: RecordingModel, paths: dict[str, Path]) -> None:
    store = ControlNets(networks, budget_bytes=10**9)

    async def use() -> ControlNet:
        async with store.lease({"edges": paths["edges"]}) as nets:
            return nets["edges"]

    nets = await asyncio.gather(*(use() for _ in range(4)))
    assert len({id(net) for net in nets}) == 1


async def test_the_one_used_longest_ago_makes_room(
    networks: RecordingModel, paths: dict[str, Path], one_net: int
) -> None:
    store = ControlNets(networks, budget_bytes=2 * one_net)
    for name in ("edges", "depth", "edges", "pose"):
        async with store.lease({name: paths[name]}):
            pass
    assert store.used_bytes == 2 * one_net
    assert list(store._kept) == [paths["edges"], paths["pose"]]


async def test_who_finds_no_room_waits_for_those_who_draw(
    networks: RecordingModel, paths: dict[str, Path], one_net: int
) -> None:
    store = ControlNets(networks, budget_bytes=one_net)
    order: list[str] = []

    async def other() -> None:
        async with store.lease({"depth": paths["depth"]}):
            order.append("depth")

    async with store.lease({"edges": paths["edges"]}):
        waiting = asyncio.create_task(other())
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        order.append("edges")
    await waiting
    assert order == ["edges", "depth"]
    assert store.used_bytes == one_net


async def test_what_one_job_needs_at_once_it_gets_whatever_it_takes(
    networks: RecordingModel, paths: dict[str, Path], one_net: int
) -> None:
    store = ControlNets(networks, budget_bytes=one_net)
    async with asyncio.timeout(180):
        async with store.lease(paths) as nets:
            assert list(nets) == list(NAMES)


async def test_two_jobs_that_want_the_same_two_the_other_way_round_both_get_them(
    networks: RecordingModel, paths: dict[str, Path], one_net: int
) -> None:
    store = ControlNets(networks, budget_bytes=one_net)

    async def use(*names: str) -> None:
        async with store.lease({name: paths[name] for name in names}):
            await asyncio.sleep(0)

    async with asyncio.timeout(180):
        await asyncio.gather(use("edges", "depth"), use("depth", "edges"), use("pose", "edges"))


async def test_who_gives_up_waiting_holds_nothing(
    networks: RecordingModel, paths: dict[str, Path], one_net: int
) -> None:
    store = ControlNets(networks, budget_bytes=one_net)

    async def other() -> None:
        async with store.lease({"depth": paths["depth"]}):
            raise AssertionError

    async with store.lease({"edges": paths["edges"]}):
        waiting = asyncio.create_task(other())
        await asyncio.wait([waiting], timeout=0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(180):
        async with store.lease({"pose": paths["pose"]}):
            pass


async def test_a_device_without_memory_lets_go_of_what_nobody_uses_and_then_says_so(
    networks: RecordingModel, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ControlNets(networks, budget_bytes=10**9)
    place = ControlNet.place

    def scarce(net: ControlNet, *args: Any, **kwargs: Any) -> None:
        if store._kept:
            raise torch.OutOfMemoryError
        place(net, *args, **kwargs)

    monkeypatch.setattr(ControlNet, "place", scarce)
    async with store.lease({"edges": paths["edges"]}):
        pass
    async with store.lease({"depth": paths["depth"]}):
        assert list(store._kept) == [paths["depth"]]
        with pytest.raises(ControlError, match="no memory is left for the ControlNet 'pose'"):
            async with store.lease({"pose": paths["pose"]}):
                pass


async def test_a_net_that_fails_to_load_is_tried_again(
    networks: RecordingModel, paths: dict[str, Path], tmp_path: Path
) -> None:
    store = ControlNets(networks, budget_bytes=10**9)
    for _ in range(2):
        with pytest.raises(ControlError, match="the ControlNet 'gone' cannot be loaded"):
            async with store.lease({"edges": paths["edges"], "gone": tmp_path / "gone.safetensors"}):
                pass
    assert [kept.users for kept in store._kept.values()] == [0]
