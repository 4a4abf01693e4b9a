"""Handing over a job's images, with all the waiting and trying again."""

import asyncio
import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from sdworker.delivery.bucket import MAX_PARALLEL_UPLOADS, Bucket
from sdworker.delivery.errors import DeliveryError
from sdworker.network import all_public
from sdworker.pictures import ImageFormat
from sdworker.settings import BucketFallback, Settings

try:
    import pybase64
except ImportError:  # no wheel for this machine
    pybase64 = None  # type: ignore[assignment]

__all__ = ["Delivery", "result_bytes"]

# boto3's own retries are over within a second; a bucket that restarts is back after some.
_PAUSES_S = (1.0, 4.0)
_DEADLINE_S = 60.0
_EXTENSIONS: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}

_log = logging.getLogger(__name__)


class Delivery:
    """Hands images over, as the deployment's settings and each job's `s3Config` say."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the bucket's configuration makes no sense."""
        self._bucket = Bucket.from_settings(settings)
        self._link_expiry_s = settings.bucket_link_expiry_s
        self._falls_back = settings.bucket_fallback is BucketFallback.BASE64
        self._allow_private = settings.runpod_allow_private_download_urls
        self._pool = ThreadPoolExecutor(MAX_PARALLEL_UPLOADS, thread_name_prefix="upload")

    async def bucket_for(self, s3_config: object = None) -> Bucket | None:
        """Where a job's images go: its own bucket, else the deployment's, else None: into the result.

        Args:
            s3_config: the job's `s3Config`, as it came.

        Raises:
            DeliveryError: it is incomplete, malformed, or leads into a private network.
        """
        bucket = Bucket.from_job(s3_config, link_expiry_s=self._link_expiry_s)
        if bucket is None:
            return self._bucket
        if not self._allow_private:
            await _refuse_private(bucket)
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
        names = [f"{stem}_{index}.{_EXTENSIONS[format]}" for index in range(len(images))]
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
            await asyncio.get_running_loop().run_in_executor(self._pool, self._bucket.check)

    def close(self) -> None:
        """Let go of the threads once what they are doing is done."""
        self._pool.shutdown(wait=False)

    async def _upload_all(self, bucket: Bucket, objects: Mapping[str, bytes], content_type: str) -> list[str]:
        uploads = [self._upload(bucket, name, data, content_type) for name, data in objects.items()]
        try:
            async with asyncio.timeout(_DEADLINE_S):
                results = await asyncio.gather(*uploads, return_exceptions=True)
        except TimeoutError as error:
            message = f"the bucket {bucket.name!r}: the upload took longer than {_DEADLINE_S:g} s"
            raise DeliveryError(message, temporary=True) from error
        links: list[str] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            links.append(result)
        return links

    async def _upload(self, bucket: Bucket, name: str, data: bytes, content_type: str) -> str:
        loop = asyncio.get_running_loop()
        for pause_s in _PAUSES_S:
            try:
                return await loop.run_in_executor(self._pool, bucket.put, name, data, content_type)
            except DeliveryError as error:
                if not error.temporary:
                    raise
                _log.info("%s; trying again in %g s.", error, pause_s)
            await asyncio.sleep(pause_s)
        return await loop.run_in_executor(self._pool, bucket.put, name, data, content_type)


def result_bytes(items: Sequence[Mapping[str, object]]) -> int:
    """The size of a job's result as the SDK posts it, `{"output": items}` in JSON, in bytes."""
    return len(json.dumps({"output": list(items)}, ensure_ascii=False).encode("utf-8", "replace"))


async def _refuse_private(bucket: Bucket) -> None:
    """A job must not use the worker's uploads to knock at doors inside its network.

    The name is looked up here and again by boto3, which lets an address that changes in between
    through; what it gets there is one signed PUT whose answer nobody sees.
    """
    host, port = bucket.host_and_port
    try:
        public = await all_public(host, port)
    except OSError as error:
        raise DeliveryError(f"s3Config: the host of endpointUrl, {host}, cannot be resolved") from error
    if not public:
        raise DeliveryError("s3Config: endpointUrl leads to an address that is not public")


def _object_stem(job_id: str) -> str:
    """`job_id` without anything that means something in a path or a URL."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", job_id)[:128] or "job"


def _to_base64(images: Sequence[bytes]) -> list[str]:
    """As text; by pybase64 in a tenth of the standard library's time or less (`python -m bench encode`)."""
    if pybase64 is None:
        return [base64.b64encode(image).decode("ascii") for image in images]
    return [pybase64.b64encode_as_string(image) for image in images]
