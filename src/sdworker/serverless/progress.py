"""Progress of a job, posted to the platform while it is drawn.

The SDK's own `progress_update` starts a thread and a session for every call, so updates arrive out of order,
some of them after the result, which puts a finished job back to IN_PROGRESS (runpod-python#250). Here one task
a job posts the latest state, waits for the answer, and posts again; it has ended before the result is offered.
"""

import asyncio
import contextlib
import json
import logging
from types import TracebackType
from typing import Any, Self

import aiohttp
from runpod.http_client import AsyncClientSession

from sdworker.engine.previews import ComingPreview
from sdworker.pictures.previews import encode_preview
from sdworker.serverless import wire

__all__ = ["Progress"]

log = logging.getLogger(__name__)

# How long a post may take; so long the result waits for one that is on its way, because to hang up would not keep
# a slow platform from recording it.
_POST_TIMEOUT_S = 15.0


class Progress:
    """Posts the progress of one job while it is open; `async with` it around the work.

    Posts `{"status": "IN_PROGRESS", "output": {"step", "steps", "progress"}}` where the result will go, as the
    SDK does; with `preview`, a JPEG in base64, where the job wants to be seen (it is one of the engine's
    `Previews`). A post that fails is forgotten: progress is a courtesy, and the next one tells more. One that is
    not answered in time was the job's last.
    """

    def __init__(
        self,
        job_id: str,
        *,
        interval_ms: int,
        addresses: wire.Addresses | None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """
        Args:
            addresses: where the platform is; None: there is none, and nothing is posted.
            session: what to post with. None: one of its own.
        """
        self._job_id = job_id
        self._interval_s = interval_ms / 1000
        self._addresses = addresses
        self._session = session
        self._state: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_previews = self._wants_preview = False
        self._preview: ComingPreview | None = None
        self._shown = asyncio.Event()

    def update(self, step: int, steps: int) -> None:
        """Note how far the job is; may be called from any thread, costs nothing."""
        self._state = (step, steps)

    def wanted(self) -> bool:
        """Whether a preview would be posted now: one for each update."""
        self._has_previews = True
        return self._wants_preview

    def show(self, preview: ComingPreview, step: int, steps: int) -> None:
        """One that was wanted; from the engine's thread."""
        self._wants_preview = False
        self._preview = preview
        self._state = (step, steps)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._shown.set)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._interval_s > 0 and self._addresses is not None:
            self._task = asyncio.create_task(
                self._post_until_closed(self._addresses), name=f"progress of {self._job_id}"
            )
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._closing.set()
        if isinstance(error, asyncio.CancelledError):  # there will be no result to be overtaken
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _post_until_closed(self, addresses: wire.Addresses) -> None:
        posted: tuple[int, int] | None = None
        async with self._session_to_post_with() as session:
            while not await self._closed_within(self._interval_s):
                preview = await self._next_preview()
                is_news = self._state != posted or preview is not None
                if self._state is not None and is_news and not self._closing.is_set():
                    posted = self._state
                    if not await self._post(session, addresses.done(self._job_id), *posted, preview):
                        return

    async def _next_preview(self) -> str | None:
        """What the next step looks like, in base64; None: it takes too long, or nobody wants to see it."""
        if not self._has_previews:
            return None
        self._shown.clear()
        self._wants_preview = True
        waits = [asyncio.ensure_future(event.wait()) for event in (self._shown, self._closing)]
        _, late = await asyncio.wait(waits, timeout=self._interval_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in late:
            wait.cancel()
        self._wants_preview = False
        preview, self._preview = self._preview, None
        if preview is None or self._closing.is_set():
            return None
        return await asyncio.to_thread(lambda: encode_preview(preview.pixels()))

    def _session_to_post_with(self) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientSession]:
        return AsyncClientSession() if self._session is None else contextlib.nullcontext(self._session)

    async def _closed_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _post(
        self, session: aiohttp.ClientSession, url: str, step: int, steps: int, preview: str | None
    ) -> bool:
        """False: the platform is too slow for progress."""
        body: dict[str, Any] = {
            "status": "IN_PROGRESS",
            "output": {"step": step, "steps": steps, "progress": round(step / steps, 4)},
        }
        if preview is not None:
            body["output"]["preview"] = preview
        try:
            await wire.post(
                session, url, json.dumps(body).encode(), job_id=self._job_id, timeout_s=_POST_TIMEOUT_S
            )
        except TimeoutError:
            log.warning(
                "job %s: progress is given up; a post took more than %g s", self._job_id, _POST_TIMEOUT_S
            )
            return False
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.debug("job %s: a progress post failed: %s", self._job_id, error)
        return True
