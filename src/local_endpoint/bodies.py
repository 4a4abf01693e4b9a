"""Reading a request's body: in time, within its limit, and as strict JSON.

Strict means valid UTF-8, no lone surrogates, no NaN or infinity (not even as 1e999), at most about 200
levels deep. A worker's SDK cannot pass on what these forbid; better to say so here than to lose the job.
"""

import asyncio
import json
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from local_endpoint.config import MB
from local_endpoint.errors import ApiError

__all__ = ["dump_json", "parse_json", "read_body"]

_SLOWEST_BYTES_S = 50_000


async def read_body(request: Request, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises `ApiError` 413 when it is longer than the limit, 408 when it breaks off or does not arrive in
    `timeout_s` plus what a slow line needs for its length.
    """
    too_large = ApiError(413, f"the body is larger than the limit of {limit_bytes / MB:g} MB")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise too_large
    body = bytearray()
    start_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(timeout_s) as timeout:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise too_large
                timeout.reschedule(start_s + timeout_s + len(body) / _SLOWEST_BYTES_S)
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(408, "the body broke off") from None
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """The body's value. Raises `ApiError` 400, saying what is wrong and where."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None


def dump_json(value: Any) -> bytes:
    """A parsed value as JSON text again. Raises `ApiError` 400 for a number beyond a double's range."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise ApiError(400, "the body is not valid JSON: a number is out of range") from None
