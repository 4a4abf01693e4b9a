"""An SDK that is not the one this was written for serves with its own loop; the log says what that costs."""

import shutil
from pathlib import Path

import pytest
import runpod

from sdworker.serverless import sdk

from .conftest import running_worker


def test_the_installed_sdk_is_the_one_it_was_written_for() -> None:
    assert sdk.is_ours()


def changed_sdk(folder: Path, module: str, old: str, new: str) -> Path:
    """A copy of the installed SDK with one change."""
    shutil.copytree(
        Path(runpod.__file__).parent, folder / "runpod", ignore=shutil.ignore_patterns("__pycache__")
    )
    file = folder / "runpod" / "serverless" / "modules" / module
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("rp_scale.py", "don't go rapidly", "slowly"),
        ("rp_http.py", "_transmit", "_send"),
    ],
    ids=["another text", "another name"],
)
async def test_with_a_changed_sdk_jobs_are_served_by_its_own_loop_after_a_warning(
    tmp_path: Path, module: str, old: str, new: str
) -> None:
    where = changed_sdk(tmp_path, module, old, new)
    async with running_worker(PYTHONPATH=str(where), RUNPOD_PING_INTERVAL="200") as worker:
        worker.platform.submit("job", prompt="x", width=64, height=64, num_inference_steps=2, seed=3)
        assert (await worker.platform.result("job"))["output"][0]["seed"] == 3
        worker.platform.submit("bad", prompt="")
        assert "prompt" in (await worker.platform.result("bad"))["error"]
        assert "is not the SDK this worker's job loop was written for" in worker.text
        assert "Traceback" not in worker.text
