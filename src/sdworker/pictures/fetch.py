"""Pictures by URL, fetched so that a job cannot use the worker to look around its network.

The guard (`sdworker.network`, the one that buckets have too) sits where a socket is about to be opened, so
every way to an address passes it: names, literal addresses in any notation, redirects, and names that
resolve differently the second time (DNS rebinding). Ports are not restricted: behind a public address there
is nothing that the job's sender could not reach alone.
"""

import asyncio
import re
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from sdworker.network import JudgedConnector, tls_context
from sdworker.network.dial import NotPublicError
from sdworker.pictures.limits import PictureError, PictureLimits

__all__ = ["download", "is_url"]

_MAX_REDIRECTS = 5
_CHUNK_BYTES = 64 * 1024
# Some hosts refuse clients that do not say who they are.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; sdworker)", "Accept": "image/*,*/*;q=0.5"}
# One wording for both: two would tell which names exist inside the network around the worker.
_NOT_PUBLIC = "leads to a host that cannot be resolved or is not public"
_HTTP = re.compile(r"\s*https?://", re.IGNORECASE)
_RFC3986 = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def is_url(source: str) -> bool:
    """Whether `source` is meant as an http(s) URL."""
    return _HTTP.match(source) is not None


async def download(url: str, limits: PictureLimits, *, resolver: AbstractResolver | None = None) -> bytes:
    """The body of `url`, of at most `limits.max_bytes`, within `limits.timeout_s`.

    Raises:
        PictureError: it cannot be fetched, is too large or too slow, or leads to an address that is
            not public while `limits.allow_private` is false.
    """
    shown = _shown(url)
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await _get(_parse(url), limits, resolver)
    except TimeoutError as error:
        message = f"{shown} did not arrive within {limits.timeout_s:g} s (IMAGE_TIMEOUT_S)"
        raise PictureError(message) from error
    except aiohttp.ClientResponseError as error:
        if isinstance(error, aiohttp.TooManyRedirects):
            raise PictureError(f"{shown} redirects more than {_MAX_REDIRECTS} times") from error
        raise PictureError(f"{shown} answered {_status(error.status)}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise PictureError(f"{shown} {_cause(error)}") from error


async def _get(url: URL, limits: PictureLimits, resolver: AbstractResolver | None) -> bytes:
    await asyncio.to_thread(tls_context)  # the first time it reads files; from then on it is there
    connector = JudgedConnector(public_only=not limits.allow_private, resolver=resolver)
    # A session of its own: no cookie and no connection outlives the job. Proxies of the environment
    # are not used (trust_env is false), because the guard would see only the proxy's address.
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), headers=_HEADERS
        ) as session,
        # aiohttp counts the redirect that it refuses.
        session.get(url, max_redirects=_MAX_REDIRECTS + 1) as response,
    ):
        if response.status != HTTPStatus.OK:
            response.release()
            raise aiohttp.ClientResponseError(response.request_info, (), status=response.status)
        if response.content_length is not None and response.content_length > limits.max_bytes:
            raise limits.refuse_bytes(response.content_length)
        return await _read(response, limits)


async def _read(response: aiohttp.ClientResponse, limits: PictureLimits) -> bytes:
    """The body, counted as it arrives (decompressed, should the server have compressed it)."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > limits.max_bytes:
            raise limits.refuse_bytes()
    return bytes(body)


def _parse(url: str) -> URL:
    """`url` as it goes on the wire: as it is where it is well-formed, because signed links may not
    survive another quoting; else (spaces, non-ASCII) quoted."""
    url = url.strip()
    return URL(url, encoded=_RFC3986.fullmatch(url) is not None)


def _shown(url: str) -> str:
    """The part of `url` that may be repeated: no credentials, no query (it may be signed).

    What does not print is left out too: half a surrogate pair in it, and the platform loses the error.
    """
    try:
        parts = urlsplit(url.strip())
        host = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
    except ValueError:
        return "the URL"
    shown = "".join(filter(str.isprintable, f"{parts.scheme}://{host}{parts.path}"))
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _cause(error: Exception) -> str:
    """Why the connection failed, in words that tell nothing about the network around the worker."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "has a TLS certificate or protocol that is not accepted"
        case aiohttp.ClientConnectorDNSError():
            return _NOT_PUBLIC
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, NotPublicError):
            return _NOT_PUBLIC
        case aiohttp.NonHttpUrlClientError():
            return "leads to something other than http(s)"
        case aiohttp.InvalidURL() | ValueError():
            return "is not a valid URL"
        case aiohttp.ClientPayloadError():
            return "broke off before the end"
        case _:
            return "cannot be reached"
