"""AWS Signature Version 4 for S3: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

Both ways of it: in a request's headers, with its body's hash, and in a link's query, for whoever has the link.
Paths are taken as they go over the wire, already quoted; S3 signs them unchanged.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

__all__ = ["Keys", "presigned", "signed_headers"]

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """What a request is signed with.

    Attributes:
        session_token: of temporary keys.
    """

    access_id: str = field(repr=False)
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def signed_headers(
    method: str, url: str, headers: Mapping[str, str], body: bytes, *, keys: Keys, region: str, now: datetime
) -> dict[str, str]:
    """`headers` and those that sign them, `url`'s host and `body`.

    Args:
        url: without a query.
        now: in UTC.
    """
    parts = urlsplit(url)
    digest = hashlib.sha256(body).hexdigest()
    given = dict(headers) | {"X-Amz-Date": _stamp(now), "X-Amz-Content-SHA256": digest}
    if keys.session_token is not None:
        given["X-Amz-Security-Token"] = keys.session_token
    signed = given | {"Host": parts.netloc}
    to_sign = {name.lower(): signed[name] for name in sorted(signed, key=str.lower)}
    signature = _signature(method, parts.path, "", to_sign, digest, keys, region, now)
    given["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_id}/{_scope(region, now)}, "
        f"SignedHeaders={';'.join(to_sign)}, Signature={signature}"
    )
    return given


def presigned(url: str, *, keys: Keys, region: str, expiry_s: int, now: datetime) -> str:
    """`url` with a query that lets anybody GET it for so long."""
    parts = urlsplit(url)
    fields = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access_id}/{_scope(region, now)}",
        "X-Amz-Date": _stamp(now),
        "X-Amz-Expires": str(expiry_s),
        "X-Amz-SignedHeaders": "host",
    }
    if keys.session_token is not None:
        fields["X-Amz-Security-Token"] = keys.session_token
    query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(fields.items()))
    host = {"host": parts.netloc}
    signature = _signature("GET", parts.path, query, host, "UNSIGNED-PAYLOAD", keys, region, now)
    return f"{url}?{query}&X-Amz-Signature={signature}"


def _signature(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
    keys: Keys,
    region: str,
    now: datetime,
) -> str:
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in headers.items())
    request = "\n".join((method, path or "/", query, lines, ";".join(headers), payload))
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for part in _scope(region, now).split("/"):
        key = _hmac(key, part)
    return _hmac(key, "\n".join((_ALGORITHM, _stamp(now), _scope(region, now), digest))).hex()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _stamp(now: datetime) -> str:
    return now.strftime("%Y%m%dT%H%M%SZ")


def _scope(region: str, now: datetime) -> str:
    return f"{now:%Y%m%d}/{region}/s3/aws4_request"
