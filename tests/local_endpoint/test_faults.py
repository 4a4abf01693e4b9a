"""Everything that can break, broken on purpose: nothing is lost, and each fault has its outcome."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from local_endpoint.clock import Clock
from local_endpoint.config import Config
from local_endpoint.core import Core, Submission
from local_endpoint.ledger import Ledger
from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import KEY, WORKER_KEY, Endpoint, eventually

QUICK = ("--ping-interval", "1", "--worker-timeout", "2.5", "--no-rate-limits")


def run_many(endpoint: Endpoint, count: int) -> list[str]:
    """Queue jobs whose outputs tell them apart."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: endpoint.run({"seed": n, "sleep_s": 0.1}), range(count)))


def assert_all_complete(endpoint: Endpoint, ids: list[str], timeout_s: float = 60) -> None:
    """Every job has its own result."""
    jobs = len(ids)
    eventually(lambda: endpoint.health()["jobs"]["completed"] >= jobs, timeout_s, pause_s=0.2)
    with ThreadPoolExecutor(8) as pool:
        for n, status in enumerate(pool.map(endpoint.status, ids)):
            assert (status["status"], status["output"][0]["seed"]) == ("COMPLETED", n)
    health = endpoint.health()["jobs"]
    assert (health["completed"], health["failed"], health["inQueue"], health["inProgress"]) == (jobs, 0, 0, 0)


