"""Results on their way to the platform: kept, and offered again until it has them.

The SDK offers a result three times within seconds and then forgets it, and one that is refused it forgets at once.
A picture that was drawn is worth more: here it is offered until the platform takes it, refuses it for good, or its
job's time is over. Whatever is lost is told in the log by its job's id.

| the platform | the result |
|---|---|
| 2xx | is delivered |
| 400, 413, 422 | is refused for good; an error that says so goes in its place, so that the job does not hang |
| any other 4xx but 408, 425 and 429 | is offered four times in all: gateways say 401, 403 and 404 in passing |
| anything else, or nothing | is offered again, with pauses that grow to 10 s |
"""

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

import aiohttp

from sdworker.serverless import wire
from sdworker.serverless.pause import GrowingPause

__all__ = ["Outbox", "encode"]

log = logging.getLogger(__name__)

MOST_RESULTS = 128
_FIRST_PAUSE_S = 0.5
_MOST_PAUSE_S = 10.0
_REFUSED_FOR_GOOD = {400, 413, 422}
_COME_AGAIN = {408, 425, 429}
_OFFERS_OF_WHAT_IS_REFUSED = 4
# Whatever its time, a result is offered once, and that offer may take so long; less once the worker is to end.
_ONE_OFFER_S = 30.0
_LAST_OFFER_S = 5.0


def encode(body: dict[str, Any]) -> bytes:
    """A job's answer as the platform reads it. What JSON cannot hold becomes an error that can be sent."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        log.exception("a result could not be written as JSON")
        return b'{"error": "the worker made a result that cannot be sent; its log has the cause"}'


class Outbox:
    """Delivers results. Full when it holds as much as it may: then no more jobs should be taken."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        addresses: wire.Addresses,
        *,
        most_bytes: int,
        grace_s: float,
    ) -> None:
        """
        Args:
            grace_s: how long, once the worker is told to end, a result that cannot be delivered is still offered.
        """
        self._session = session
        self._addresses = addresses
        self._most_bytes = most_bytes
        self._grace_s = grace_s
        self._bytes: dict[object, int] = {}
        self._retry = asyncio.Event()
        self._ending_since: float | None = None
        self._limits: set[asyncio.Timeout] = set()
        self.lost_at_end = 0

    @property
    def is_full(self) -> bool:
        return sum(self._bytes.values()) >= self._most_bytes or len(self._bytes) >= MOST_RESULTS

    def hold(self, key: object, size: int) -> None:
        """Count a result that is ready but not yet offered."""
        self._bytes[key] = size

    def release(self, key: object) -> None:
        self._bytes.pop(key, None)

    def end(self) -> None:
        """The worker is told to end: offer everything now, and from now on only as long as the grace lasts."""
        if self._ending_since is None:
            self._ending_since = time.monotonic()
            self.retry_now()
            over = asyncio.get_running_loop().time() + max(self._grace_s, _LAST_OFFER_S)
            for limit in self._limits:  # an offer that hangs just now
                limit.reschedule(min(limit.when() or over, over))

    def retry_now(self) -> None:
        """Offer at once what waits for its next offer: the platform was heard of again."""
        self._retry.set()
        self._retry = asyncio.Event()

    async def deliver(self, job_id: str, body: bytes, *, until: float) -> bool:
        """Offer the result till it is taken; whether it was.

        Args:
            until: when the job's time is over, by `time.monotonic()`.
        """
        drawn_at = time.monotonic()
        pause = GrowingPause(_FIRST_PAUSE_S, _MOST_PAUSE_S)
        offers, sure = 0, True  # sure: no offer may have been taken without our hearing of it
        while True:
            offers += 1
            deadline = self._deadline(until, drawn_at)
            answer, trouble = await self._offer(job_id, body, deadline)
            if answer is not None and 200 <= answer.status < 300:
                if offers > 1:
                    log.info("job %s: its result was taken at offer %d", job_id, offers)
                    self.retry_now()
                return True
            if answer is None:
                sure = sure and trouble.startswith("ClientConnectorError")
            elif _is_final(answer.status, offers):
                return await self._refused(job_id, body, answer.status, until=until, replace=sure)
            pause_s = max(pause.next_s(), (answer and answer.retry_after_s) or 0)
            if offers == 1:
                log.warning(
                    "job %s: its result was not taken (%s); it is kept and offered again", job_id, trouble
                )
            if not await self._wait(pause_s, until, drawn_at):
                self._lose(job_id, body, f"its time is over, after {offers} offers; the last: {trouble}")
                return False

    def _deadline(self, until: float, drawn_at: float) -> float:
        if self._ending_since is None:
            return until
        return min(until, max(self._ending_since, drawn_at) + self._grace_s)

    async def _offer(self, job_id: str, body: bytes, deadline: float) -> tuple[wire.Answer | None, str]:
        """The platform's answer, or None; and in words what went wrong."""
        least_s = _ONE_OFFER_S if self._ending_since is None else _LAST_OFFER_S
        limit = asyncio.timeout(max(deadline - time.monotonic(), least_s))
        self._limits.add(limit)
        try:
            async with limit:
                answer = await wire.post(self._session, self._addresses.done(job_id), body, job_id=job_id)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return None, f"{type(error).__name__}: {error}".removesuffix(": ")
        finally:
            self._limits.discard(limit)
        return answer, f"HTTP {answer.status}"

    async def _wait(self, pause_s: float, until: float, drawn_at: float) -> bool:
        """Wait for the next offer. False: there is none, the time is over."""
        end_of_pause = time.monotonic() + pause_s
        left_s = min(end_of_pause, self._deadline(until, drawn_at)) - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._retry.wait(), max(left_s, 0))
        return time.monotonic() < self._deadline(until, drawn_at)

    async def _refused(self, job_id: str, body: bytes, status: int, *, until: float, replace: bool) -> bool:
        """Refused for good. An error goes instead, unless the platform may have the result already."""
        self._lose(job_id, body, f"the platform refused it: HTTP {status}")
        if not replace or status not in _REFUSED_FOR_GOOD or body.startswith(b'{"error"'):
            return False
        error = (
            f"the platform refused this job's result, {len(body) / wire.MB:.1f} MB, with HTTP {status}; "
            "ask for fewer or smaller images, or have them uploaded to a bucket"
        )
        await self.deliver(job_id, encode({"error": error}), until=until)
        return False

    def _lose(self, job_id: str, body: bytes, reason: str) -> None:
        self.lost_at_end += self._ending_since is not None
        log.error("job %s: its result of %d bytes is lost: %s", job_id, len(body), reason)


def _is_final(status: int, offers: int) -> bool:
    if status in _REFUSED_FOR_GOOD:
        return True
    refused = 400 <= status < 500 and status not in _COME_AGAIN
    return refused and offers >= _OFFERS_OF_WHAT_IS_REFUSED
