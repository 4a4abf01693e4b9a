"""Handing over a job's images, with all the waiting and trying again.

Everything here belongs to one job: its connections, its tries, its deadline. Nothing is pooled that a bad bucket
could hold while another job needs it, and no thread waits for a bucket.
"""

import asyncio
import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from sdworker.delivery.bucket import Bucket
from sdworker.delivery.errors import NOT_PUBLIC, DeliveryError
from sdworker.delivery.s3 import S3
from sdworker.image_formats import EXTENSIONS, ImageFormat
from sdworker.network import NetworkError, dialled
from sdworker.settings import BucketFallback, Settings

try:
    import pybase64
except ImportError:  # no wheel for this machine
    pybase64 = None  # type: ignore[assignment]

__all__ = ["Delivery", "result_bytes"]

_T = TypeVar("_T")

# Between tries; the last repeats. A bucket that restarts is back after some seconds.
_PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_UPLOADS_OF_A_JOB = 8  # at once

_log = logging.getLogger(__name__)


class Delivery:
    """Hands images over, as the deployment's settings and each job's `s3Config` say."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the bucket's configuration makes no sense."""
        self._bucket = Bucket.from_settings(settings)
        self._link_expiry_s = settings.bucket_link_expiry_s
        self._timeout_s = settings.bucket_timeout_s
        self._falls_back = settings.bucket_fallback is BucketFallback.BASE64
        self._allow_private = settings.runpod_allow_private_download_urls

    async def bucket_for(self, s3_config: object = None) -> Bucket | None:
        """Where a job's images go: its own bucket, else the deployment's, else None: into the result.

        Args:
            s3_config: the job's `s3Config`, as it came.

        Raises:
            DeliveryError: it is incomplete, malformed, or leads into a private network.
        """
        bucket = Bucket.from_job(
            s3_config, link_expiry_s=self._link_expiry_s, public_only=not self._allow_private
        )
        if bucket is None:
            return self._bucket
        if bucket.public_only:
            # Before anything is drawn; the guard proper is where the connection is made.
            try:
                await dialled(*bucket.host_and_port, public_only=True)
            except NetworkError as error:
                raise DeliveryError(f"s3Config: endpointUrl leads to {NOT_PUBLIC}") from error
        return bucket

    async def deliver(
        self, images: Sequence[bytes], *, job_id: str, format: ImageFormat, bucket: Bucket | None
    ) -> list[str]:
        """The images as base64 (no `data:` prefix) or, with a bucket, as links, in order.

        Objects are named `{prefix}{job_id}_{i}.{extension}`, so a job that is run again overwrites
        its own.

        Raises:
            DeliveryError: an upload failed for good and BUCKET_FALLBACK is not base64.
        """
        if bucket is None:
            return await asyncio.to_thread(_to_base64, images)
        stem = _object_stem(job_id)
        names = [f"{stem}_{index}.{EXTENSIONS[format]}" for index in range(len(images))]
        try:
            return await self._upload_all(bucket, dict(zip(names, images, strict=True)), f"image/{format}")
        except DeliveryError as error:
            if not self._falls_back:
                raise
            _log.warning("Job %s: %s; its images go into the result as base64.", stem, error)
            return await asyncio.to_thread(_to_base64, images)

    async def check(self) -> None:
        """Ask whether the deployment's bucket is there; without one there is nothing to ask.

        Raises:
            DeliveryError: it does not exist or does not answer.
        """
        if self._bucket is not None:
            s3 = S3(self._bucket)
            await self._in_time(self._bucket, _tried(s3.check))
            self._learn(s3)

    async def _upload_all(self, bucket: Bucket, objects: Mapping[str, bytes], content_type: str) -> list[str]:
        """All of them or none: the first that fails for good stops the others."""
        s3 = S3(bucket)
        turns = asyncio.Semaphore(_UPLOADS_OF_A_JOB)

        async def upload(name: str, data: bytes) -> str:
            async with turns:
                return await _tried(lambda: s3.put(name, data, content_type))

        async def upload_all() -> list[str]:
            try:
                async with asyncio.TaskGroup() as group:
                    uploads = [group.create_task(upload(*item)) for item in objects.items()]
            except BaseExceptionGroup as errors:
                first = errors.exceptions[0]
                raise first from first.__cause__
            return [each.result() for each in uploads]

        links = await self._in_time(bucket, upload_all())
        self._learn(s3)
        return links

    async def _in_time(self, bucket: Bucket, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError as error:
            raise DeliveryError(
                f"the bucket {bucket.name!r}: the upload took longer than {self._timeout_s:g} s (BUCKET_TIMEOUT_S)"
            ) from error

    def _learn(self, s3: S3) -> None:
        """Go straight to the region where the deployment's bucket turned out to be."""
        if self._bucket is not None and not s3.bucket.of_job and s3.bucket.region != self._bucket.region:
            _log.warning(
                "BUCKET_REGION should be %s, which saves a request for each image.", s3.bucket.region
            )
            self._bucket = s3.bucket


async def _tried(ask: Callable[[], Awaitable[_T]]) -> _T:
    """`ask` again, with growing pauses, as often as its error says that it may help."""
    tried = 0
    while True:
        try:
            return await ask()
        except DeliveryError as error:
            tried += 1
            if tried >= error.tries:
                raise
            pause_s = _PAUSES_S[min(tried, len(_PAUSES_S)) - 1]
            _log.info("%s; trying again in %g s.", error, pause_s)
            await asyncio.sleep(pause_s)


def result_bytes(output: object) -> int:
    """The size of a job's result as the SDK posts it, `{"output": output}` in JSON, in bytes."""
    return len(json.dumps({"output": output}, ensure_ascii=False).encode("utf-8", "replace"))


def _object_stem(job_id: str) -> str:
    """`job_id` without anything that means something in a path or a URL."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", job_id)[:128] or "job"


def _to_base64(images: Sequence[bytes]) -> list[str]:
    """As text; by pybase64 in a tenth of the standard library's time or less (`python -m bench encode`)."""
    if pybase64 is None:
        return [base64.b64encode(image).decode("ascii") for image in images]
    return [pybase64.b64encode_as_string(image) for image in images]
