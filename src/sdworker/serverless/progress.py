"""Progress of a job, posted to the platform while it is drawn.

The SDK's own `progress_update` starts a thread and a session for every call, so updates arrive out of order,
some of them after the result, which puts a finished job back to IN_PROGRESS (runpod-python#250). Here one task
a job posts the latest state, waits, and posts again; it has ended before the result is returned.
"""

import asyncio
import json
import logging
import os
from types import TracebackType
from typing import Any, Self

import aiohttp
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules import rp_http

__all__ = ["Progress"]

log = logging.getLogger(__name__)

_POST_TIMEOUT_S = 5.0
_LAST_POST_TIMEOUT_S = 2.0


class Progress:
    """Posts the progress of one job while it is open; `async with` it around the work.

    Posts `{"status": "IN_PROGRESS", "output": {"step", "steps", "progress"}}` where the result will go, as the
    SDK does. A post that fails is forgotten: progress is a courtesy, and the next one tells more.
    """

    def __init__(self, job_id: str, *, interval_ms: int) -> None:
        self._job_id = job_id
        self._interval_s = interval_ms / 1000
        self._state: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def update(self, step: int, steps: int) -> None:
        """Note how far the job is; may be called from any thread, costs nothing."""
        self._state = (step, steps)

    async def __aenter__(self) -> Self:
        if self._interval_s > 0 and _can_post():
            self._task = asyncio.create_task(self._post_until_closed(), name=f"progress of {self._job_id}")
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._closing.set()
        # A post on its way may still arrive: wait for it, or it could overtake the result.
        _, unfinished = await asyncio.wait([self._task], timeout=_LAST_POST_TIMEOUT_S)
        for task in unfinished:
            task.cancel()
            await asyncio.wait([task])

    async def _post_until_closed(self) -> None:
        posted: tuple[int, int] | None = None
        async with AsyncClientSession() as session:
            while not await self._closed_within(self._interval_s):
                if self._state is not None and self._state != posted:
                    posted = self._state
                    await self._post(session, *posted)

    async def _closed_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _post(self, session: aiohttp.ClientSession, step: int, steps: int) -> None:
        body: dict[str, Any] = {
            "status": "IN_PROGRESS",
            "output": {"step": step, "steps": steps, "progress": round(step / steps, 4)},
        }
        url = rp_http.JOB_DONE_URL.replace("$ID", self._job_id) + "&isStream=false"
        try:
            async with session.post(
                url,
                data=json.dumps(body),
                headers={"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"},
                timeout=aiohttp.ClientTimeout(_POST_TIMEOUT_S),
            ) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("job %s: a progress post failed: %s", self._job_id, error)


def _can_post() -> bool:
    """Only a worker of the platform has somewhere to post to."""
    return "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
