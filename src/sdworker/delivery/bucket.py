"""One S3-speaking bucket: where it is, and the right to write into it.

Works with AWS, Cloudflare R2, Backblaze, DigitalOcean, MinIO, GCS and others. It is either the deployment's own,
from the operator, and may be anywhere; or a job's, from anybody, and then has to be at a public address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from sdworker.delivery.errors import DeliveryError
from sdworker.delivery.s3_url import BucketNameError, Place, is_region, locate
from sdworker.delivery.signing import Keys, presigned
from sdworker.settings import BucketAddressing, Settings, SettingsError

__all__ = ["Bucket"]

_DEFAULT_REGION = "us-east-1"
_JOB_KEYS = ("endpointUrl", "accessId", "accessSecret", "bucketName", "sessionToken")
_SECRETS = ("accessId", "accessSecret", "sessionToken")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the right to write into it.

    Attributes:
        region: the one to sign for.
        of_job: it came with a job.
        public_only: only public addresses may be dialled for it.
        prefix: put before every object's key.
        public_url: base of links; without one links are presigned and expire.
    """

    place: Place
    keys: Keys
    region: str
    link_expiry_s: int
    of_job: bool = False
    public_only: bool = False
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
        addressing = settings.bucket_addressing
        try:
            place = locate(str(settings.bucket_endpoint_url), settings.bucket_name)
            if place is None:
                raise ValueError("it names no bucket: set BUCKET_NAME too")
            if addressing is not BucketAddressing.AUTO:
                place = place.addressed(virtual=addressing is BucketAddressing.VIRTUAL)
        except BucketNameError as error:
            raise SettingsError(f"BUCKET_NAME: {error}") from None
        except ValueError as error:
            raise SettingsError(f"BUCKET_ENDPOINT_URL: {error}") from None
        if settings.bucket_region is not None and not is_region(settings.bucket_region):
            raise SettingsError("BUCKET_REGION: not a region's name, such as eu-central-1")
        token = settings.bucket_session_token
        return cls(
            place=place,
            keys=Keys(
                access_id=_key("BUCKET_ACCESS_KEY_ID", key_id),
                secret=_key("BUCKET_SECRET_ACCESS_KEY", secret),
                session_token=None if token is None else _key("BUCKET_SESSION_TOKEN", token),
            ),
            region=settings.bucket_region or place.region or _DEFAULT_REGION,
            link_expiry_s=settings.bucket_link_expiry_s,
            prefix=settings.bucket_prefix.lstrip("/"),
            public_url=None if settings.bucket_public_url is None else str(settings.bucket_public_url),
        )

    @classmethod
    def from_job(cls, s3_config: object, *, link_expiry_s: int, public_only: bool) -> Self | None:
        """The bucket of a job's `s3Config`, None if that is empty.

        Its keys are `accessId`, `accessSecret`, `bucketName`, `endpointUrl` and, for temporary keys,
        `sessionToken`. It belongs to the job's sender, so prefix, region and public URL of the deployment's own do
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
        if wrong := [key for key in _SECRETS if values[key] and not _is_key(values[key])]:
            raise DeliveryError(f"s3Config: {', '.join(wrong)} with spaces or unusual characters")
        try:
            place = locate(values["endpointUrl"], values["bucketName"] or None)
        except BucketNameError as error:
            raise DeliveryError(f"s3Config: bucketName: {error}") from None
        except ValueError as error:
            raise DeliveryError(f"s3Config: endpointUrl: {error}") from None
        if place is None:
            raise DeliveryError("s3Config: bucketName missing")
        return cls(
            place=place,
            keys=Keys(values["accessId"], values["accessSecret"], values["sessionToken"] or None),
            region=place.region or _DEFAULT_REGION,
            link_expiry_s=link_expiry_s,
            of_job=True,
            public_only=public_only,
        )

    @property
    def name(self) -> str:
        """Without the endpoint; for a virtual host it is in the host's name."""
        return self.place.bucket

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where requests for its objects go: the bucket's name may be part of the host's."""
        parts = urlsplit(self.place.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def link(self, key: str) -> str:
        """A link to the object of that key, prefix included: public, or presigned as of now."""
        if self.public_url is not None:
            return f"{self.public_url.rstrip('/')}/{quote(key)}"
        return presigned(
            self.place.object_url(key),
            keys=self.keys,
            region=self.region,
            expiry_s=self.link_expiry_s,
            now=datetime.now(UTC),
        )

    def in_region(self, region: str) -> Self:
        """The same bucket, signed for another region, and at AWS asked there."""
        return replace(self, region=region, place=self.place.in_region(region))


def _key(variable: str, key: SecretStr) -> str:
    text = key.get_secret_value().strip()
    if not _is_key(text):
        raise SettingsError(f"{variable}: not a key: it has spaces or unusual characters in it")
    return text


def _is_key(key: str) -> bool:
    """Whether it can go into a header; other text would make errors that repeat it."""
    return re.fullmatch(r"[!-~]{1,8192}", key) is not None