class TestKilled:
    @pytest.mark.slow
    def test_the_endpoint_in_the_middle_of_a_thousand_jobs(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint(*QUICK, process=True)
        for name in ("a", "b"):
            endpoint.sdk_worker(name, CONCURRENCY="100")
        endpoint.wait_ready(2)
        with ThreadPoolExecutor() as pool:
            submitted = pool.submit(run_many, endpoint, 1000)
            eventually(lambda: endpoint.health()["jobs"]["completed"] > 100)
            ids = submitted.result()
            assert endpoint.health()["jobs"]["completed"] < 1000
            endpoint.kill()
        time.sleep(1)
        endpoint.start()
        assert_all_complete(endpoint, ids)

    def test_one_of_three_workers(self, make_endpoint: MakeEndpoint) -> None:
        """The worker's ping process is left alive, as a plain kill -9 leaves it."""
        endpoint = make_endpoint(*QUICK, process=True)
        workers = [endpoint.sdk_worker(name, CONCURRENCY="10") for name in ("a", "b", "c")]
        endpoint.wait_ready(3)
        ids = run_many(endpoint, 120)
        eventually(lambda: endpoint.health()["jobs"]["completed"] > 20)
        os.kill(workers[0].pid, signal.SIGKILL)
        assert_all_complete(endpoint, ids)
        by_worker = {status["workerId"] for status in map(endpoint.status, ids)}
        assert by_worker == {"a", "b", "c"}

    @pytest.mark.slow
    def test_both(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint(*QUICK, process=True)
        worker = endpoint.sdk_worker("a", CONCURRENCY="10")
        endpoint.wait_ready()
        ids = run_many(endpoint, 60)
        eventually(lambda: endpoint.health()["jobs"]["completed"] > 5)
        endpoint.kill()
        os.kill(worker.pid, signal.SIGKILL)
        endpoint.start()
        endpoint.sdk_worker("b", CONCURRENCY="20")
        assert_all_complete(endpoint, ids)

    def test_a_caller_that_waits_is_answered_before_a_stop(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint(process=True)
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(endpoint.http.post, f"{endpoint.url}/runsync", json={"input": {}})
            eventually(lambda: endpoint.health()["jobs"]["inQueue"] == 1)
            assert endpoint.process is not None
            start_s = time.monotonic()
            endpoint.process.send_signal(signal.SIGINT)
            assert answer.result().json()["status"] == "IN_QUEUE"
            endpoint.process.wait(60)
            assert time.monotonic() - start_s < 60  # what a caller waits by default is 90
        endpoint.start()
        assert endpoint.health()["jobs"]["inQueue"] == 1

    @pytest.mark.slow
    def test_a_result_the_sdk_cannot_send_is_tried_again_and_then_failed(
        self, make_endpoint: MakeEndpoint
    ) -> None:
        """A lone surrogate in the output: the SDK drops the job without a word."""
        endpoint = make_endpoint(*QUICK, "--max-requeues", "0", process=True)
        endpoint.sdk_worker("a")
        endpoint.wait_ready()
        status = endpoint.final(endpoint.run({"surrogate": True}))
        assert (status["status"], "given up" in status["error"]) == ("FAILED", True)


def test_only_one_endpoint_runs_on_a_folder(endpoint: Endpoint) -> None:
    second = Endpoint(endpoint.folder)
    with pytest.raises(AssertionError, match="another endpoint is running"):
        second.start()


def test_a_port_in_use_is_said_in_one_line(endpoint: Endpoint, tmp_path: Path) -> None:
    second = Endpoint(tmp_path / "second")
    second.port = endpoint.port
    with pytest.raises(AssertionError) as failed:
        second.start()
    assert "cannot start" in str(failed.value)
    assert "Traceback" not in str(failed.value)


def dribble(sock: socket.socket, line: bytes, pause_s: float, timeout_s: float = 20) -> None:
    """Send header lines for ever, or until the other side has had enough."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        sock.sendall(line)
        time.sleep(pause_s)


class TestBrokenRequests:
    """Raw sockets, for what no HTTP client would do."""

    @staticmethod
    def post_head(endpoint: Endpoint, path: str, key: str, length: int) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    @contextlib.contextmanager
    def connected(self, endpoint: Endpoint) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=180) as sock:
            yield sock

    def test_what_is_no_http_is_answered_as_every_error_is(self, endpoint: Endpoint) -> None:
        for nonsense in (b"\x16\x03\x01\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"POST /v2 HTTP/9.9\r\n\r\n"):
            with self.connected(endpoint) as sock:
                sock.sendall(nonsense)
                answer = b""
                while data := sock.recv(4096):
                    answer += data
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400")
            assert b"application/json" in head
            assert "not valid HTTP" in json.loads(body)["error"]

    def test_a_network_cut_in_the_middle_of_a_result_changes_nothing(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run()
        endpoint.take()
        path = f"/v2/stable-diffusion-v1/job-done/w/{job_id}?gpu=24&isStream=false"
        with self.connected(endpoint) as sock:
            sock.sendall(self.post_head(endpoint, path, WORKER_KEY, 1000) + b'{"output": "half of')
        time.sleep(0.3)
        assert endpoint.status(job_id)["status"] == "IN_PROGRESS"
        endpoint.done(job_id, output="all of it")
        assert endpoint.status(job_id)["output"] == "all of it"

    def test_a_head_that_never_ends_is_cut_off(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--request-timeout", "1")
        with self.connected(endpoint) as sock:
            start_s = time.monotonic()
            sock.sendall(b"POST /v2/stable-diffusion-v1/run HTTP/1.1\r\nHost: x\r\n")
            assert sock.recv(100) == b""
            assert time.monotonic() - start_s > 0.5
        assert endpoint.health()

    def test_so_is_one_that_dribbles_and_one_that_says_nothing(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--request-timeout", "1")
        with self.connected(endpoint) as silent, self.connected(endpoint) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            with pytest.raises(OSError, match=r"reset|[Pp]ipe"):
                dribble(sock, b"X: y\r\n", pause_s=0.05)
            assert silent.recv(100) == b""

    def test_a_head_without_end_in_size_is_cut_off(self, endpoint: Endpoint) -> None:
        with self.connected(endpoint) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            with pytest.raises(OSError, match=r"reset|[Pp]ipe"):
                dribble(sock, b"X: " + b"y" * 1000 + b"\r\n", pause_s=0)

    def test_a_body_that_never_ends_is_answered_408(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--request-timeout", "1")
        with self.connected(endpoint) as sock:
            sock.sendall(
                self.post_head(endpoint, "/v2/stable-diffusion-v1/run", f"Bearer {KEY}", 1000) + b"{"
            )
            assert sock.recv(100).startswith(b"HTTP/1.1 408 ")
        assert endpoint.health()["jobs"]["inQueue"] == 0

    def test_a_hundred_of_them_keep_nobody_else_out(self, endpoint: Endpoint) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                sock = stack.enter_context(self.connected(endpoint))
                sock.sendall(b"POST /v2/stable-diffusion-v1/run HTTP/1.1\r\nHost: x\r\n")
            assert endpoint.run()

    def test_what_is_no_http_at_all_is_400(self, endpoint: Endpoint) -> None:
        for noise in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
            b"\r\n\r\nnonsense\r\n\r\n",
        ):
            with self.connected(endpoint) as sock:
                sock.sendall(noise)
                assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_what_time_does_goes_on_after_the_disk_was_full(
    make_endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the disk is full for as long as the patch lasts, and only for the clock's work."""
    endpoint = make_endpoint("--no-strict")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end_overdue", full)
        job_id = endpoint.run(policy={"ttl": 100})
        time.sleep(1)
        assert endpoint.status(job_id)["status"] == "IN_QUEUE"
    assert endpoint.final(job_id)["status"] == "TIMED_OUT"


class TestClock:
    def test_a_wall_clock_that_jumps_changes_nothing(self) -> None:
        wall_s, monotonic_s = [1000.0], [5.0]
        clock = Clock(wall_s=lambda: wall_s[0], monotonic_s=lambda: monotonic_s[0])
        assert clock.now_ms() == 1_000_000
        for jump_s in (-10_000, 50_000):
            wall_s[0] += jump_s
            monotonic_s[0] += 1
        assert clock.now_ms() == 1_002_000

    def test_over_a_restart_it_does_not_run_backwards(self) -> None:
        clock = Clock(not_before_ms=2_000_000, wall_s=lambda: 1000.0, monotonic_s=lambda: 0.0)
        assert clock.now_ms() == 2_000_000


REQUEST = Submission(
    sync=False,
    input=b"{}",
    extras=b"{}",
    webhook=None,
    execution_timeout_ms=1000,
    ttl_ms=100_000,
    low_priority=False,
)


async def test_ten_thousand_waiting_jobs_slow_nothing_down(quick_path: Path) -> None:
    core = Core(Config(folder=quick_path, keys=("k",), worker_key="w"))
    await asyncio.gather(*(core.submit(REQUEST) for _ in range(10_000)))
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    start_s = time.process_time()
    for _ in range(10):
        assert len(await core.take("w", None, most=1, idle=False, gone=gone)) == 1
        assert core.health()["jobs"]["inQueue"] > 9000
        await core.tick()
    assert (time.process_time() - start_s) / 10 < 0.1
    assert await core.purge_queue() == 9990
    core.close()


async def test_a_process_that_stood_still_does_not_take_its_workers_for_dead(quick_path: Path) -> None:
    core = Core(Config(folder=quick_path, keys=("k",), worker_key="w", worker_timeout_s=1.0))
    job = await core.submit(replace(REQUEST, execution_timeout_ms=60_000))
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await core.take("w", None, most=1, idle=False, gone=gone)
    await core.tick()
    time.sleep(2.5)  # noqa: ASYNC251 - the point of it
    await core.tick()
    assert (await core.view(job.id)).job.status == "IN_PROGRESS"
    core.close()


async def test_a_job_whose_worker_hangs_up_at_the_last_moment_is_given_back(quick_path: Path) -> None:
    core = Core(Config(folder=quick_path, keys=("k",), worker_key="w"))
    job = await core.submit(REQUEST)
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    taking = asyncio.create_task(core.take("w", None, most=1, idle=False, gone=gone))
    await asyncio.sleep(0)
    gone.set_result(None)
    assert await taking == []
    view = await core.view(job.id)
    assert (view.job.status, view.job.lost_workers) == ("IN_QUEUE", 0)
    core.close()
