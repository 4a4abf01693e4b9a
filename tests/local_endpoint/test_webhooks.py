"""Callers who want to be called back."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from local_endpoint.config import Config
from local_endpoint.core import Core, Submission
from local_endpoint.webhooks import Webhooks
from tests.local_endpoint.harness import Endpoint, eventually


class Receiver(ThreadingHTTPServer):
    """Keeps what it is told, and answers with the next of its answers, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"
        self.heard: list[dict[str, Any]] = []
        self.answers: list[int] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class TestSending:
    def test_a_finished_job_is_told_as_its_status_is(self, shared: Endpoint, receiver: Receiver) -> None:
        job_id = shared.run({"prompt": "dog"}, webhook=receiver.url)
        shared.take()
        shared.done(job_id, output=[{"image": "abc", "seed": 1}])
        eventually(lambda: receiver.heard)
        assert receiver.heard == [shared.status(job_id)]

    def test_so_is_a_cancelled_one(self, shared: Endpoint, receiver: Receiver) -> None:
        job_id = shared.run(webhook=receiver.url)
        shared.http.post(f"{shared.url}/cancel/{job_id}")
        assert eventually(lambda: receiver.heard)[0]["status"] == "CANCELLED"

    def test_progress_is_not(self, shared: Endpoint, receiver: Receiver) -> None:
        job_id = shared.run(webhook=receiver.url)
        shared.take()
        shared.done(job_id, status="IN_PROGRESS", output=1)
        shared.done(job_id, output=2)
        eventually(lambda: receiver.heard)
        assert [body["output"] for body in receiver.heard] == [2]

    def test_a_receiver_that_is_away_holds_nobody_up(self, shared: Endpoint, receiver: Receiver) -> None:
        away, here = shared.run(webhook="http://127.0.0.1:9/"), shared.run(webhook=receiver.url)
        for job_id in (away, here):
            shared.take()
            shared.done(job_id)
        eventually(lambda: receiver.heard)


async def until(core: Core, done: Callable[[], bool]) -> None:
    """Send webhooks until something is so."""
    task = asyncio.create_task(Webhooks(core).run())
    while not done():
        assert not task.done()
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def cancelled_job(core: Core, url: str) -> None:
    """A job with a webhook, and over."""
    times = {"execution_timeout_ms": 1000, "ttl_ms": 1000}
    request = Submission(sync=False, input=b"{}", extras=b"{}", webhook=url, low_priority=False, **times)
    job = await core.submit(request)
    await core.cancel(job.id)


@pytest.mark.parametrize(("answers", "tries"), [([], 1), ([500], 2), ([302, 404], 3), ([500, 500, 500], 3)])
async def test_what_is_not_answered_200_is_tried_three_times_in_all(
    quick_path: Path, receiver: Receiver, answers: list[int], tries: int
) -> None:
    core = Core(Config(folder=quick_path, keys=("k",), worker_key="w", webhook_pause_s=0.1))
    receiver.answers = list(answers)
    await cancelled_job(core, receiver.url)
    await until(core, lambda: core.store.reader.next_webhook_ms() is None)
    assert len(receiver.heard) == tries
    core.close()


async def test_what_was_not_sent_yet_survives_a_restart(quick_path: Path, receiver: Receiver) -> None:
    config = Config(folder=quick_path, keys=("k",), worker_key="w", webhook_pause_s=0.1)
    receiver.answers = [500]
    core = Core(config)
    await cancelled_job(core, receiver.url)
    await until(core, lambda: len(receiver.heard) == 1)
    core.close()
    core = Core(config)
    await until(core, lambda: len(receiver.heard) == 2)
    core.close()
