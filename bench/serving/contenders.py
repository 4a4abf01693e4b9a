"""The two workers that are compared, each a process in the SDK's production mode with a platform of its own."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.processes.scripts import script_process
from bench.standin import Platform, platform

__all__ = ["NAIVE", "OURS", "contenders"]

OURS, NAIVE = "this worker", "naive handler"
_NAIVE_SCRIPT = "bench/serving/naive_handler.py"
_LAST_LINES = 20
# What our worker says when it has measured what steps cost, in its first idle moments: undisturbed by the other's
# start, or it would go by wrong figures ever after.
_MEASURED = b"a step takes "
_MEASURED_WITHIN_S = 60.0


@asynccontextmanager
async def contenders(
    model: Path, *, naive: str = _NAIVE_SCRIPT, **environment: str
) -> AsyncIterator[dict[str, Platform]]:
    """Name → platform, each with its worker ready for jobs. One idles while the other is measured.

    Args:
        model: an absolute path.
        naive: the script of the other one.
        environment: of both.
    """
    async with (
        _served("handler.py", environment | {"MODEL_DIR": str(model)}, says=_MEASURED) as ours,
        _served(naive, environment | {"MODEL_DIR": str(model)}) as other,
    ):
        yield {OURS: ours, NAIVE: other}


@asynccontextmanager
async def _served(
    script: str, environment: Mapping[str, str], *, says: bytes = b""
) -> AsyncIterator[Platform]:
    """A platform whose one worker runs `script`, has asked for its first job and has printed what it `says`.

    What goes wrong while it is open carries the end of the worker's output as a note.
    """
    async with (
        platform() as standin,
        script_process(script, **standin.environment(), **environment) as process,
    ):
        last_lines: deque[bytes] = deque(maxlen=_LAST_LINES)
        said = asyncio.Event()
        reader = asyncio.create_task(_keep_last(process, last_lines, says, said))
        try:
            await standin.until(lambda: standin.parked > 0)
            if says:
                await asyncio.wait_for(said.wait(), _MEASURED_WITHIN_S)
            yield standin
        except Exception as error:
            error.add_note(f"{script} printed last:\n{b''.join(last_lines).decode('utf-8', 'replace')}")
            raise
        finally:
            reader.cancel()


async def _keep_last(
    process: asyncio.subprocess.Process, lines: deque[bytes], wanted: bytes, said: asyncio.Event
) -> None:
    """Read the process's lines; the first with `wanted` in it is passed on."""
    assert process.stdout is not None
    async for line in process.stdout:
        lines.append(line[:1000])
        if wanted and wanted in line and not said.is_set():
            print(line[line.index(wanted) :].decode("utf-8", "replace").strip())
            said.set()
