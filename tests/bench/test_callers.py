"""What is computed from the jobs that came back, and when they are counted, without a worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from bench.serving.callers import Answered, Stretch, Submitter, call, percentile
from bench.standin import Platform, platform


def answered_at(times: Sequence[float], steps: int = 10) -> list[Answered]:
    return [Answered(f"job-{at}", steps, at, 1.0, None) for at in times]


class TestPercentile:
    def test_is_the_least_value_that_so_many_do_not_exceed(self) -> None:
        values = [float(n) for n in range(1, 101)]
        assert [percentile(values, percent) for percent in (0, 1, 50, 95, 99, 100)] == [1, 1, 50, 95, 99, 100]

    def test_of_few_values_is_one_of_them(self) -> None:
        assert [percentile([3.0, 1.0, 2.0], percent) for percent in (33, 34, 50, 67, 99)] == [1, 2, 2, 3, 3]

    def test_of_no_values_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no percentile"):
            percentile([], 50)


class TestRate:
    def test_of_callers_who_ask_for_the_same_is_their_number_over_their_latency(self) -> None:
        """However the stretch cuts into the bursts in which jobs return."""
        jobs = [Answered(f"job-{at}", 10, at, 2.0, None) for at in [12.0] * 8 + [14.0]]
        stretch = Stretch(10.0, jobs, settled=True, callers=8)
        assert stretch.jobs_per_s == pytest.approx(4.0)
        assert stretch.steps_per_s == pytest.approx(40.0)

    @pytest.mark.parametrize("settled", [False, True])
    def test_of_others_is_counted_from_one_return_to_another(self, settled: bool) -> None:
        jobs = [*answered_at([10.5, 11.0]), *answered_at([11.5], steps=40 if settled else 10)]
        stretch = Stretch(10.0, jobs, settled=settled, callers=3)
        assert stretch.jobs_per_s == pytest.approx(2.0)
        assert stretch.steps_per_s == pytest.approx(40.0 if settled else 20.0)


@asynccontextmanager
async def one_job_at_a_time(platform: Platform, seconds: float) -> AsyncIterator[None]:
    """A worker that only waits: an update at half of each job's time, and a result."""
    bodies: list[dict[str, Any]] = [{"status": "IN_PROGRESS"}, {"output": []}]
    base = f"http://127.0.0.1:{platform.port}"

    async def serve() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{base}/job-take/w") as answer:
                    job = await answer.json()
                for body in bodies:
                    await asyncio.sleep(seconds / 2)
                    async with session.post(f"{base}/job-done/w/{job['id']}", data=json.dumps(body)):
                        pass

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()


class TestCall:
    async def test_counts_from_when_every_caller_has_had_a_job_back(self) -> None:
        async with platform() as standin, one_job_at_a_time(standin, 0.02):
            stretch = await call(standin, 3, (10, 20), window_s=0.3, limit_s=60)
            assert standin.queue.empty()
        assert stretch.settled
        first = stretch.jobs[0]
        # The fourth, so it asked for what the second did; submitted when the first came back, behind two others.
        assert first.steps == 20
        assert first.latency_s >= 0.06
        assert first.first_progress_s is not None
        assert 0.05 <= first.first_progress_s < first.latency_s
        assert {job.steps for job in stretch.jobs} == {10, 20}

    async def test_of_too_many_callers_counts_from_the_first_job_on(self) -> None:
        async with platform() as standin, one_job_at_a_time(standin, 0.02):
            stretch = await call(standin, 1000, (10,), window_s=60, limit_s=0.3)
            assert standin.queue.empty()
        assert not stretch.settled
        assert 0 < stretch.jobs_per_s <= 50

    async def test_goes_on_until_there_is_something_to_count(self) -> None:
        async with platform() as standin, one_job_at_a_time(standin, 0.02):
            stretch = await call(standin, 2, (10,), window_s=0, limit_s=0)
        assert len(stretch.jobs) >= 2

    async def test_leaves_nothing_to_the_next(self) -> None:
        async with platform() as standin, one_job_at_a_time(standin, 0.02):
            await call(standin, 10, (10,), window_s=0.05, limit_s=0.05)
            stretch = await call(standin, 2, (20,), window_s=0.1, limit_s=60)
        assert {job.steps for job in stretch.jobs} == {20}

    async def test_a_failed_job_ends_it(self) -> None:
        async with platform() as standin:
            submitter = Submitter(standin)
            job_id = submitter.submit(10)
            standin.posts.append((job_id, {"error": "out of paint"}))
            standin.posted_at.append(0.0)
            with pytest.raises(RuntimeError, match="out of paint"):
                submitter.answered()
