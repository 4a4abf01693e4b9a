"""How much the local endpoint carries: jobs a second, status latency, memory, and what it costs when idle.

    python bench/serving/endpoint_load.py [--jobs 20000] [--rate 300] [--json out.json]

Three processes on loopback: the endpoint, a stand-in worker that answers every job at once (the SDK's own
loop would be the limit), and the callers here. Two measures: as fast as it goes, and paced at `--rate`
jobs a second with a status request for every job on top, whose latency counts.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

KEY, WORKER_KEY = "bench-key", "bench-worker-key"
PORT = 8907
BASE = f"http://127.0.0.1:{PORT}/v2/stable-diffusion-v1"
HEADERS = {"Authorization": f"Bearer {KEY}"}
BODY = {"input": {"prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists"}}
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def stand_in_worker() -> None:
    """Take up to 50 jobs at a time and answer each at once."""
    output = json.dumps({"output": [{"image": "x" * 1000, "seed": 1}]})

    async def done(session: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        async with session.post(f"{BASE}/job-done/w1/{job['id']}?gpu=none&isStream=false", data=output):
            pass

    async def take(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(
                f"{BASE}/job-take-batch/w1?gpu=none&batch_size=50&job_in_progress=1"
            ) as answer:
                jobs = await answer.json() if answer.status == 200 else []
            await asyncio.gather(*(done(session, job) for job in jobs))

    async with aiohttp.ClientSession(headers={"Authorization": WORKER_KEY}) as session:
        await asyncio.gather(*(take(session) for _ in range(2)))


@asynccontextmanager
async def running(folder: str, *, worker: bool) -> AsyncIterator[int]:
    """The endpoint, with a worker if wanted; yields the endpoint's process id."""
    options = ["--port", str(PORT), "--data", folder, "--key", KEY, "--worker-key", WORKER_KEY]
    endpoint = [sys.executable, "-m", "local_endpoint", *options, "--no-rate-limits"]
    start = asyncio.create_subprocess_exec
    processes = [await start(*endpoint, stdout=subprocess.DEVNULL)]
    try:
        await until(lambda health: True)
        if worker:
            processes.append(await start(sys.executable, __file__, "--worker"))
            await until(lambda health: health["workers"]["idle"] > 0)
        yield processes[0].pid
    finally:
        for process in reversed(processes):
            process.terminate()
            await process.wait()


async def until(ready: Callable[[Any], bool], timeout_s: float = 30) -> None:
    """Ask for the endpoint's health until it is as wanted."""
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession(headers=HEADERS) as session:
        while True:
            try:
                async with session.get(f"{BASE}/health") as answer:
                    if ready(await answer.json()):
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


async def one_job(session: aiohttp.ClientSession, poll_s: float, latencies_ms: list[float]) -> None:
    """From /run to COMPLETED, timing each status request."""
    async with session.post(f"{BASE}/run", json=BODY) as answer:
        job_id = (await answer.json())["id"]
    while True:
        await asyncio.sleep(poll_s)
        start_s = time.perf_counter()
        async with session.get(f"{BASE}/status/{job_id}") as answer:
            status = (await answer.json())["status"]
        latencies_ms.append((time.perf_counter() - start_s) * 1000)
        if status == "COMPLETED":
            return
        assert status in ("IN_QUEUE", "IN_PROGRESS"), status


async def at_full_speed(session: aiohttp.ClientSession, jobs: int) -> dict[str, float]:
    """Callers that do nothing but ask, a hundred at a time."""
    left = iter(range(jobs))

    async def caller() -> None:
        for _ in left:
            await one_job(session, 0.05, [])

    start_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(100)))
    return {"jobs_per_s": jobs / (time.perf_counter() - start_s)}


async def at_rate(session: aiohttp.ClientSession, jobs: int, rate: float) -> dict[str, float]:
    """Jobs that arrive at a steady rate, whatever becomes of those before them."""
    latencies_ms: list[float] = []
    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for n in range(jobs):
            if (ahead_s := start_s + n / rate - time.perf_counter()) > 0:
                await asyncio.sleep(ahead_s)
            tasks.create_task(one_job(session, 0.1, latencies_ms))
    wall_s = time.perf_counter() - start_s
    cuts = statistics.quantiles(latencies_ms, n=1000)
    return {
        "jobs_per_s": jobs / wall_s,
        "status_p50_ms": cuts[499],
        "status_p99_ms": cuts[989],
        "status_p99.9_ms": cuts[998],
    }


async def watched(pid: int, measure: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
    """A measure together with the endpoint's CPU and memory."""
    before_mb, before_cpu_s, start_s = memory_mb(pid), cpu_s(pid), time.perf_counter()
    result = await measure()
    share = (cpu_s(pid) - before_cpu_s) / (time.perf_counter() - start_s)
    return {
        **result,
        "endpoint_cores": share,
        "memory_mb_before": before_mb,
        "memory_mb_after": memory_mb(pid),
    }


async def idle(seconds: float) -> dict[str, float]:
    """Ten workers that wait for jobs and for stops, and ping."""
    headers = {"Authorization": WORKER_KEY}

    async def ask(session: aiohttp.ClientSession, url: str, pause_s: float) -> None:
        while True:
            async with session.get(url) as answer:
                await answer.read()
            await asyncio.sleep(pause_s)

    with tempfile.TemporaryDirectory() as folder:
        async with running(folder, worker=False) as pid, aiohttp.ClientSession(headers=headers) as session:
            tasks = [
                asyncio.create_task(ask(session, f"{BASE}/{route}/w{n}?gpu=none", pause_s))
                for n in range(10)
                for route, pause_s in (("job-take", 0), ("job-stop", 1), ("ping", 10))
            ]
            await asyncio.sleep(2)
            before_s = cpu_s(pid)
            await asyncio.sleep(seconds)
            share = (cpu_s(pid) - before_s) / seconds
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return {"endpoint_cores": share}


async def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--idle-s", type=float, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        await stand_in_worker()
        return
    results: dict[str, dict[str, float]] = {}
    connector = aiohttp.TCPConnector(limit=0)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            running(folder, worker=True) as pid,
            aiohttp.ClientSession(connector=connector, headers=HEADERS) as session,
        ):
            await at_full_speed(session, 500)
            results["full speed"] = await watched(pid, lambda: at_full_speed(session, args.jobs // 2))
            results[f"{args.rate:g} jobs/s"] = await watched(
                pid, lambda: at_rate(session, args.jobs // 2, args.rate)
            )
    results["idle"] = await idle(args.idle_s)
    for name, result in results.items():
        print(f"{name:14}", "  ".join(f"{key} {value:.3g}" for key, value in result.items()))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
