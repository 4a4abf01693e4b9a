"""Jobs whose LoRAs come from elsewhere, while something goes wrong: a worker is killed, a disk is full, a server
stalls or leads astray. The job fails in words or is drawn right, and the next one is not affected."""

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdworker.errors import UserError
from sdworker.network.addresses import is_public
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker
from tests.assets.conftest import Server

PENCIL = Path(__file__).resolve().parents[2] / "models" / "loras" / "pencil.safetensors"
FILE = "/pencil.safetensors"
JOB = {"prompt": "a red heart", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
ELSEWHERE = "127.0.0.2"


@asynccontextmanager
async def worker_with(model: Path, cache: Path, **settings: Any) -> AsyncIterator[Worker]:
    usual: dict[str, Any] = {
        "model_dir": model,
        "addon_cache_dir": cache,
        "addon_hosts": ("127.0.0.1",),
        "runpod_allow_private_download_urls": True,
    }
    worker = build_worker(Settings(**usual | settings))
    try:
        yield worker
    finally:
        worker.engine.close()


async def draw(worker: Worker, lora: str | None = None) -> bytes:
    """The pixels of a job's picture."""
    loras = {} if lora is None else {"loras": [{"name": lora}]}
    ((output),) = await worker.run({"id": "a", "input": JOB | loras})
    return Image.open(io.BytesIO(base64.b64decode(output["image"]))).tobytes()


async def refusal(worker: Worker, lora: str) -> str:
    with pytest.raises(UserError) as error:
        await draw(worker, lora)
    assert await draw(worker)  # the next job
    return str(error.value)


CHILD = """
import sdworker.quick_start
import asyncio, sys
from pathlib import Path
from sdworker.settings import Settings
from sdworker.startup import build_worker
model, cache, url = sys.argv[1:]
worker = build_worker(Settings(model_dir=Path(model), addon_cache_dir=Path(cache), addon_hosts=("127.0.0.1",),
                               runpod_allow_private_download_urls=True))
asyncio.run(worker.run({"id": "a", "input": {"prompt": "a red heart", "num_inference_steps": 2,
                                             "loras": [{"name": url}]}}))
"""


@pytest.mark.slow  # a worker in a process of its own
async def test_a_worker_killed_in_a_download_leaves_nothing_wrong_to_the_next_on_its_volume(
    model: Path, tmp_path: Path, hub: Server
) -> None:
    hub.files[FILE] = PENCIL.read_bytes()
    hub.hold[FILE] = asyncio.Event()
    cache = tmp_path / "cache"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(model), str(cache), hub.url(FILE)
    )
    await hub.reached[FILE].wait()
    await until_something_is_in(cache / "parts")
    child.send_signal(signal.SIGKILL)
    await child.wait()
    assert not list((cache / "blobs").iterdir())
    [part] = (path for path in (cache / "parts").iterdir() if path.suffix != ".json")
    arrived = part.stat().st_size
    assert 0 < arrived < PENCIL.stat().st_size
    hub.hold[FILE].set()

    async with worker_with(model, cache) as worker:
        assert await draw(worker, hub.url(FILE)) == await draw(worker, "pencil") != await draw(worker)
    assert hub.requests[-1][1]["Range"] == f"bytes={arrived}-"
    [kept] = (cache / "blobs").iterdir()
    assert kept.read_bytes() == PENCIL.read_bytes()


async def until_something_is_in(folder: Path) -> None:
    async with asyncio.timeout(60):
        while not any(path.stat().st_size > 1000 for path in folder.iterdir()):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory, that holds no LoRA."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


async def test_a_full_disk_fails_the_job_that_needs_it_in_words(
    model: Path, tiny_disk: Path, hub: Server
) -> None:
    hub.files[FILE] = PENCIL.read_bytes()
    async with worker_with(model, tiny_disk) as worker:
        assert "the disk that add-ons are kept on is full" in await refusal(worker, hub.url(FILE))
        local = await draw(worker, "pencil")
        await asyncio.to_thread(resize, tiny_disk, "50m")
        assert await draw(worker, hub.url(FILE)) == local


async def test_a_download_that_stalls_is_given_up_and_gone_on_with_by_the_next_job(
    model: Path, tmp_path: Path, hub: Server
) -> None:
    hub.files[FILE] = PENCIL.read_bytes()
    hub.hold[FILE] = asyncio.Event()
    async with worker_with(model, tmp_path / "cache", addon_timeout_s=1) as worker:
        assert "did not arrive within 1 s (ADDON_TIMEOUT_S)" in await refusal(worker, hub.url(FILE))
        hub.hold[FILE].set()
        assert await draw(worker, hub.url(FILE)) == await draw(worker, "pencil")
    assert hub.requests[-1][1]["Range"].startswith("bytes=")


@pytest.mark.parametrize("target", [f"http://{ELSEWHERE}:{{port}}/x", "http://nowhere.invalid/x"])
async def test_a_redirect_into_a_private_network_is_not_followed(
    model: Path, tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """And whether there is such a name inside is not told."""
    # The hub alone is public, beside what really is.
    monkeypatch.setattr("sdworker.network.dial.is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    dialled = asyncio.Event()
    inside = await asyncio.start_server(lambda *_: dialled.set(), ELSEWHERE)
    hub.redirects[FILE] = target.format(port=inside.sockets[0].getsockname()[1])
    private = {"runpod_allow_private_download_urls": False}
    async with inside, worker_with(model, tmp_path / "cache", **private) as worker:
        message = await refusal(worker, hub.url(FILE))
    assert message.endswith("it leads to a host that cannot be resolved or is not public")
    assert ELSEWHERE not in message
    assert not dialled.is_set()


async def test_a_kept_file_that_vanishes_is_fetched_anew(model: Path, tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = PENCIL.read_bytes()
    async with worker_with(model, tmp_path / "cache") as worker:
        first = await draw(worker, hub.url(FILE))
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        assert await draw(worker, hub.url(FILE)) == first
    assert len(hub.requests) == 2
