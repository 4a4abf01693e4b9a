"""The platform's side of the queue in HTTP: where its routes are, what is asked, how an answer is read.

Nothing here trusts an answer: every body is bounded, every wait has an end. The routes are those of runpod 1.12.0
(`rp_job`, `rp_http`, `rp_ping`); `scaler.py` notices when the SDK has others.
"""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

import aiohttp

from sdworker.errors import DeploymentError

__all__ = ["AddressError", "Addresses", "Answer", "Take", "TooLarge", "ping_address", "post", "stops"]

MB = 1_000_000
# The platform takes jobs of up to 20 MB; so many of them may come in one answer.
_LARGEST_JOB_BYTES = 21 * MB
MOST_JOBS_AT_ONCE = 16
_LARGEST_STOP_BYTES = 1 * MB

POLL_S = 90.0
_CONNECT_S = 10.0
_RESULT_S = 30.0
_RESULT_BYTES_PER_S = 0.5 * MB
_LONGEST_RETRY_AFTER_S = 60.0

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\]")


class AddressError(DeploymentError):
    """A variable of the platform's does not name a place; the message names the variable."""


class TooLarge(ValueError):
    """An answer is larger than anything it could rightly hold."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the platform is, as its variables say.

    Attributes:
        job_take: the URL that is polled for jobs.
        job_stop: the one that is polled for jobs to stop, None if it cannot be told from `job_take`.
        job_done: where results and progress go; `$ID` stands for the job.
        ping: None: nothing is pinged.
    """

    job_take: str
    job_stop: str | None
    job_done: str
    ping: str | None

    @classmethod
    def from_environment(cls, worker_id: str, environment: Mapping[str, str] = os.environ) -> Self:
        """The addresses of this worker.

        Raises:
            AddressError: jobs could not be taken or not be answered.
        """
        worker = quote(worker_id, safe="")
        take = _checked("RUNPOD_WEBHOOK_GET_JOB", environment).replace("$ID", worker)
        done = _checked("RUNPOD_WEBHOOK_POST_OUTPUT", environment).replace("$RUNPOD_POD_ID", worker)
        if "$ID" not in done:
            raise AddressError(
                "RUNPOD_WEBHOOK_POST_OUTPUT: has no $ID in it, so results would belong to no job"
            )
        return cls(
            job_take=take,
            job_stop=take.replace("/job-take/", "/job-stop/", 1) if "/job-take/" in take else None,
            job_done=done,
            ping=ping_address(worker_id, environment),
        )

    def take(self, slots: int, *, busy: bool) -> str:
        """The URL that asks for so many jobs, saying whether this worker has some."""
        url = self.job_take
        if slots > 1 and "/job-take/" in url:
            url = _with(url.replace("/job-take/", "/job-take-batch/", 1), f"batch_size={slots}")
        return _with(url, f"job_in_progress={int(busy)}")

    def done(self, job_id: str) -> str:
        """The URL that takes the job's result and its progress."""
        return _with(self.job_done.replace("$ID", quote(job_id, safe="")), "isStream=false")


def ping_address(worker_id: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Where to ping, None if the platform named no place.

    Raises:
        AddressError: it named one that is none.
    """
    if environment.get("RUNPOD_WEBHOOK_PING", "").strip() in ("", "PING_NOT_SET"):
        return None
    return _checked("RUNPOD_WEBHOOK_PING", environment).replace("$RUNPOD_POD_ID", quote(worker_id, safe=""))


def _checked(name: str, environment: Mapping[str, str]) -> str:
    url = environment.get(name, "").strip()
    if not url:
        raise AddressError(f"{name}: is not set")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = 0
    sound = (
        url.isprintable()
        and " " not in url
        and port != 0
        and parts.scheme in ("http", "https")
        and _HOST.fullmatch(parts.netloc.rpartition("@")[2].removesuffix(f":{port}")) is not None
    )
    if not sound:
        raise AddressError(f"{name}: is not an http or https URL")
    return url


def _with(url: str, parameter: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{parameter}"


class Take:
    """One poll for jobs.

    Attributes:
        arriving: an answer with jobs in it has begun to arrive; to hang up now would lose them.
    """

    def __init__(self, session: aiohttp.ClientSession, addresses: Addresses) -> None:
        self._session = session
        self._addresses = addresses
        self.arriving = False

    async def jobs(self, slots: int, *, busy: bool) -> "Answer":
        """The platform's answer, its body whole.

        Raises:
            aiohttp.ClientError, TimeoutError, TooLarge, ValueError
        """
        slots = min(slots, MOST_JOBS_AT_ONCE)
        async with self._session.get(
            self._addresses.take(slots, busy=busy), timeout=_timeout(POLL_S)
        ) as response:
            body = b""
            if response.status == 200:
                self.arriving = True
                body = await read_bounded(response, slots * _LARGEST_JOB_BYTES)
            return Answer.of(response, body)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the platform.

    Attributes:
        retry_after_s: how long it asks to be left alone, None if it does not.
    """

    status: int
    body: bytes
    content_type: str
    retry_after_s: float | None

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, body: bytes = b"") -> Self:
        return cls(
            response.status,
            body,
            response.headers.get("Content-Type", "no type")[:60],
            _retry_after_s(response.headers.get("Retry-After")),
        )


async def stops(session: aiohttp.ClientSession, url: str) -> "Answer":
    """One poll for jobs to stop.

    Raises:
        aiohttp.ClientError, TimeoutError, TooLarge, ValueError
    """
    async with session.get(url, timeout=_timeout(POLL_S)) as response:
        body = await read_bounded(response, _LARGEST_STOP_BYTES) if response.status == 200 else b""
        return Answer.of(response, body)


async def post(
    session: aiohttp.ClientSession, url: str, body: bytes, *, job_id: str, timeout_s: float | None = None
) -> Answer:
    """Post a result or a progress update. A redirect is not followed: it would turn the post into a get.

    Args:
        timeout_s: None: what such a body may take.

    Raises:
        aiohttp.ClientError, TimeoutError, ValueError
    """
    if timeout_s is None:
        timeout_s = _RESULT_S + len(body) / _RESULT_BYTES_PER_S
    headers = {
        "charset": "utf-8",
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Request-ID": quote(job_id, safe=" !#$&'()*+,/:;=?@[]~"),
    }
    async with session.post(
        url, data=io.BytesIO(body), headers=headers, timeout=_timeout(timeout_s), allow_redirects=False
    ) as response:
        return Answer.of(response)


async def read_bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body.

    Raises:
        TooLarge: it is longer; what is left of it is not read.
    """
    body = bytearray()
    if (response.content_length or 0) <= most_bytes:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most_bytes:
                break
        else:
            return bytes(body)
    response.close()
    raise TooLarge(f"the platform's answer is longer than {most_bytes / MB:.0f} MB")


def _timeout(total_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s, sock_connect=min(total_s, _CONNECT_S))


def _retry_after_s(header: str | None) -> float | None:
    """Only seconds are understood; a date is as good as nothing."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S) if seconds == seconds else None
