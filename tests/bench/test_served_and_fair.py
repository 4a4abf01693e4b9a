"""`served` and `fair` in miniature: the real worker and the real naive handler, a few steps, no time."""

import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from bench import report
from bench.serving import callers, fair, served
from bench.serving.callers import until_idle
from bench.serving.contenders import NAIVE, OURS, contenders
from bench.standin import Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS = 1


@pytest.fixture(autouse=True)
def no_time_for_idle_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes by these figures."""
    monkeypatch.setattr(callers, "_IDLE_WORK_S", 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platforms(model: Path) -> AsyncIterator[Mapping[str, Platform]]:
    async with contenders(model) as running:
        yield running


def pixels(output: Any) -> np.ndarray:
    image = (output[0] if isinstance(output, list) else output)["image"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(int)


def check_spread(values: Mapping[str, float]) -> None:
    assert 0 < values["min"] <= values["median"] <= values["max"]


@pytest.mark.slow
async def test_both_draw_the_same_picture(platforms: Mapping[str, Platform]) -> None:
    drawn = []
    for platform in platforms.values():
        await until_idle(platform)
        platform.submit("same", prompt="a red apple", steps=3, guidance_scale=5.0, seed=7)
        drawn.append(pixels((await platform.result("same"))["output"]))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.slow
async def test_served_reports_rates_and_latencies_of_both(
    platforms: Mapping[str, Platform],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = await served.measure(
        platforms,
        model,
        ROUNDS,
        cases=[served.Case(2, (2, 3), offline=True)],
        window_s=0.1,
        limits_s={OURS: 60.0, NAIVE: 0.0},
        offline_images=4,
    )
    [case] = figures["served"]
    for name in (OURS, NAIVE):
        assert case[name]["jobs"] >= 2
        check_spread(case[name]["jobs_per_s"])
        check_spread(case[name]["steps_per_s"])
        assert case[name]["mean_latency_by_littles_law_s"] > 0
    assert (
        0 < case[OURS]["latency_s"]["p50"] <= case[OURS]["latency_s"]["p95"] <= case[OURS]["latency_s"]["p99"]
    )
    assert case[NAIVE]["first_progress_s"] is None
    check_spread(case["ratio"])
    [offline] = figures["offline"]
    check_spread(offline["images_per_s"])
    check_spread(offline["served_fraction"])

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    served.report(figures)
    assert json.loads(report.write_json("served", figures).read_text())["served"][0]["callers"] == 2
    printed = capsys.readouterr().out
    assert f"2        2, 3   {OURS}" in printed
    assert "offline, 2, 3 steps: " in printed


@pytest.mark.slow
async def test_fair_reports_what_the_short_job_waits_and_the_long_ones_give_up(
    platforms: Mapping[str, Platform], capsys: pytest.CaptureFixture[str]
) -> None:
    load = fair.Load(long_jobs=2, long_steps=12, short_steps=2, moments=(0.1,), alone=1)
    figures = await fair.measure(platforms, ROUNDS, load)
    assert json.loads(json.dumps(figures))["moments"] == [0.1]
    for of_worker in figures["workers"].values():
        check_spread(of_worker["short_alone_s"])
        check_spread(of_worker["long_undisturbed_s"])
        [at] = of_worker["moments"]
        for values in ("short_s", "short_ratio", "long_s", "long_ratio"):
            check_spread(at[values])
    fair.report(figures)
    assert capsys.readouterr().out.count(" 10% ") == 2
