"""What the URL of an S3 endpoint and a bucket's name say: where the bucket's objects lie."""

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote, urlsplit

__all__ = ["BucketNameError", "Place", "is_region", "locate"]

# Hosts that name their region and, before it, perhaps a bucket; all of them take the bucket's name in
# the host. Consoles and RunPod's own pages hand such URLs out as "the endpoint".
_AWS = re.compile(
    r"(?:(?P<bucket>.+)\.)?(?P<host>s3(?:[.-](?:dualstack\.)?(?P<region>(?!accelerate)[a-z0-9-]+))?"
    r"\.amazonaws\.com(?:\.cn)?)"
)
_KNOWN_HOSTS = (
    _AWS,
    re.compile(
        r"(?:(?P<bucket>.+)\.)?"
        r"(?P<host>s3\.(?P<region>[a-z0-9-]+)\.(?:backblazeb2\.com|wasabisys\.com|scw\.cloud))"
    ),
    re.compile(r"(?:(?P<bucket>.+)\.)?(?P<host>(?P<region>(?!cdn)[a-z0-9]+)\.digitaloceanspaces\.com)"),
)
_VIRTUAL_ONLY_HOSTS = (".aliyuncs.com", ".myqcloud.com")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ACCESS_POINT = re.compile(
    r"arn:aws(?:-cn|-us-gov)?:s3:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):accesspoint[/:](?P<name>[a-z0-9-]+)"
)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


class BucketNameError(ValueError):
    """A bucket's name that cannot be, or not at this endpoint."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is.

    Attributes:
        endpoint: base URL of the S3 API, without the bucket's name.
        bucket: its name.
        region: the one to sign for, None if neither URL nor name tells.
        virtual_host: whether the bucket's name goes in the host rather than in the path.
    """

    endpoint: str
    bucket: str
    region: str | None
    virtual_host: bool

    @property
    def url(self) -> str:
        """Of the bucket itself, without a slash at its end where the host names it."""
        if not self.virtual_host:
            return f"{self.endpoint}/{self.bucket}"
        scheme, _, rest = self.endpoint.partition("://")
        if access_point := _ACCESS_POINT.fullmatch(self.bucket):
            host, slash, path = rest.partition("/")
            domain = host[host.index("amazonaws.com") :]
            point = f"{access_point['name']}-{access_point['account']}"
            return f"{scheme}://{point}.s3-accesspoint.{access_point['region']}.{domain}{slash}{path}"
        return f"{scheme}://{self.bucket}.{rest}"

    def object_url(self, key: str) -> str:
        """Of an object, quoted as it goes over the wire."""
        return f"{self.url}/{quote(key, safe='/-_.~')}"

    def in_region(self, region: str) -> Self:
        """The same bucket where AWS said that it is; elsewhere the host stays, and only signatures change."""
        endpoint = self.endpoint
        host = urlsplit(endpoint).hostname or ""
        if _AWS.fullmatch(host):
            there = f"s3.{region}.{host[host.index('amazonaws.com') :]}"
            endpoint = endpoint.replace(host, there, 1)
        return replace(self, region=region, endpoint=endpoint)

    def addressed(self, *, virtual: bool) -> Self:
        """The same bucket, its name in the host or in the path.

        Raises:
            BucketNameError: the name cannot be part of a host's.
        """
        if virtual and not all(_HOST_LABEL.fullmatch(label) for label in self.bucket.split(".")):
            raise BucketNameError(f"{self.bucket!r} cannot be part of a host's name (BUCKET_ADDRESSING)")
        return replace(self, virtual_host=virtual)


def is_region(text: str) -> bool:
    """Whether `text` may be a region's name; it becomes part of a host's and of a header."""
    return re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", text) is not None


def locate(url: str, name: str | None) -> Place | None:
    """What an endpoint's URL and a bucket's name say, in any of the forms that providers hand out.

    `https://host`, `https://host/bucket`, `https://bucket.s3.region.amazonaws.com` and the like. With
    a `name` given, a path that is not it is part of the endpoint (Supabase has such). None: nobody says the
    bucket's name.

    Raises:
        ValueError: no usable URL, or the two name different buckets; a BucketNameError: no usable name.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise ValueError("must be a URL that begins with https:// (or http://) and has a host")
    if parts.username is not None or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain URL without credentials, query or fragment")
    path = parts.path.strip("/")
    if port == 0 or not _PATH.fullmatch(f"/{path}" if path else "") or {".", ".."} & set(path.split("/")):
        raise ValueError("not a valid URL")

    region: str | None = None
    known = next((match for pattern in _KNOWN_HOSTS if (match := pattern.fullmatch(host))), None)
    in_host = None
    if known is not None:
        region, in_host = known["region"], known["bucket"]
        host = known["host"]
    elif host.endswith(".r2.cloudflarestorage.com"):
        region = "auto"

    if in_host is not None and name is not None and name != in_host:
        raise ValueError(f"it names the bucket {in_host!r} but the name given is {_shown(name)}")
    if in_host is not None and path and path != in_host:
        raise ValueError(f"it names the bucket {in_host!r} and also has a path")
    if name is None and "/" in path:
        raise ValueError("its path is more than a bucket's name")
    bucket = name or in_host or path or None
    if bucket is None:
        return None
    access_point = _access_point(bucket, aws=known is not None and known.re is _AWS)
    if access_point is None and (not _NAME.fullmatch(bucket) or ".." in bucket):
        raise BucketNameError(
            f"{_shown(bucket)} is no bucket's name: letters, digits, dots, hyphens and underscores may be in it"
        )
    if path == bucket:
        path = ""
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return Place(
        endpoint=f"{parts.scheme}://{netloc}" + (f"/{path}" if path else ""),
        bucket=bucket,
        region=access_point["region"] if access_point else region,
        virtual_host=access_point is not None
        or (
            (known is not None or host.endswith(_VIRTUAL_ONLY_HOSTS))
            # A dot in the name would not match the host's certificate.
            and _HOST_LABEL.fullmatch(bucket) is not None
        ),
    )


def _access_point(name: str, *, aws: bool) -> re.Match[str] | None:
    """The parts of an access point's ARN, None for a plain name.

    An ARN makes a host of its own: under another endpoint than AWS's it could be any.

    Raises:
        BucketNameError: an ARN that is none, or not for this endpoint.
    """
    if not name.lower().startswith("arn:"):
        return None
    match = _ACCESS_POINT.fullmatch(name)
    if match is None or not aws:
        raise BucketNameError(
            "an ARN is taken for an access point at AWS's own endpoint only; give the bucket's name, or the "
            "access point's alias"
        )
    return match


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:57] + "...")
