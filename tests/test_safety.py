"""What the safety checker flags: each picture by itself, said beside it, and treated as the deployment wants."""

import asyncio
import base64
import io
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdworker.engine.errors import EngineError
from sdworker.engine.safety import SafetyChecker
from sdworker.engine.safety.vision import VisionModel
from sdworker.settings import Settings, SettingsError
from sdworker.startup import build_worker
from sdworker.worker import Worker

from .engine.safety.test_checker import make_random_checker

JOB = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2, "seed": 3, "num_outputs": 4}


@asynccontextmanager
async def worker_with(model: Path, **settings: Any) -> AsyncIterator[Worker]:
    worker = build_worker(Settings(model_dir=model, warm_up=False, max_rows=8, **settings))
    try:
        yield worker
    finally:
        worker.engine.close(finish=False)


async def draw(worker: Worker, **changes: Any) -> list[dict[str, Any]]:
    return await worker.run({"id": "one", "input": JOB | changes})


def pixels(item: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(item["image"]))).convert("RGB"))


@pytest.fixture(scope="module")
def checker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flags half of what `JOB` draws: of one concept, the angle is between the pictures' second and third."""
    folder = tmp_path_factory.mktemp("checker")
    make_random_checker(folder, 0)

    async def drawn() -> list[np.ndarray]:
        async with worker_with(model, safety="off") as worker:
            return [pixels(item) for item in await draw(worker)]

    loaded = SafetyChecker.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    cosines = []
    for one in asyncio.run(drawn()):
        chore = loaded.chore(loaded.prepare(one))
        with torch.inference_mode():
            while not chore.do_piece():
                pass
        cosines.append(float(chore.coming._cosines[3]))  # type: ignore[union-attr]
    weights = load_file(folder / "model.safetensors")
    weights["concept_embeds_weights"] = torch.full((17,), 2.0)
    weights["concept_embeds_weights"][0] = sum(sorted(cosines)[1:3]) / 2
    weights["special_care_embeds_weights"] = torch.full((3,), 2.0)
    # Judgements are rounded to thousandths.
    assert sorted(cosines)[2] - sorted(cosines)[1] > 0.002
    save_file(weights, folder / "model.safetensors")
    return folder


async def test_only_what_is_flagged_says_so_and_the_others_are_untouched(
    model: Path, checker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker_with(model, safety="off") as worker:
        plain = await draw(worker)
    caplog.set_level(logging.INFO, "sdworker.worker")
    async with worker_with(model, safety_checker=checker) as worker:
        flagged = await draw(worker)
    assert [item.get("nsfw", False) for item in flagged].count(True) == 2
    assert {item.get("nsfw") for item in flagged} == {True, None}
    assert [{k: v for k, v in item.items() if k != "nsfw"} for item in flagged] == plain
    assert ", check " in caplog.text


@pytest.mark.parametrize("mode", ["blur", "black"])
async def test_blur_and_black_change_what_is_flagged_and_nothing_else(
    model: Path, checker: Path, mode: str
) -> None:
    async with worker_with(model, safety="off") as worker:
        plain = await draw(worker)
    async with worker_with(model, safety=mode, safety_checker=checker) as worker:
        treated = await draw(worker)
    for before, after in zip(plain, treated, strict=True):
        if "nsfw" not in after:
            assert after == before
        elif mode == "black":
            assert not pixels(after).any()
        else:
            assert np.abs(np.diff(pixels(after).astype(int), axis=0)).max() <= 40
            assert not np.array_equal(pixels(after), pixels(before))


async def test_a_job_lifts_it_only_where_the_deployment_allows_that(model: Path, checker: Path) -> None:
    for allowed in (False, True):
        async with worker_with(model, safety_checker=checker, nsfw_override=allowed) as worker:
            for name in ("nsfw", "disable_safety_checker"):
                items = await draw(worker, **{name: True})
                assert any("nsfw" in item for item in items) is not allowed


def test_what_is_wanted_and_not_there_stops_the_start(model: Path) -> None:
    with pytest.raises(SettingsError, match=r"SAFETY: is black, but the model has no safety checker"):
        build_worker(Settings(model_dir=model, safety="black"))


async def test_a_checker_that_fails_fails_the_job_and_the_next_one_is_done(
    model: Path, checker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker_with(model, safety_checker=checker) as worker:
        with monkeypatch.context() as patched:

            def lacks_memory(*_: Any) -> Any:
                raise torch.OutOfMemoryError("CUDA out of memory")

            patched.setattr(VisionModel, "in_pieces", lacks_memory)
            with pytest.raises(EngineError, match="out of memory in the safety checker"):
                await draw(worker)
        assert len(await draw(worker)) == 4


@asynccontextmanager
async def two_models(model: Path, folder: Path, **settings: Any) -> AsyncIterator[Worker]:
    """`plain` without a checker, and `judged`, a copy of it that has the one in a folder."""
    with_checker = folder.parent / "judged"
    if not with_checker.exists():
        shutil.copytree(model, with_checker)
        for part in ("safety_checker", "feature_extractor"):
            shutil.copytree(folder, with_checker / part)
    models = (f"plain={model}", f"judged={with_checker}")
    worker = build_worker(Settings(models=models, warm_up=False, max_rows=8, **settings))
    try:
        yield worker
    finally:
        worker.engine.close(finish=False)


async def test_each_model_is_judged_by_its_own_checker_and_one_without_by_none(
    model: Path, checker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_models(model, checker) as worker:
        plain = await draw(worker, model="plain")
        judged = await draw(worker, model="judged")
        assert await draw(worker) == plain  # `off` is the default for a model without
    assert not any("nsfw" in item for item in plain)
    assert [item.get("nsfw", False) for item in judged].count(True) == 2

    weights = checker.parent / "judged" / "safety_checker" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    try:
        async with two_models(model, checker) as worker:
            with pytest.raises(
                EngineError, match="the safety checker of judged cannot be loaded at the moment"
            ):
                await draw(worker, model="judged")
            assert await draw(worker, model="plain") == plain
            weights.write_bytes(content)
            assert await draw(worker, model="judged") == judged
    finally:
        weights.write_bytes(content)
    assert "judged" in caplog.text


def test_a_mode_that_one_of_the_models_cannot_have_stops_the_start(model: Path, checker: Path) -> None:
    async def start() -> None:
        async with two_models(model, checker, safety="black"):
            pass

    with pytest.raises(
        SettingsError, match="SAFETY: is black, but plain of the models has no safety checker"
    ):
        asyncio.run(start())


async def test_a_checker_that_is_named_judges_all_models(model: Path, checker: Path) -> None:
    async with two_models(model, checker, safety_checker=checker) as worker:
        for name in ("plain", "judged"):
            assert any("nsfw" in item for item in await draw(worker, model=name))
