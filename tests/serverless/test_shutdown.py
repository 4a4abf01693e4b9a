"""SIGTERM: nothing new is taken, what was taken is finished, nothing is lost."""

import asyncio

import pytest

from .conftest import running_worker

SLOW = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 120, "guidance_scale": 4}


async def test_sigterm_finishes_jobs_in_flight_and_one_that_the_parked_poll_still_brings() -> None:
    async with running_worker(PROGRESS_INTERVAL_MS="100", CONCURRENCY="4") as worker:
        platform = worker.platform
        for i in range(2):
            platform.submit(f"flying-{i}", **SLOW)
        await platform.until(lambda: {"flying-0", "flying-1"} <= {job_id for job_id, _ in platform.posts})
        await platform.until(lambda: platform.parked == 1)
        worker.terminate()
        platform.submit("late", **SLOW)
        assert await worker.exit_code() == 0
        assert platform.taken == ["flying-0", "flying-1", "late"]
        assert all("output" in platform.results[job_id] for job_id in platform.taken)
        assert platform.queue.empty()


@pytest.mark.parametrize("after_s", [0.0, 0.6], ids=["at once", "while it measures what steps cost"])
async def test_sigterm_while_idle_ends_the_process_at_once_and_takes_nothing_more(after_s: float) -> None:
    async with running_worker() as worker:
        await worker.platform.until(lambda: worker.platform.parked == 1)
        await asyncio.sleep(after_s)
        worker.terminate()
        assert await worker.exit_code() == 0
        worker.platform.submit("too late", prompt="x")
        assert worker.platform.taken == []


@pytest.mark.slow
async def test_sigterm_does_not_wait_for_a_forward_that_takes_for_ever_nor_abort_under_it() -> None:
    async with running_worker(script=("tests/serverless/busy_handler.py", "endless")) as worker:
        await worker.platform.until(lambda: b"measuring" in worker.log)
        await worker.platform.until(lambda: worker.platform.parked == 1)
        worker.terminate()
        assert await worker.exit_code() == 0, worker.text


async def test_an_engine_that_ends_by_itself_ends_the_process_for_a_fresh_one() -> None:
    """Nobody has to send a job to it for that."""
    async with running_worker(script=("tests/serverless/busy_handler.py", "panic")) as worker:
        assert await worker.exit_code() == 1, worker.text
        assert "the engine cannot go on" in worker.text
        assert worker.platform.unhealthy
