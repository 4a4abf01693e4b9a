"""The real worker process, in the SDK's production mode, against the stand-in platform."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.standin import Platform, platform

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class WorkerProcess:
    """`python handler.py` as the platform runs it.

    Attributes:
        log: everything it printed so far.
    """

    platform: Platform
    process: asyncio.subprocess.Process
    log: bytearray
    _reader: "asyncio.Task[None]"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self, timeout_s: float = 240.0) -> int:
        async with asyncio.timeout(timeout_s):
            code = await self.process.wait()
            await self._reader
            return code

    @property
    def text(self) -> str:
        return self.log.decode("utf-8", "replace")


def signal_group(leader: int, number: int) -> None:
    """A signal to the whole group of a process that a test started as its leader; never to the test's own.

    Raises:
        ProcessLookupError: nobody is left in it.
    """
    assert leader > 1
    assert leader != os.getpgrp()
    os.killpg(leader, number)


@asynccontextmanager
async def running_worker(
    *, script: tuple[str, ...] = ("handler.py",), middlewares: tuple[Any, ...] = (), **environment: str
) -> AsyncIterator[WorkerProcess]:
    """A worker and its platform; killed at the end if it is still there."""
    async with platform(*middlewares) as standin:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-u",
            *script,
            cwd=ROOT,
            env={**_clean_environment(), **standin.environment(), **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        log = bytearray()
        assert process.stdout is not None
        reader = asyncio.create_task(_collect(process.stdout, log))
        worker = WorkerProcess(standin, process, log, reader)
        try:
            yield worker
        finally:
            # The whole group: the SDK's own ping process, where it serves, outlives a worker that is killed.
            with contextlib.suppress(ProcessLookupError):
                signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            await reader


async def _collect(stream: asyncio.StreamReader, log: bytearray) -> None:
    while chunk := await stream.read(65536):
        log += chunk


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNPOD_", "BUCKET_", "MAX_"))
    }
