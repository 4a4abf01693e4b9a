"""Scripts of this repository as processes of their own; they end with what they started, however this one ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["script_process"]

_ROOT = Path(__file__).resolve().parents[2]

# Ends its process group once nobody holds the other end of its input: also where the bench is killed.
_WATCH = "read -r _; kill -KILL 0"

# A platform and a bucket that are configured where the bench is run are none of the handler's.
_NOT_INHERITED = ("RUNPOD_", "BUCKET_")


@asynccontextmanager
async def script_process(
    script: str, *arguments: str, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running script; what it prints, errors too, comes from `stdout`. Killed at the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    own = {
        "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        *arguments,
        cwd=_ROOT,
        env={**inherited, **own, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**26,  # a result is printed on one line
        process_group=0,
    )
    watch: asyncio.subprocess.Process | None = None
    try:
        watch = await asyncio.create_subprocess_exec(
            "sh", "-c", _WATCH, stdin=asyncio.subprocess.PIPE, process_group=process.pid
        )
        yield process
    finally:
        # The whole group: the SDK's ping process outlives a worker that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if watch is not None:
            await watch.wait()
