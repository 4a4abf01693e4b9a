"""The runpod SDK's place in the worker: it starts, reads arguments, runs fitness checks; the job loop is ours.

`install` puts `serve` where the SDK has its own `run_worker`. That is right only as long as the SDK speaks with
the platform as it did when this was written: where its source is another one, nothing is replaced, a warning says
what is lost by that, and its own loop serves.
"""

import asyncio
import atexit
import contextlib
import hashlib
import importlib
import inspect
import logging
import os
import signal
import sys
import threading

from runpod import http_client
from runpod.version import __version__ as runpod_version

from sdworker.process.environment import DEFAULT_PING_INTERVAL_MS
from sdworker.serverless import wire
from sdworker.serverless.heartbeat import Heartbeat
from sdworker.serverless.job_loop import JobLoop, Serves
from sdworker.serverless.outbox import Outbox
from sdworker.settings import Settings

__all__ = ["fingerprint", "install", "is_ours", "worker_id"]

log = logging.getLogger(__name__)

# sha256 of the source of what speaks with the platform, in runpod 1.12.0.
_WRITTEN_FOR = "806d6383e935d36305877236f47b13f396e67cbacbc6303ea79ea73c9b6ee149"
# Once all jobs are answered the process ends within this time, whatever threads hang.
_END_S = 10.0


_RELIED_ON = (
    "http_client.AsyncClientSession",
    "http_client.get_auth_header",
    "serverless.worker.main",
    "serverless.worker.run_worker",
    "serverless.modules.rp_fitness.run_fitness_checks",
    "serverless.modules.rp_http._handle_result",
    "serverless.modules.rp_http._transmit",
    "serverless.modules.rp_job._job_get_url",
    "serverless.modules.rp_job._job_stop_url",
    "serverless.modules.rp_job.get_job",
    "serverless.modules.rp_job.get_stop_signals",
    "serverless.modules.rp_job.run_job",
    "serverless.modules.rp_ping.Heartbeat",
    "serverless.modules.rp_scale.JobScaler",
)


def fingerprint() -> str:
    """sha256 of the source of the SDK's parts that this room replaces or relies on.

    Raises:
        AttributeError, ImportError: the SDK has no such part.
    """
    sources = []
    for path in _RELIED_ON:
        module, _, name = path.rpartition(".")
        sources.append(inspect.getsource(getattr(importlib.import_module(f"runpod.{module}"), name)))
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def is_ours() -> bool:
    """Whether the installed SDK is the one this was written for."""
    try:
        return fingerprint() == _WRITTEN_FOR
    except (AttributeError, ImportError, OSError, TypeError):
        return False


def install(service: Serves, settings: Settings, addresses: wire.Addresses) -> bool:
    """Have the SDK serve with our job loop. False: it is another SDK, and serves with its own."""
    if not is_ours():
        log.warning(
            "runpod %s is not the SDK this worker's job loop was written for (1.12.0), so the SDK's own serves: "
            "jobs may start a second later, a result that the platform does not take is offered three times only, "
            "and a job that arrives while the worker is told to end may be lost",
            runpod_version,
        )
        # Its ping loop counts in whole seconds and does not pause at all for less than one.
        if _ping_interval_ms() < 1000:
            os.environ["RUNPOD_PING_INTERVAL"] = "1000"
        return False
    from runpod.serverless import worker

    worker.run_worker = lambda _config: serve(service, settings, addresses)
    return True


def serve(service: Serves, settings: Settings, addresses: wire.Addresses) -> None:
    """The SDK's `run_worker`: fitness checks, then the job loop; ends the process with its exit code."""
    from runpod.serverless.modules import rp_fitness

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # nothing was taken yet
    asyncio.run(rp_fitness.run_fitness_checks())
    code = asyncio.run(_serve(service, settings, addresses))
    sys.exit(code)


async def _serve(service: Serves, settings: Settings, addresses: wire.Addresses) -> int:
    async with http_client.AsyncClientSession() as session:
        outbox = Outbox(
            session,
            addresses,
            most_bytes=int(settings.keep_results_mb * wire.MB),
            grace_s=settings.shutdown_grace_s,
        )
        heartbeat = Heartbeat(addresses.ping, _ping_interval_ms() / 1000) if addresses.ping else None
        jobs = JobLoop(
            service,
            addresses=addresses,
            session=session,
            heartbeat=heartbeat,
            outbox=outbox,
            keep_s=settings.keep_results_s,
        )
        _end_on_signals(jobs)
        code = await jobs.run()
    _end_for_sure(code)
    return code


def _end_on_signals(jobs: JobLoop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
            asyncio.get_running_loop().add_signal_handler(number, jobs.end)


def _end_for_sure(code: int) -> None:
    """A thread that hangs, at a bucket say, would keep a process that has nothing left to do."""
    over = threading.Event()
    atexit.register(over.set)

    def watch() -> None:
        if not over.wait(_END_S):
            log.warning("something in this worker hangs; it ends without waiting for it")
            os._exit(code)

    threading.Thread(target=watch, name="end", daemon=True).start()


def _ping_interval_ms() -> int:
    return int(os.environ.get("RUNPOD_PING_INTERVAL") or DEFAULT_PING_INTERVAL_MS)


def worker_id() -> str:
    """The name this worker goes by at the platform."""
    from runpod.serverless.modules import worker_state

    return str(worker_state.WORKER_ID)
