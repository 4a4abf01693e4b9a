"""The job loop with the real routes, and a worker that is a plain function: no idling, no storm, nothing lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench.standin import Body, Platform, platform
from sdworker.serverless import job_loop, wire
from sdworker.serverless.job_loop import JobLoop
from sdworker.serverless.outbox import Outbox
from sdworker.serverless.pause import GrowingPause
from sdworker.serverless.progress import Progress


class Scripted:
    """A worker that sleeps, explodes or returns, as the job's input says."""

    lost: str | None = None

    def __init__(self, concurrency: int) -> None:
        self.slots = concurrency
        self.most_at_once = 0
        self.began: list[str] = []
        self._now = 0

    def concurrency(self, _current: int) -> int:
        return self.slots

    def progress(self, job_id: str, session: aiohttp.ClientSession) -> Progress:
        return Progress(job_id, interval_ms=0, addresses=None, session=session)

    async def answer(self, job: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self.began.append(job["id"])
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(job["input"].get("sleep", 0))
            if "raise" in job["input"]:
                raise job["input"]["raise"]
            return {"output": job["input"].get("result", job["id"])}
        finally:
            self._now -= 1


class Raising(Scripted):
    """Raises what it was made with for jobs that ask for it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(2)
        self._error = error

    async def answer(self, job: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if "explode" in job["input"]:
            raise self._error
        return await super().answer(job, progress)


@asynccontextmanager
async def serving(
    worker: Any, *middlewares: Any, keep_s: float = 60.0, most_bytes: int = 1_000_000, grace_s: float = 5.0
) -> AsyncIterator[tuple[Platform, JobLoop, "asyncio.Task[int]"]]:
    async with platform(*middlewares) as standin, aiohttp.ClientSession() as session:
        addresses = wire.Addresses.from_environment("worker-1", standin.environment())
        loop = JobLoop(
            worker,
            addresses=addresses,
            session=session,
            heartbeat=None,
            outbox=Outbox(session, addresses, most_bytes=most_bytes, grace_s=grace_s),
            keep_s=keep_s,
        )
        running = asyncio.create_task(loop.run())
        try:
            yield standin, loop, running
        finally:
            running.cancel()
            await asyncio.wait([running])


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """For what no request of the platform's tells."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_sixty_jobs_one_at_a_time_do_not_idle_a_second_each() -> None:
    worker = Scripted(concurrency=1)
    async with serving(worker) as (standin, loop, running):
        for i in range(60):
            standin.submit(f"j{i}")
        async with asyncio.timeout(30):  # the SDK's own loop needs a minute
            await standin.until(lambda: len(standin.results) == 60)
        loop.end()
        assert await running == 0
    assert worker.most_at_once == 1


async def test_a_poll_that_was_held_is_followed_by_the_next_at_once_and_one_that_was_not_by_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[GrowingPause] = []

    def asked_for(pause: GrowingPause) -> float:
        asked.append(pause)
        return 0.0

    async def come_back(standin: Platform) -> None:
        polls = len(standin.polled_at)
        standin.submit_body(Body(b"", status=204))
        await standin.until(lambda: len(standin.polled_at) > polls and standin.parked == 1)

    monkeypatch.setattr(GrowingPause, "next_s", asked_for)
    async with serving(Scripted(1)) as (standin, _loop, _running):
        await standin.until(lambda: standin.parked == 1)
        monkeypatch.setattr(job_loop, "_HELD_S", 0.0)
        for _ in range(3):
            await come_back(standin)
        assert asked == []
        monkeypatch.setattr(job_loop, "_HELD_S", 3600.0)
        await come_back(standin)
        assert len(asked) == 1
        standin.submit("news")
        await standin.result("news")
        assert len(asked) == 1


async def test_no_more_jobs_are_drawn_than_there_are_slots_whatever_the_platform_sends() -> None:
    worker = Scripted(concurrency=3)
    async with serving(worker) as (standin, loop, running):
        many = ",".join(f'{{"id": "m{i}", "input": {{"sleep": 0.02}}}}' for i in range(20))
        standin.submit_body(Body(f"[{many}]".encode()))
        await standin.until(lambda: len(standin.results) == 20)
        loop.end()
        assert await running == 0
    assert worker.most_at_once == 3


@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom"), MemoryError(), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_job_raises_it_is_answered_and_the_next_is_drawn(error: BaseException) -> None:
    async with serving(Raising(error)) as (standin, _loop, _running):
        standin.submit("bad", explode=True)
        assert "its log has the cause" in (await standin.result("bad"))["error"]
        standin.submit("good")
        assert (await standin.result("good"))["output"] == "good"


async def test_a_job_that_arrives_after_the_order_to_end_is_run() -> None:
    worker = Scripted(concurrency=2)
    async with serving(worker) as (standin, loop, running):
        standin.submit("first", sleep=0.5)
        await standin.until(lambda: standin.taken == ["first"] and standin.parked == 1)
        loop.end()
        standin.submit("late")
        assert await running == 0
        assert sorted(standin.results) == ["first", "late"]


async def test_a_result_on_its_way_holds_no_slot() -> None:
    refused = {"kept"}

    @web.middleware
    async def sometimes(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.match_info.get("job") in refused:
            return web.Response(status=503)
        return await handler(request)

    async with serving(Scripted(concurrency=1), sometimes) as (standin, _loop, _running):
        standin.submit("kept")
        for i in range(5):
            standin.submit(f"after-{i}")
        await standin.until(lambda: len(standin.results) == 5)
        assert "kept" not in standin.results
        refused.clear()
        assert (await standin.result("kept"))["output"] == "kept"


async def test_more_results_than_may_be_kept_stop_the_taking_until_they_are_gone() -> None:
    away = True

    @web.middleware
    async def no_results(request: web.Request, handler: Any) -> web.StreamResponse:
        if away and "job" in request.match_info:
            return web.Response(status=503)
        return await handler(request)

    worker = Scripted(concurrency=2)
    async with serving(worker, no_results, most_bytes=2500) as (standin, _loop, _running):
        for i in range(12):
            standin.submit(f"j{i}", result="x" * 1000)
        await eventually(lambda: len(worker.began) >= 3)
        await asyncio.sleep(0.5)
        assert 3 <= len(worker.began) <= 4
        away = False
        await standin.until(lambda: len(standin.results) == 12)


async def test_a_job_whose_time_is_over_is_given_up_and_told(caplog: pytest.LogCaptureFixture) -> None:
    @web.middleware
    async def never(request: web.Request, handler: Any) -> web.StreamResponse:
        return web.Response(status=503) if "job" in request.match_info else await handler(request)

    async with serving(Scripted(1), never) as (standin, loop, running):
        standin.submit_job({"id": "brief", "input": {}, "policy": {"executionTimeout": 1200}})
        await standin.until(lambda: "brief" in standin.taken)
        await eventually(lambda: "is lost" in caplog.text)
        loop.end()
        assert await running == 0
    assert "job brief: its result of 19 bytes is lost: its time is over" in caplog.text


async def test_an_end_with_a_platform_that_is_away_takes_the_grace_and_no_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @web.middleware
    async def hangs(request: web.Request, handler: Any) -> web.StreamResponse:
        if "job" in request.match_info:
            await asyncio.sleep(3600)
        return await handler(request)

    async with serving(Scripted(1), hangs, grace_s=0.5) as (standin, loop, running):
        standin.submit("hung")
        await standin.until(lambda: "hung" in standin.taken and standin.parked == 1)
        loop.end()
        async with asyncio.timeout(180):
            assert await running == 1, "a result was lost, and the exit code says so"
    assert "job hung: its result" in caplog.text


async def test_a_job_that_is_sent_twice_is_drawn_once() -> None:
    worker = Scripted(2)
    async with serving(worker) as (standin, _loop, _running):
        standin.submit("twice", sleep=0.3)
        standin.submit("twice")
        await standin.result("twice")
        standin.submit("other")
        await standin.result("other")
    assert worker.began.count("twice") == 1


@pytest.mark.parametrize("times", [1, 3])
async def test_stopping_a_job_any_number_of_times_is_quiet(
    times: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Scripted(1)
    async with serving(worker) as (standin, _loop, _running):
        standin.submit("long", sleep=3600)
        standin.submit("behind")
        await eventually(lambda: worker.began == ["long"])  # taken is not yet here
        for _ in range(times):
            standin.stop("long")
        await standin.result("behind")
        assert "long" not in standin.results
    assert [record for record in caplog.records if record.levelno >= 30] == []


async def test_a_platform_that_is_away_is_asked_again_but_not_in_a_storm() -> None:
    async with aiohttp.ClientSession() as session, platform() as standin:
        environment = standin.environment()
        # Nobody listens there.
        environment["RUNPOD_WEBHOOK_GET_JOB"] = "http://127.0.0.1:1/job-take/$ID?gpu=none"
        addresses = wire.Addresses.from_environment("worker-1", environment)
        polls = 0
        original = wire.Take.jobs

        async def counted(take: wire.Take, slots: int, *, busy: bool) -> wire.Answer:
            nonlocal polls
            polls += 1
            return await original(take, slots, busy=busy)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire.Take, "jobs", counted)
            patch.setattr(job_loop, "_FAILED_PAUSE_S", (0.1, 1.0))
            loop = JobLoop(
                Scripted(1),
                addresses=addresses,
                session=session,
                heartbeat=None,
                outbox=Outbox(session, addresses, most_bytes=1000, grace_s=1),
                keep_s=1,
            )
            running = asyncio.create_task(loop.run())
            await asyncio.sleep(1.0)
            loop.end()
            assert await running == 0
        assert 1 <= polls <= 12
