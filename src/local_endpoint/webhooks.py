"""Telling callers that their jobs are over: a POST of the status body, tried three times, ten seconds apart.

What is still to be sent stands in the store, so a restart forgets none; a caller may then hear twice.
"""

import asyncio
import logging
import sqlite3

import aiohttp

from local_endpoint.core import Core
from local_endpoint.ledger import UnknownJob, Webhook
from local_endpoint.render import status_json
from local_endpoint.store import StoreUnavailable

__all__ = ["Webhooks"]

_log = logging.getLogger(__name__)
_AT_ONCE = 32
_TAKEN = "200"


class Webhooks:
    """Sends what is due, for as long as `run` runs."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._config = core.config
        self._new = asyncio.Event()
        self._under_way: set[int] = set()
        core.on_final = self._new.set

    async def run(self) -> None:
        """Send for ever."""
        timeout = aiohttp.ClientTimeout(total=self._config.webhook_timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            while True:
                self._new.clear()
                for webhook in self._due():
                    self._under_way.add(webhook.seq)
                    tasks.create_task(self._try(session, webhook))
                await self._until_next()

    def _due(self) -> list[Webhook]:
        due = self._core.store.reader.due_webhooks(self._now_ms(), limit=2 * _AT_ONCE)
        waiting = [webhook for webhook in due if webhook.seq not in self._under_way]
        return waiting[: max(0, _AT_ONCE - len(self._under_way))]

    def _now_ms(self) -> int:
        """The time by which what is due is told: late, where that is simulated."""
        return self._core.clock.now_ms() - int(self._config.simulation.webhook_delay_s * 1000)

    async def _until_next(self) -> None:
        """Wait for a job to end, a try to end, or the next try to be due."""
        next_ms = self._core.store.reader.next_webhook_ms()
        wait_s = None if next_ms is None else max(0.05, (next_ms - self._now_ms()) / 1000)
        if self._under_way and wait_s is not None:
            wait_s = max(wait_s, 0.25)  # those under way are due too
        try:
            async with asyncio.timeout(wait_s):
                await self._new.wait()
        except TimeoutError:
            pass

    async def _try(self, session: aiohttp.ClientSession, webhook: Webhook) -> None:
        """One try; notes how it went. One that cannot be noted stays due."""
        tries = webhook.tries + 1
        try:
            answer = await self._send(session, webhook)
            next_ms = None
            if answer not in (None, _TAKEN) and tries < self._config.webhook_tries:
                next_ms = self._core.clock.now_ms() + int(self._config.webhook_pause_s * 1000)
            if answer is not None:
                self._note(webhook, answer, tries, next_ms)
            await self._core.store.write(lambda ledger: ledger.settle_webhook(webhook.seq, tries, next_ms))
        except (StoreUnavailable, sqlite3.Error):
            await asyncio.sleep(1)
        finally:
            self._under_way.discard(webhook.seq)
            self._new.set()

    def _note(self, webhook: Webhook, answer: str, tries: int, next_ms: int | None) -> None:
        """For the console. What stands behind the path may be a secret of the caller's."""
        self._core.webhook_tries.append(
            {
                "job": webhook.job_id,
                "url": webhook.url.partition("?")[0].partition("#")[0],
                "answer": answer,
                "tries": tries,
                "atMs": self._core.clock.now_ms(),
                "nextMs": next_ms,
            }
        )

    async def _send(self, session: aiohttp.ClientSession, webhook: Webhook) -> str | None:
        """How it went: the answer's status, or what went wrong; None: there was nothing to tell (any more)."""
        try:
            view = await self._core.view(webhook.job_id, expired_too=True)
        except UnknownJob:
            return None
        if not view.job.final:
            return None  # retried in the meantime: there will be another end to tell of
        body = status_json(view, self._core.clock.now_ms())
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(webhook.url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status == 200:
                    return _TAKEN
                _log.warning("webhook of %s was answered %s", webhook.job_id, answer.status)
                return str(answer.status)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            _log.warning("webhook of %s did not arrive: %s", webhook.job_id, type(error).__name__)
            return type(error).__name__
