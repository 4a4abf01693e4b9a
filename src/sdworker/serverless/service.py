"""The worker as the platform wants it: a job's answer, how many jobs at once, fitness checks."""

import asyncio
import atexit
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from runpod import RunPodLogger
from runpod.serverless import register_fitness_check

from sdworker.delivery import DeliveryError, result_bytes
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineLost
from sdworker.errors import DeploymentError, UserError
from sdworker.serverless import sdk, wire
from sdworker.serverless.progress import Progress
from sdworker.settings import Settings, load_settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

__all__ = ["Service", "configure"]

log = logging.getLogger(__name__)

_MB = 1_000_000


def configure() -> dict[str, Any]:
    """The configuration for `runpod.serverless.start`: everything checked, the model on its way.

    In production the checks run as the SDK's fitness checks, which report a failure to the platform. Its local
    modes never run those, so there they run here, and a worker that cannot work says why and exits with 1.
    """
    _quieten_sdk()
    try:
        settings = load_settings()
        if _in_production():
            addresses = _addresses()
            service = Service(settings, addresses)
            sdk.install(service, settings, addresses)
            for check in service.fitness_checks:
                register_fitness_check(check)
        else:
            service = Service(settings)
            service.load_model()
    except DeploymentError as error:
        sys.exit(f"The worker cannot start. {error}")
    return {"handler": service.handle, "concurrency_modifier": service.concurrency}


class Service:
    """The worker and what the platform asks of it."""

    def __init__(self, settings: Settings, addresses: wire.Addresses | None = None) -> None:
        """
        Args:
            addresses: where progress is posted; None: nowhere.
        """
        self._settings = settings
        self._addresses = addresses
        self._worker: Worker | None = None

    @property
    def fitness_checks(self) -> list[Callable[[], Awaitable[None] | None]]:
        """What must hold before a job is taken, in order."""
        return [self.load_model, self.check_bucket, self.warm_up]

    def load_model(self) -> None:
        """The model's files are whole, and it loads.

        Raises:
            ModelError, SettingsError: naming the file or the variable.
        """
        self._worker = build_worker(self._settings)
        self._worker.engine.when_lost(_drain)
        atexit.register(_end_with, self._worker.engine)

    async def warm_up(self) -> None:
        """The model draws."""
        if self._settings.warm_up:
            began = time.perf_counter()
            await self._ready_worker.warm_up()
            log.info("warmed up in %.2f s", time.perf_counter() - began)

    async def check_bucket(self) -> None:
        """The bucket, when one is configured, is there and lets us in."""
        await self._ready_worker.check_bucket()

    def concurrency(self, _current: int) -> int:
        """Jobs to hold at once: one number until steps have been measured, and another from then on."""
        return self._ready_worker.jobs_at_once

    @property
    def lost(self) -> str | None:
        """Why nothing can be drawn any more, None while all is well."""
        lost = None if self._worker is None else self._worker.engine.lost
        return None if lost is None else str(lost)

    async def handle(self, job: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """For the SDK's own loops: the output, or `{"error": …}`. Raises nothing but cancellation."""
        async with self.progress(str(job.get("id", ""))) as progress:
            body = await self.answer(job, progress)
        if "error" not in body:
            return body["output"]
        return {"error": body["error"], "refresh_worker": True} if "stopPod" in body else body

    def progress(self, job_id: str, session: aiohttp.ClientSession | None = None) -> Progress:
        """Posts the job's progress while it is open; its result must wait until it is closed."""
        return Progress(
            job_id,
            interval_ms=self._settings.progress_interval_ms,
            addresses=self._addresses,
            session=session,
        )

    async def answer(self, job: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """What the platform gets: the job's `output`, or an `error` in words for its user.

        Raises nothing but cancellation, and what is meant to end the process.
        """
        job_id = str(job.get("id", ""))
        try:
            output = await self._ready_worker.answer(job, progress.update, progress)
            self._check_size(job_id, output)
        except EngineLost as error:
            return {"error": _sendable(str(error)), "stopPod": True}
        except UserError as error:  # anything else is ours, and goes to the log
            log.warning("job %s failed: %s", job_id, type(error).__name__)
            return {"error": _sendable(str(error))}
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # a panic of Rust code is no Exception
            log.exception("job %s failed", job_id)
            return {
                "error": f"the worker failed on this job; its log has the cause, under job {_sendable(job_id)}"
            }
        return {"output": output}

    @property
    def _ready_worker(self) -> Worker:
        assert self._worker is not None, "load_model comes first"
        return self._worker

    def _check_size(self, job_id: str, output: object) -> None:
        """Refuse what the platform would refuse: it answers 400 and the SDK then loses the job silently.

        Raises:
            DeliveryError: saying how large it is and what to do.
        """
        limit_mb = self._settings.max_result_mb or (20.0 if job_id.startswith("sync-") else 10.0)
        size = result_bytes(output)
        if size > limit_mb * _MB:
            raise DeliveryError(
                f"the result is {size / _MB:.1f} MB, more than the {limit_mb:g} MB that can be returned; ask for "
                'fewer or smaller images, or output_format "jpeg" or "webp", or have images uploaded: set '
                "BUCKET_ENDPOINT_URL and its keys, or send s3Config with the job"
            )


def _drain(_lost: EngineLost) -> None:
    """Nothing is drawn here any more: take no new job, answer those there are, and end, for a fresh worker."""
    os.kill(os.getpid(), signal.SIGTERM)


def _end_with(engine: Engine) -> None:
    """The process ends: the engine's thread before it, since Python aborts under one that still computes.

    Where that takes too long, a compilation say, the process ends without Python's leave; with 1 if the engine is
    lost or something was not caught.
    """
    has_ended = engine.close(finish=False)
    failed = engine.lost is not None or getattr(sys, "last_value", None) is not None
    if has_ended and engine.lost is None:
        return
    for child in multiprocessing.active_children():  # the SDK's pings, which Python would have ended
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))


def _sendable(text: str) -> str:
    """Text that survives JSON in UTF-8; the SDK loses a job whose answer holds a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _addresses() -> wire.Addresses:
    """Where the platform is. A place to ping that is none costs the pings, not the worker.

    Raises:
        AddressError: jobs could not be taken or not be answered.
    """
    key = os.environ.get("RUNPOD_AI_API_KEY", "")
    if not (key.isascii() and key.isprintable()):
        raise wire.AddressError("RUNPOD_AI_API_KEY: has characters in it that no header can hold")
    environment = dict(os.environ)
    try:
        wire.ping_address(sdk.worker_id(), environment)
    except wire.AddressError as error:
        log.warning("%s; nothing is pinged", error)
        del environment["RUNPOD_WEBHOOK_PING"], os.environ["RUNPOD_WEBHOOK_PING"]
    if not {"RUNPOD_AI_API_KEY", "RUNPOD_POD_ID"} <= {name for name, value in environment.items() if value}:
        environment.pop("RUNPOD_WEBHOOK_PING", None)  # as the SDK: whoever has no name cannot ping
    return wire.Addresses.from_environment(sdk.worker_id(), environment)


def _in_production() -> bool:
    """Whether the SDK will run its fitness checks: as `runpod.serverless.worker` decides it."""
    arguments = sys.argv[1:]
    local = any(argument.startswith(("--test_input", "--rp_serve_api")) for argument in arguments)
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ and not local


def _quieten_sdk() -> None:
    """INFO unless something else was asked for: the SDK's default, DEBUG, logs prompts and images."""
    if not {"RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"} & os.environ.keys():
        RunPodLogger().level = "INFO"
    logging.getLogger("sdworker").setLevel(logging.INFO)
