"""Real endpoints and real workers for tests: processes that can be started, killed and started again."""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from local_endpoint.options import add_options, config_from
from local_endpoint.server import Server, listen, run_loop

KEY, WORKER_KEY = "test-key", "test-worker-key"
ENDPOINT_ID = "stable-diffusion-v1"
SDK_WORKER = Path(__file__).parent / "sdk_worker.py"
ROOT = Path(__file__).parents[2]
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
T = TypeVar("T")


def eventually(look: Callable[[], T | None], timeout_s: float = 180, pause_s: float = 0.05) -> T:
    """What `look` returns once it is true."""
    end_s = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end_s, f"did not happen within {timeout_s} s"
        time.sleep(pause_s)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its group: the SDK's ping process would outlive a worker that is killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Endpoint:
    """One endpoint in a process of its own, on a port and folder that survive it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.base}/v2/{ENDPOINT_ID}"
        self.options = options
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.log = folder.parent / f"{folder.name}.log"
        self.http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=180)
        self.worker_http = httpx.Client(headers={"Authorization": WORKER_KEY}, timeout=180)
        self.process: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> "Endpoint":
        keys = ["--key", KEY, "--worker-key", WORKER_KEY]
        command = [
            sys.executable,
            "-m",
            "local_endpoint",
            "--port",
            str(self.port),
            "--data",
            str(self.folder),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *keys, *self.options], stdout=log, stderr=log)
        eventually(self.answers)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for worker in self._workers:
            kill_group(worker)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(180)
        self.http.close()
        self.worker_http.close()

    # Callers.

    def run(self, request: dict[str, Any] | None = None, **beside: Any) -> str:
        answer = self.http.post(f"{self.url}/run", json={"input": request or {}, **beside})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"{self.url}/status/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def final(self, job_id: str, timeout_s: float = 30) -> dict[str, Any]:
        return eventually(
            lambda: status if (status := self.status(job_id))["status"] in FINAL else None, timeout_s
        )

    def health(self) -> dict[str, dict[str, int]]:
        return dict(self.http.get(f"{self.url}/health").json())

    # Workers by hand, for what the SDK would never do.

    def take(self, worker: str = "w", **query: Any) -> dict[str, Any]:
        answer = self.worker_http.get(f"{self.url}/job-take/{worker}", params={"gpu": "24", **query})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def done(self, job_id: str, worker: str = "w", **body: Any) -> httpx.Response:
        return self.worker_http.post(
            f"{self.url}/job-done/{worker}/{job_id}?gpu=24&isStream=false", json=body
        )

    def ping(self, worker: str = "w", *job_ids: str) -> None:
        params = {"job_id": ",".join(job_ids)} if job_ids else {}
        assert self.worker_http.get(f"{self.url}/ping/{worker}", params=params).status_code == 200

    # Workers by the SDK.

    def worker_env(self, worker: str) -> dict[str, str]:
        """The environment as the endpoint printed it, with an id for this worker."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("RUNPOD_")]
        printed = dict(line.split("=", 1) for line in lines)
        # The built-in checks want free memory, disk and the internet; a test machine may have none.
        skipped = {"RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true", "RUNPOD_SKIP_GPU_CHECK": "true"}
        return {**os.environ, **printed, **skipped, "RUNPOD_POD_ID": worker}

    def sdk_worker(
        self, worker: str = "sdk-1", *options: str, script: Path = SDK_WORKER, **env: str
    ) -> "subprocess.Popen[bytes]":
        with (self.folder.parent / f"{worker}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), *options],
                env={**self.worker_env(worker), **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._workers.append(process)
        return process

    def wait_ready(self, workers: int = 1) -> None:
        eventually(lambda: self.health()["workers"]["ready"] >= workers, timeout_s=180)


class ThreadEndpoint(Endpoint):
    """The same in a thread of the tests' process: up in no time, but it cannot be killed."""

    def start(self) -> "ThreadEndpoint":
        parser = argparse.ArgumentParser()
        add_options(parser)
        keys = ["--key", KEY, "--worker-key", WORKER_KEY]
        config = config_from(parser.parse_args(["--data", str(self.folder), *keys, *self.options]))
        listener = listen("127.0.0.1", self.port)

        async def serve() -> None:
            self.server = Server(config)
            self.loop = asyncio.get_running_loop()
            await self.server.serve(sockets=[listener])

        self.thread = threading.Thread(target=lambda: run_loop(serve()), daemon=True)
        self.thread.start()
        eventually(self.answers, pause_s=0.01)
        return self

    def answers(self) -> bool:
        try:
            return self.http.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        for worker in self._workers:
            kill_group(worker)
        self.http.close()
        self.worker_http.close()
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
