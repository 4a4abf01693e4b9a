"""A worker that cannot work refuses to start and says why, in every mode of the SDK."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import ROOT, running_worker


def run_locally(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "BUCKET_"))}
    return subprocess.run(
        [sys.executable, "handler.py", *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def broken_model(model: Path, tmp_path: Path) -> Path:
    """The embedded model with half of its UNet."""
    folder = tmp_path / "broken"
    shutil.copytree(model, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


def test_python_handler_py_draws_the_job_in_test_input_json() -> None:
    done = run_locally()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "completed successfully" in done.stdout


def test_a_good_test_input_exits_with_0_and_a_bad_one_with_1() -> None:
    small = '{"prompt": "x", "width": 64, "height": 64, "steps": 1}'
    assert run_locally("--test_input", f'{{"input": {small}}}').returncode == 0
    bad = run_locally("--test_input", '{"input": {"prompt": "x", "steps": 0}}')
    assert bad.returncode == 1
    assert "num_inference_steps" in bad.stdout
    assert "Traceback" not in bad.stdout + bad.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MODEL_DIR": "/nowhere"}, "/nowhere"),
        ({"BUCKET_ENDPOINT_URL": "https://bucket.example"}, "BUCKET_SECRET_ACCESS_KEY"),
        ({"MAX_ROWS": "many", "DEFAULT_STEPS": "0"}, "MAX_ROWS"),
        ({"DEVICE": "cuda"}, "DEVICE"),
    ],
    ids=["no model", "half a bucket", "bad numbers", "no such device"],
)
def test_settings_that_cannot_work_stop_it_at_start(environment: dict[str, str], expected: str) -> None:
    done = run_locally(**environment)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


class TestWithoutAUsableGpu:
    """A worker for a GPU never draws on the CPU by mistake."""

    @pytest.fixture
    def old_driver(self, tmp_path: Path) -> dict[str, str]:
        """An environment with an `nvidia-smi` that tells of driver 570, which CUDA 13 cannot use."""
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 570.86.10\n")
        tool.chmod(0o755)
        return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    @pytest.mark.slow
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("device", ["cuda", "auto", None])
    def test_the_start_stops_with_the_driver_found_and_the_driver_needed(
        self, old_driver: dict[str, str], device: str | None
    ) -> None:
        done = run_locally(**old_driver, **({"DEVICE": device} if device else {}))
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if "cannot start" in line]
        assert f"DEVICE: is {device or 'auto'}" in line
        assert "570.86.10" in line
        assert "580.65.06" in line
        assert "Traceback" not in done.stderr

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    async def test_in_production_it_is_reported_to_the_platform_and_no_job_is_taken(
        self, old_driver: dict[str, Any]
    ) -> None:
        async with running_worker(**old_driver) as worker:
            assert await worker.exit_code() == 1
            assert "570.86.10" in worker.text
            assert worker.platform.unhealthy
            assert worker.platform.taken == []

    def test_the_cpu_is_taken_where_it_is_asked_for(self, old_driver: dict[str, str]) -> None:
        small = '{"prompt": "x", "width": 64, "height": 64, "steps": 1}'
        done = run_locally("--test_input", f'{{"input": {small}}}', **old_driver, DEVICE="cpu")
        assert done.returncode == 0, done.stderr[-2000:]


def test_a_broken_model_stops_it_and_names_the_file(broken_model: Path) -> None:
    done = run_locally(MODEL_DIR=str(broken_model))
    assert done.returncode == 1
    assert "unet/diffusion_pytorch_model.safetensors is damaged" in done.stderr


async def test_in_production_a_broken_model_is_reported_to_the_platform(broken_model: Path) -> None:
    async with running_worker(MODEL_DIR=str(broken_model)) as worker:
        assert await worker.exit_code() == 1
        assert "is damaged" in worker.text
        await asyncio.sleep(0)
        assert worker.platform.unhealthy
        assert worker.platform.taken == []
