"""The mended job loop: no idling between jobs, no storm when the platform is away."""

import asyncio
from typing import Any

import pytest

from sdworker.serverless.scaler import EventDrivenJobScaler


class Scripted:
    """A scaler whose platform and handler are plain functions."""

    def __init__(self, concurrency: int) -> None:
        self.scaler = EventDrivenJobScaler({"concurrency_modifier": lambda _: concurrency})
        self.scaler.jobs_fetcher = self.fetch
        self.scaler.stop_signals_fetcher = self.no_stops
        self.scaler.jobs_handler = self.handle
        self.waiting: list[dict[str, Any]] = []
        self.fetches = 0
        self.most_at_once = 0
        self.handled: list[str] = []
        self.work_s = 0.0
        self._now = 0
        self._progress = asyncio.Event()

    async def fetch(self, _session: Any, slots: int) -> list[dict[str, Any]]:
        self.fetches += 1
        if not self.waiting:
            await asyncio.Event().wait()
        taken, self.waiting = self.waiting[:slots], self.waiting[slots:]
        return taken

    async def no_stops(self, _session: Any) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def handle(self, _session: Any, _config: Any, job: dict[str, Any]) -> None:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(self.work_s)
            if job["input"] == "explode":
                raise RuntimeError("boom")
            self.handled.append(job["id"])
            self._progress.set()
        finally:
            self._now -= 1

    async def until_handled(self, count: int) -> None:
        while len(self.handled) < count:
            self._progress.clear()
            await self._progress.wait()


async def test_sixty_jobs_one_at_a_time_do_not_idle_a_second_each() -> None:
    script = Scripted(concurrency=1)
    script.waiting = [{"id": str(i), "input": {}} for i in range(60)]
    running = asyncio.create_task(script.scaler.run())
    async with asyncio.timeout(20):  # the SDK's own loop needs a minute
        await script.until_handled(60)
    script.scaler.kill_worker()
    await running
    assert script.most_at_once == 1


async def test_no_more_jobs_are_taken_than_there_are_slots() -> None:
    script = Scripted(concurrency=3)
    script.work_s = 0.02
    script.waiting = [{"id": str(i), "input": {}} for i in range(20)]
    running = asyncio.create_task(script.scaler.run())
    await script.until_handled(20)
    script.scaler.kill_worker()
    await running
    assert script.most_at_once == 3


async def test_a_platform_that_is_away_is_asked_again_but_not_in_a_storm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Scripted(concurrency=2)

    async def refused(_session: Any, _slots: int) -> list[dict[str, Any]]:
        script.fetches += 1
        raise ConnectionRefusedError("nobody is there")

    script.scaler.jobs_fetcher = refused
    monkeypatch.setattr("sdworker.serverless.scaler._FAILED_POLL_PAUSE_S", 0.1)
    running = asyncio.create_task(script.scaler.run())
    await asyncio.sleep(0.55)
    script.scaler.kill_worker()
    await running
    assert 2 <= script.fetches <= 7


async def test_a_job_whose_answer_cannot_be_sent_does_not_stop_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Scripted(concurrency=1)
    script.waiting = [{"id": "a", "input": "explode"}, {"no": "id"}, {"id": "b", "input": {}}]
    running = asyncio.create_task(script.scaler.run())
    async with asyncio.timeout(10):
        await script.until_handled(1)
    assert script.handled == ["b"]
    script.scaler.kill_worker()
    await running
    assert "a job's answer was lost" in caplog.text
    assert "without an id" in caplog.text


async def test_a_job_that_arrives_after_the_order_to_stop_is_run() -> None:
    script = Scripted(concurrency=2)
    script.work_s = 0.3
    script.waiting = [{"id": "first", "input": {}}]
    parked: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
    fetch = script.scaler.jobs_fetcher

    async def first_then_parked(session: Any, slots: int) -> list[dict[str, Any]]:
        return await fetch(session, slots) if script.waiting else await parked

    script.scaler.jobs_fetcher = first_then_parked
    running = asyncio.create_task(script.scaler.run())
    await asyncio.sleep(0.1)
    script.scaler.kill_worker()
    parked.set_result([{"id": "late", "input": {}}])
    await running
    assert sorted(script.handled) == ["first", "late"]
