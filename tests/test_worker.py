"""How many jobs the worker holds."""

import asyncio
from pathlib import Path

import pytest

from sdworker.settings import Settings
from sdworker.startup import build_worker


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        ({"max_rows": 16}, 10),
        ({"max_rows": 2}, 2),
        ({"max_rows": 16, "concurrency": 3}, 3),
    ],
)
def test_it_holds_what_fills_a_batch_and_a_quarter_more_at_least_two_or_what_it_is_told(
    model: Path, settings: dict[str, int], jobs: int
) -> None:
    worker = build_worker(Settings(model_dir=model).model_copy(update=settings))
    assert worker.jobs_at_once == jobs
    worker.engine.close()


async def test_warming_up_measures_how_many_rows_share_a_step(model: Path) -> None:
    worker = build_worker(Settings(model_dir=model))
    costs, shape = worker.engine.costs, worker.engine.model.default_shape
    assumed = costs.seconds(2, shape)
    await worker.warm_up()
    async with asyncio.timeout(180):
        while costs.seconds(2, shape) == assumed:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.05)
    assert worker.engine.batch_rows in {2, 4, 8, 16, 32, 64}
    worker.engine.close()
