"""One file over HTTP, into a part: resumed where it broke off, bounded in bytes and seconds, behind the guard.

Redirects are followed here, one by one, because a token is for one host alone: hubs answer with a signed link to
somebody else's storage.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from sdworker.assets.cache import Part
from sdworker.assets.errors import AddOnError
from sdworker.assets.sources import Source
from sdworker.network import JudgedConnector
from sdworker.network.dial import NotPublicError

__all__ = ["Limits", "download", "read_listing"]

_MOST_REDIRECTS = 6
_CHUNK_BYTES = 1024 * 1024
_LISTING_BYTES = 4 * 1024 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_STALL_S = 30.0
_NOT_PUBLIC = "it leads to a host that cannot be resolved or is not public"


@dataclass(frozen=True)
class Limits:
    """What a download may take.

    Attributes:
        most_bytes: of one file.
        timeout_s: of one file, tries and pauses included.
        public_only: whether only public addresses may be dialled.
        tokens: host → what it is told as a bearer's token. Sent to no other host, and never without TLS to a
            public one.
    """

    most_bytes: int
    timeout_s: float
    public_only: bool
    tokens: Mapping[str, str]


class _MayPass(Exception):
    """Something that may be over in a moment; the message is for whoever waited in vain."""


async def download(source: Source, part: Part, limits: Limits) -> None:
    """Bring the part to its whole length.

    Raises:
        AddOnError: it cannot be had.
        OSError: the disk does not take it.
    """

    async def attempt(session: aiohttp.ClientSession) -> None:
        resumed = _range_of(part)
        async with _Followed(session, source, limits, resumed) as response:
            await _receive(response, part, source, limits, is_resumed=bool(resumed))

    await _try(source, limits, attempt)


async def read_listing(source: Source, limits: Limits) -> list[str]:
    """The files of a hub's repository.

    Raises:
        AddOnError: it cannot be had.
    """
    names: list[str] = []

    async def attempt(session: aiohttp.ClientSession) -> None:
        async with _Followed(session, source, limits, {}) as response:
            body = await response.content.read(_LISTING_BYTES)
        try:
            names.extend(str(file["rfilename"]) for file in json.loads(body)["siblings"])
        except (ValueError, KeyError, TypeError) as error:
            raise AddOnError(f"{source.shown}: {source.host} gave no listing of it") from error

    await _try(source, limits, attempt)
    return names


async def _try(source: Source, limits: Limits, attempt: Any) -> None:
    """Again and again while what is wrong may pass and time is left."""
    pause_s, last = _FIRST_PAUSE_S, "it did not arrive"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_STALL_S)
    try:
        async with (
            asyncio.timeout(limits.timeout_s),
            aiohttp.ClientSession(
                connector=JudgedConnector(public_only=limits.public_only),
                timeout=timeout,
                auto_decompress=False,
                headers={"User-Agent": "sdworker", "Accept-Encoding": "identity"},
            ) as session,
        ):
            while True:
                try:
                    await attempt(session)
                    return
                except _MayPass as error:
                    last = str(error)
                except aiohttp.ClientError as error:
                    last = _cause(error)
                    if not _may_pass(error, source):
                        raise AddOnError(f"{source.shown}: {last}") from error
                except TimeoutError:
                    last = f"{source.host} stopped sending"
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    except TimeoutError:
        raise AddOnError(
            f"{source.shown} did not arrive within {limits.timeout_s:g} s (ADDON_TIMEOUT_S): {last}"
        ) from None


def _may_pass(error: aiohttp.ClientError, source: Source) -> bool:
    """Whether another try may be luckier. Where a redirect leads, a name that does not resolve ends as an address
    that is not public does: nor does the time tell which names exist inside the network around the worker."""
    match error:
        case aiohttp.InvalidURL() | aiohttp.ClientConnectorCertificateError():
            return False
        case aiohttp.ClientConnectorDNSError():
            return error.host == source.host
        case aiohttp.ClientConnectorError():
            return not isinstance(error.os_error, NotPublicError)
        case _:
            return True


def _cause(error: aiohttp.ClientError) -> str:
    """In words that tell nothing of the network around the worker."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "its TLS certificate or protocol is not accepted"
        case aiohttp.InvalidURL():
            return "it leads to something that is no URL"
        case aiohttp.ClientConnectorDNSError():
            return _NOT_PUBLIC
        case aiohttp.ClientConnectorError():
            return _NOT_PUBLIC if isinstance(error.os_error, NotPublicError) else "its host cannot be reached"
        case _:
            return "the connection broke off"


