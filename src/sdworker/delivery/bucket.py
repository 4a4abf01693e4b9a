"""One S3-speaking bucket: where it is, putting an object into it, a link to the object.

Works with AWS, Cloudflare R2, Backblaze, DigitalOcean, MinIO, GCS and others: checksums are sent
only where the protocol requires them, because most of those refuse AWS's newer ones. boto3 is
imported at the first use, as most workers never need it and it costs time at start.
"""

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Self
from urllib.parse import quote, urlsplit

from sdworker.delivery.endpoint import locate
from sdworker.delivery.errors import DeliveryError, NotS3Error, cause_of, status_of
from sdworker.settings import BucketAddressing, Settings, SettingsError

__all__ = ["MAX_PARALLEL_UPLOADS", "Bucket"]

MAX_PARALLEL_UPLOADS = 8
_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20
_CACHED_CLIENTS = 8

_JOB_KEYS = ("endpointUrl", "accessId", "accessSecret", "bucketName")
_client_lock = threading.Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the right to write into it.

    Attributes:
        endpoint: base URL of the S3 API, without the bucket's name.
        prefix: put before every object's key.
        virtual_host: the bucket's name goes in the host, not the path.
        public_url: base of links; without one links are presigned and expire.
    """

    endpoint: str
    name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    region: str
    virtual_host: bool
    link_expiry_s: int
    prefix: str = ""
    public_url: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The deployment's bucket, None if it has none.

        Raises:
            SettingsError: no bucket's name is to be found, or two different ones.
        """
        key_id, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
        if settings.bucket_endpoint_url is None or key_id is None or secret is None:
            return None  # all or nothing: settings.py has refused half a configuration
        try:
            place = locate(str(settings.bucket_endpoint_url), settings.bucket_name)
            if place.bucket is None:
                raise ValueError("it names no bucket: set BUCKET_NAME too")
        except ValueError as error:
            raise SettingsError(f"BUCKET_ENDPOINT_URL: {error}") from None
        for variable, key in (("BUCKET_ACCESS_KEY_ID", key_id), ("BUCKET_SECRET_ACCESS_KEY", secret)):
            if not _is_key(key.get_secret_value().strip()):
                raise SettingsError(f"{variable}: not a key: it has spaces or unusual characters in it")
        addressing = settings.bucket_addressing
        return cls(
            endpoint=place.endpoint,
            name=place.bucket,
            access_key_id=key_id.get_secret_value().strip(),
            secret_access_key=secret.get_secret_value().strip(),
            region=settings.bucket_region or place.region or "us-east-1",
            virtual_host=place.virtual_host
            if addressing is BucketAddressing.AUTO
            else addressing is BucketAddressing.VIRTUAL,
            link_expiry_s=settings.bucket_link_expiry_s,
            prefix=settings.bucket_prefix.lstrip("/"),
            public_url=None if settings.bucket_public_url is None else str(settings.bucket_public_url),
        )

    @classmethod
    def from_job(cls, s3_config: object, *, link_expiry_s: int) -> Self | None:
        """The bucket of a job's `s3Config` {accessId, accessSecret, bucketName, endpointUrl}, None if empty.

        It belongs to the job's sender, so prefix, region and public URL of the deployment's own do
        not apply to it.

        Raises:
            DeliveryError: it is incomplete or malformed; the message names the keys.
        """
        if s3_config is None:
            return None
        if not isinstance(s3_config, Mapping):
            raise DeliveryError("s3Config: must be an object")
        given = {key: s3_config.get(key) for key in _JOB_KEYS}
        if not any(given.values()):
            return None
        if wrong := [key for key, value in given.items() if value and not isinstance(value, str)]:
            raise DeliveryError(f"s3Config: {', '.join(wrong)} must be text")
        values = {key: (value or "").strip() for key, value in given.items()}
        if missing := [key for key in _JOB_KEYS[:3] if not values[key]]:
            raise DeliveryError(f"s3Config: {', '.join(missing)} missing")
        if wrong := [key for key in ("accessId", "accessSecret") if not _is_key(values[key])]:
            raise DeliveryError(f"s3Config: {', '.join(wrong)} with spaces or unusual characters")
        try:
            place = locate(values["endpointUrl"], values["bucketName"] or None)
        except ValueError as error:
            raise DeliveryError(f"s3Config: endpointUrl: {error}") from None
        if place.bucket is None:
            raise DeliveryError("s3Config: bucketName missing")
        return cls(
            endpoint=place.endpoint,
            name=place.bucket,
            access_key_id=values["accessId"],
            secret_access_key=values["accessSecret"],
            region=place.region or "us-east-1",
            virtual_host=place.virtual_host,
            link_expiry_s=link_expiry_s,
        )

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where its API listens."""
        parts = urlsplit(self.endpoint)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """Store `data` under prefix + `key`; returns a link to it. Blocks; safe from any thread.

        Short faults (connection, 5xx, throttling) are tried again within a second or two.

        Raises:
            DeliveryError: it did not work.
        """
        key = self.prefix + key
        try:
            client = _client_of(self)
            answer = client.put_object(Bucket=self.name, Key=key, Body=data, ContentType=content_type)
            if "ETag" not in answer:
                raise NotS3Error
            if self.public_url is not None:
                return f"{self.public_url.rstrip('/')}/{quote(key)}"
            return str(
                client.generate_presigned_url(
                    "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=self.link_expiry_s
                )
            )
        except Exception as error:
            raise self._explain(error) from error

    def check(self) -> None:
        """Ask whether the bucket is there. Blocks.

        A key that may only write is refused this question, so a refusal says nothing and passes.

        Raises:
            DeliveryError: the bucket does not exist or its host does not answer.
        """
        try:
            _client_of(self).head_bucket(Bucket=self.name)
        except Exception as error:
            status = status_of(error)
            if status is None or status == 404 or status >= 500:
                raise self._explain(error) from error
            _log.info("The bucket %s does not let this key look at it (%d); going on.", self.name, status)

    def _explain(self, error: Exception) -> DeliveryError:
        cause, temporary = cause_of(error)
        host = urlsplit(self.endpoint).hostname
        return DeliveryError(f"the bucket {self.name!r} at {host}: {cause}", temporary=temporary)


def _is_key(key: str) -> bool:
    """Whether it can go into a header; other text would make errors that repeat it."""
    return re.fullmatch(r"[!-~]+", key) is not None


def _client_of(bucket: Bucket) -> Any:
    # Making a client is not safe from several threads at once; using one is.
    with _client_lock:
        return _make_client(bucket)


@cache
def _session() -> Any:
    """One for all clients: it keeps the description of S3, which takes longest to load."""
    import boto3.session

    return boto3.session.Session()


@lru_cache(maxsize=_CACHED_CLIENTS)
def _make_client(bucket: Bucket) -> Any:
    from botocore.config import Config

    return _session().client(
        "s3",
        endpoint_url=bucket.endpoint,
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=bucket.secret_access_key,
        config=Config(
            region_name=bucket.region,
            signature_version="s3v4",
            s3={"addressing_style": "virtual" if bucket.virtual_host else "path"},
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            max_pool_connections=MAX_PARALLEL_UPLOADS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
