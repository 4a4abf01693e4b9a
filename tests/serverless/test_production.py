"""Jobs through the unmodified SDK, in its production mode, on the real worker process."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image

from sdworker.engine.unet_input import UNetInput
from sdworker.samplers import SAMPLERS
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

from .conftest import WorkerProcess, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 4}


def pixels(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(int)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[WorkerProcess]:
    """One worker for all tests that leave it as it was."""
    async with running_worker(
        PROGRESS_INTERVAL_MS="100", CONCURRENCY="8", MAX_ROWS="16", MAX_RESULT_MB="0.5"
    ) as process:
        yield process


@pytest.fixture(scope="module")
def alone(model: Path) -> Worker:
    """The same worker in this process, to run single jobs on."""
    return build_worker(Settings(model_dir=model))


def mixed_inputs(count: int) -> list[dict[str, Any]]:
    """Jobs that differ in everything: sampler, steps, size, guidance, mode, format, number of images."""
    buffer = io.BytesIO()
    y, x = np.mgrid[0:80, 0:72]
    Image.fromarray(np.stack([x * 3, y * 3, x + y], axis=-1).astype(np.uint8)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    buffer = io.BytesIO()
    Image.fromarray(((x > 30) * 255).astype(np.uint8)).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    modes: list[dict[str, Any]] = [
        {},
        {"init_image": picture, "prompt_strength": 0.6},
        {"init_image": f"data:image/png;base64,{picture}", "mask": mask, "prompt_strength": 0.9},
        {"width": 96, "height": 64},
        {"num_outputs": 3},
        {"guidance_scale": 1},
        {"output_format": "png", "negative_prompt": "blue"},
    ]
    samplers = [name for name in SAMPLERS if name != "IPNDM"]
    return [
        {
            "prompt": f"thing number {i}",
            "seed": 1000 + i,
            **({} if "init_image" in modes[i % len(modes)] else SMALL),
            "num_inference_steps": 3 + i % 6,
            "scheduler": samplers[i % len(samplers)],
            **modes[i % len(modes)],
        }
        for i in range(count)
    ]


async def test_fifty_mixed_jobs_at_once_all_return_each_as_if_run_alone(
    worker: WorkerProcess, alone: Worker
) -> None:
    inputs = mixed_inputs(50)
    for i, input_ in enumerate(inputs):
        worker.platform.submit(f"mixed-{i}", **input_)
    results = [await worker.platform.result(f"mixed-{i}") for i in range(len(inputs))]
    for i, (input_, result) in enumerate(zip(inputs, results, strict=True)):
        expected = await alone.run({"id": f"alone-{i}", "input": input_})
        assert [item["seed"] for item in result["output"]] == [item["seed"] for item in expected]
        for ours, theirs in zip(result["output"], expected, strict=True):
            levels = np.abs(pixels(ours["image"]) - pixels(theirs["image"])).max()
            if levels > 1:
                assert levels <= 3 * await levels_of_rounding(alone, input_, expected), input_


async def levels_of_rounding(alone: Worker, input_: dict[str, Any], expected: list[dict[str, Any]]) -> int:
    """Levels by which the lone job's own pictures move, at most of three times, when predictions' last bits do.

    Other rows in a batch change a forward's last bits, by 4e-7 of them on average. Most jobs do not show it; a few
    samplers in few steps blow it up until a pixel at an edge does, and no batching can keep such a picture nearer
    than it is to itself.
    """
    networks = alone.engine.model
    denoise = networks.denoise
    bits = torch.Generator().manual_seed(0)

    def rounded_otherwise(inputs: UNetInput) -> torch.Tensor:
        prediction = denoise(inputs)
        return prediction * (1 + 4e-7 * torch.randn(prediction.shape, generator=bits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "denoise", rounded_otherwise)
        several = [await alone.run({"id": "rounded", "input": input_}) for _ in range(3)]
    return max(
        int(np.abs(pixels(a["image"]) - pixels(b["image"])).max())
        for moved in several
        for a, b in zip(moved, expected, strict=True)
    )


async def test_progress_is_posted_in_order_and_never_after_the_result(worker: WorkerProcess) -> None:
    worker.platform.submit("progress", prompt="x", **{**SMALL, "num_inference_steps": 60})
    await worker.platform.result("progress")
    await asyncio.sleep(0.5)
    posts = [body for job_id, body in worker.platform.posts if job_id == "progress"]
    updates, result = posts[:-1], posts[-1]
    assert "status" not in result
    assert len(updates) >= 2
    assert all(update["status"] == "IN_PROGRESS" for update in updates)
    steps = [update["output"]["step"] for update in updates]
    assert steps == sorted(set(steps))
    assert all(update["output"]["steps"] == 60 for update in updates)


async def test_a_job_that_wants_to_be_seen_is_shown_until_its_result_comes(worker: WorkerProcess) -> None:
    worker.platform.submit("seen", prompt="x", previews=True, **{**SMALL, "num_inference_steps": 120})
    await worker.platform.result("seen")
    *updates, result = [body for job_id, body in worker.platform.posts if job_id == "seen"]
    assert "status" not in result
    previews = [update["output"]["preview"] for update in updates if "preview" in update["output"]]
    assert previews
    assert all(preview.startswith("/9j/") and len(preview) <= 24_000 for preview in previews)
    steps = [update["output"]["step"] for update in updates]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("input_", "expected"),
    [
        ({}, "prompt: is missing"),
        ({"prompt": "x", "widht": 64}, "the nearest is width"),
        ({"prompt": "x", "scheduler": "NOPE"}, "is not a sampler"),
        ({"prompt": "x", "init_image": "https://127.0.0.1/a.png"}, "init_image: "),
        ({"prompt": "x", "init_image": "not base64!"}, "init_image: "),
        ({"prompt": "a\ud800b"}, "prompt: "),
        ({"prompt": "x", "scheduler": "LCM", "steps": 100}, "LCM cannot do 100 steps"),
        ({"prompt": "x", "num_outputs": 16, **SMALL, "width": 256, "height": 256, "steps": 1}, "MB"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_job_gets_one_readable_error_and_the_next_is_unaffected(
    worker: WorkerProcess, input_: dict[str, Any], expected: str
) -> None:
    if "steps" in input_:
        input_ = {name: value for name, value in input_.items() if name != "num_inference_steps"}
    name = f"bad-{abs(hash(json.dumps(input_, default=str)))}"
    worker.platform.submit(name, **input_)
    worker.platform.submit(f"{name}-next", prompt="fine", seed=1, **SMALL)
    bad = await worker.platform.result(name)
    assert "output" not in bad
    assert isinstance(bad["error"], str)
    assert expected in bad["error"]
    assert "Traceback" not in bad["error"]
    assert "/" not in bad["error"].replace("https://", "").replace("/runsync", "").split(" ")[0]
    assert (await worker.platform.result(f"{name}-next"))["output"][0]["seed"] == 1


async def test_a_stopped_job_leaves_in_the_middle_and_frees_its_slot(worker: WorkerProcess) -> None:
    for i in range(8):
        worker.platform.submit(f"long-{i}", prompt="x", **{**SMALL, "num_inference_steps": 500})
    await worker.platform.until(lambda: any(job_id == "long-7" for job_id, _ in worker.platform.posts))
    for i in range(8):
        worker.platform.stop(f"long-{i}")
    worker.platform.submit("after", prompt="x", seed=3, **SMALL)
    assert (await worker.platform.result("after", 30))["output"][0]["seed"] == 3
    assert not any(f"long-{i}" in worker.platform.results for i in range(8))


async def test_a_result_that_the_platform_refuses_at_first_is_sent_again(worker: WorkerProcess) -> None:
    worker.platform.fail_posts = 1
    worker.platform.submit("again", prompt="x", seed=4, **SMALL)
    assert (await worker.platform.result("again"))["output"][0]["seed"] == 4


async def test_the_log_holds_neither_prompts_nor_images(worker: WorkerProcess) -> None:
    worker.platform.submit("secret", prompt="a most secret prompt", seed=5, **SMALL)
    image = (await worker.platform.result("secret"))["output"][0]["image"]
    assert "secret prompt" not in worker.text
    assert image[:60] not in worker.text
    assert "job secret: 1 x 64x64" in worker.text


async def test_pings_name_the_jobs_in_progress(worker: WorkerProcess) -> None:
    """However fast it is drawn: the job goes on until it has been named."""
    pings = worker.platform.pings
    worker.platform.submit("pinged", prompt="x", **{**SMALL, "num_inference_steps": 500, "num_outputs": 16})
    await worker.platform.until(lambda: any("pinged" in (ids or "") for ids in pings))
    worker.platform.stop("pinged")
    named = len(pings)
    await worker.platform.until(lambda: any(ids is None for ids in pings[named:]))
