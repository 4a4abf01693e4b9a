"""Previews in progress updates: in order, not too often, never after the result."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web

from sdworker.engine.device import mark
from sdworker.engine.previews import ComingPreview
from sdworker.serverless import wire
from sdworker.serverless.progress import Progress


class Platform:
    """Takes progress."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.posted = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.posts.append(json.loads(await request.read()))
        self.posted.set()
        return web.Response()

    async def next(self, *, preview: bool) -> dict[str, Any]:
        """What is told next, with a preview or without."""
        seen = len(self.posts)
        async with asyncio.timeout(180):
            while True:
                for post in self.posts[seen:]:
                    if ("preview" in post["output"]) == preview:
                        output: dict[str, Any] = post["output"]
                        return output
                self.posted.clear()
                await self.posted.wait()


@pytest.fixture
async def platform() -> AsyncIterator[tuple[Platform, wire.Addresses]]:
    platform = Platform()
    app = web.Application()
    app.router.add_post("/done/{id}", platform.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    base = f"http://127.0.0.1:{port}"
    addresses = wire.Addresses.from_environment(
        "w",
        {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/w?gpu=x",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/done/$ID?gpu=x",
        },
    )
    yield platform, addresses
    await runner.cleanup()


def coming() -> ComingPreview:
    device = torch.device("cpu")
    return ComingPreview(torch.from_numpy(np.full((8, 8, 3), 99, np.uint8)), mark(device))


async def until(progress: Progress) -> None:
    """Step on until a preview is wanted."""
    async with asyncio.timeout(180):
        while not progress.wanted():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)


async def test_an_update_has_the_preview_of_its_step(platform: tuple[Platform, wire.Addresses]) -> None:
    taking, addresses = platform
    async with Progress("x", interval_ms=20, addresses=addresses) as progress:
        for step in (1, 2):
            progress.update(step, 5)
            await until(progress)
            progress.show(coming(), step, 5)
            told = await taking.next(preview=True)
            assert (told["step"], told["steps"]) == (step, 5)
            assert told["preview"].startswith("/9j/")
            assert not progress.wanted(), "one an update"


async def test_who_does_not_ask_gets_none(platform: tuple[Platform, wire.Addresses]) -> None:
    taking, addresses = platform
    async with Progress("x", interval_ms=20, addresses=addresses) as progress:
        progress.update(1, 5)
        assert await taking.next(preview=False) == {"step": 1, "steps": 5, "progress": 0.2}


async def test_an_update_waits_for_no_preview_that_does_not_come(
    platform: tuple[Platform, wire.Addresses],
) -> None:
    taking, addresses = platform
    async with Progress("x", interval_ms=20, addresses=addresses) as progress:
        progress.wanted()
        progress.update(1, 5)
        assert (await taking.next(preview=False))["step"] == 1


async def test_none_comes_after_the_end(platform: tuple[Platform, wire.Addresses]) -> None:
    taking, addresses = platform
    async with Progress("x", interval_ms=20, addresses=addresses) as progress:
        progress.update(1, 5)
        await until(progress)
    progress.show(coming(), 2, 5)
    before = len(taking.posts)
    await asyncio.sleep(0.1)
    assert len(taking.posts) == before
