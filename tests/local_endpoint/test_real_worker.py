"""The endpoint with the project's own worker and its embedded model: the documents' promise, kept."""

import base64
import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.local_endpoint.harness import KEY, ROOT, Endpoint, eventually

MODEL = Path(os.environ.get("MODEL_DIR", ROOT / "models" / "emoji"))
pytestmark = pytest.mark.skipif(not (MODEL / "unet").is_dir(), reason="needs the embedded model")
SMALL = {"prompt": "a red apple", "width": 64, "height": 64, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def drawing(quick_disk: Path) -> Iterator[Endpoint]:
    endpoint = Endpoint(quick_disk / "real" / "data", "--no-rate-limits").start()
    endpoint.sdk_worker(
        script=ROOT / "handler.py", MODEL_DIR=str(MODEL), DEVICE="cpu", PROGRESS_INTERVAL_MS="50"
    )
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


def test_runsync_returns_images_with_their_seeds(drawing: Endpoint) -> None:
    request = {"input": {**SMALL, "num_outputs": 2, "seed": 7}}
    answer = drawing.http.post(f"{drawing.url}/runsync", json=request).json()
    assert answer["status"] == "COMPLETED", answer
    assert [item["seed"] for item in answer["output"]] == [7, 8]
    for item in answer["output"]:
        assert Image.open(io.BytesIO(base64.b64decode(item["image"]))).size == (64, 64)


def test_progress_tells_the_steps(drawing: Endpoint) -> None:
    job_id = drawing.run({**SMALL, "width": 192, "height": 192, "num_inference_steps": 60})
    seen = []
    while (status := drawing.status(job_id))["status"] in ("IN_QUEUE", "IN_PROGRESS"):
        if (output := status.get("output")) and output not in seen:
            seen.append(output)
        time.sleep(0.05)
    assert status["status"] == "COMPLETED"
    assert len(seen) >= 2
    assert [output["step"] for output in seen] == sorted(output["step"] for output in seen)
    assert all(0 < output["progress"] <= 1 and output["steps"] == 60 for output in seen)


def test_a_cancelled_job_makes_room_for_the_next(drawing: Endpoint) -> None:
    long_one = drawing.run({**SMALL, "width": 256, "height": 256, "num_inference_steps": 500})
    eventually(lambda: "output" in drawing.status(long_one))
    drawing.http.post(f"{drawing.url}/cancel/{long_one}")
    assert drawing.final(drawing.run(SMALL))["status"] == "COMPLETED"
    log = drawing.folder.parent / "sdk-1.log"
    eventually(
        lambda: any(long_one in line and "stopped" in line.lower() for line in log.read_text().splitlines())
    )


@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="needs curl and jq")
def test_the_readmes_commands_draw_an_image(drawing: Endpoint, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.split("<!-- curl lines")[1].split("<!-- end of the curl lines")[0]
    script = "\n".join(re.findall(r"```bash\n(.*?)```", shown, re.DOTALL))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HOST": drawing.base, "API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert '"status": "COMPLETED"' in done.stdout or '"status":"COMPLETED"' in done.stdout
    assert '"workers"' in done.stdout
    with Image.open(tmp_path / "decoded_image.png") as image:
        assert image.size == (128, 128)


def test_a_bad_input_fails_with_a_sentence_for_its_user(drawing: Endpoint) -> None:
    status = drawing.final(drawing.run({**SMALL, "num_inference_steps": 900}))
    assert status["status"] == "FAILED"
    assert "num_inference_steps" in status["error"]
    assert "Traceback" not in status["error"]