class _Followed:
    """A GET whose redirects are followed; inside, the response that is none, with status 200 or 206."""

    def __init__(
        self, session: aiohttp.ClientSession, source: Source, limits: Limits, headers: Mapping[str, str]
    ) -> None:
        self._session, self._source, self._limits, self._headers = session, source, limits, headers
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        url = URL(self._source.url)
        for _ in range(_MOST_REDIRECTS):
            response = self._response = await self._session.get(
                url, allow_redirects=False, headers={**self._headers, **self._token_for(url)}
            )
            if response.status in (200, 206):
                return response
            location = response.headers.get("Location")
            response.close()
            if response.status not in (301, 302, 303, 307, 308) or not location:
                raise self._refusal(response)
            try:
                url = url.join(URL(location))
            except ValueError as error:
                raise AddOnError(f"{self._source.shown} leads to something that is no URL") from error
            if url.scheme not in ("http", "https"):
                raise AddOnError(f"{self._source.shown} leads to something other than http(s)")
        raise AddOnError(f"{self._source.shown} redirects more than {_MOST_REDIRECTS} times")

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()

    def _token_for(self, url: URL) -> dict[str, str]:
        token = self._limits.tokens.get(self._source.host)
        first = URL(self._source.url)
        if not token or url.origin() != first.origin():
            return {}
        if self._limits.public_only and url.scheme != "https":
            return {}
        return {"Authorization": f"Bearer {token}"}

    def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        status, shown, host = response.status, self._source.shown, self._source.host
        if status in (401, 403):
            has_token = host in self._limits.tokens
            remedy = (
                "the deployment's token does not open it" if has_token else "it needs a token or an agreement"
            )
            return AddOnError(f"{shown}: {host} refuses it ({status}); {remedy}")
        if status in (404, 410):
            return AddOnError(f"{shown}: there is no such file")
        if status == 416:
            return _MayPass("what had arrived of it fits no longer")
        if status in (408, 425, 429) or status >= 500:
            return _MayPass(f"{host} answered {status}")
        return AddOnError(f"{shown}: {host} answered {status}")


def _range_of(part: Part) -> dict[str, str]:
    """What asks for the rest of a part, if the server will know it is the rest of the same file."""
    validator = part.validator
    if not part.size or not validator:
        return {}
    return {"Range": f"bytes={part.size}-", "If-Range": validator}


async def _receive(
    response: aiohttp.ClientResponse, part: Part, source: Source, limits: Limits, *, is_resumed: bool
) -> None:
    if response.content_type == "text/html":
        raise AddOnError(f"{source.shown}: {source.host} answered a web page instead of the file")
    goes_on = is_resumed and response.status == 206
    if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
        part.drop()
        raise _MayPass("the server sent another part than was asked for")
    if not goes_on:
        if response.status == 206:
            raise AddOnError(f"{source.shown}: {source.host} sent a part of it, unasked")
        part.begin(_strong_validator(response))
    whole = (part.size if goes_on else 0) + (response.content_length or 0)
    if whole > limits.most_bytes:
        part.drop()
        raise _too_large(source, limits)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        if part.size + len(chunk) > limits.most_bytes:
            part.drop()
            raise _too_large(source, limits)
        await asyncio.to_thread(part.append, chunk)


def _strong_validator(response: aiohttp.ClientResponse) -> str | None:
    """An ETag that stands for these very bytes; a weak one does not."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else None


def _too_large(source: Source, limits: Limits) -> AddOnError:
    return AddOnError(f"{source.shown} is larger than {limits.most_bytes} bytes (ADDON_MAX_MB)")
