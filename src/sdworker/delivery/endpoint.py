"""What the URL of an S3 endpoint says about its bucket and region."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Place", "locate"]

# Hosts that name their region and, before it, perhaps a bucket; all of them take the bucket's name in
# the host. Consoles and RunPod's own pages hand such URLs out as "the endpoint".
_KNOWN_HOSTS = (
    re.compile(
        r"(?:(?P<bucket>.+)\.)?(?P<host>s3(?:[.-](?:dualstack\.)?(?P<region>(?!accelerate)[a-z0-9-]+))?"
        r"\.amazonaws\.com(?:\.cn)?)"
    ),
    re.compile(
        r"(?:(?P<bucket>.+)\.)?"
        r"(?P<host>s3\.(?P<region>[a-z0-9-]+)\.(?:backblazeb2\.com|wasabisys\.com|scw\.cloud))"
    ),
    re.compile(r"(?:(?P<bucket>.+)\.)?(?P<host>(?P<region>(?!cdn)[a-z0-9]+)\.digitaloceanspaces\.com)"),
)
_VIRTUAL_ONLY_HOSTS = (".aliyuncs.com", ".myqcloud.com")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is.

    Attributes:
        endpoint: base URL of the S3 API, without the bucket's name.
        bucket: its name, None if neither the URL nor anyone else said it.
        region: the one to sign for, None if the URL does not tell.
        virtual_host: whether the bucket's name goes in the host rather than in the path.
    """

    endpoint: str
    bucket: str | None
    region: str | None
    virtual_host: bool


def locate(url: str, name: str | None) -> Place:
    """What an endpoint's URL says, in any of the forms that providers hand out.

    `https://host`, `https://host/bucket`, `https://bucket.s3.region.amazonaws.com` and the like. With
    a `name` given, a path that is not it is part of the endpoint (Supabase has such).

    Raises:
        ValueError: no usable URL, or it names another bucket than `name`.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise ValueError("must be a URL that begins with https:// (or http://) and has a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain URL without credentials, query or fragment")

    path = parts.path.strip("/")
    region: str | None = None
    known = next((match for pattern in _KNOWN_HOSTS if (match := pattern.fullmatch(host))), None)
    netloc, in_host = parts.netloc, None
    if known is not None:
        region, in_host = known["region"], known["bucket"]
        if in_host is not None:
            netloc = known["host"] + (f":{parts.port}" if parts.port else "")
    elif host.endswith(".r2.cloudflarestorage.com"):
        region = "auto"

    if in_host is not None and name is not None and name != in_host:
        raise ValueError(f"it names the bucket {in_host!r} but the name given is {name!r}")
    if in_host is not None and path and path != in_host:
        raise ValueError(f"it names the bucket {in_host!r} and also has a path")
    if name is None and "/" in path:
        raise ValueError("its path is more than a bucket's name")
    bucket = name or in_host or path or None
    if path == bucket:
        path = ""
    return Place(
        endpoint=urlunsplit((parts.scheme, netloc, path, "", "")),
        bucket=bucket,
        region=region,
        # A dot in the name would not match the host's certificate.
        virtual_host=(known is not None or host.endswith(_VIRTUAL_ONLY_HOSTS)) and "." not in (bucket or ""),
    )
