"""What is asked of a bucket: to take an object, and whether it is there. One try each; `retries` tries again.

No library of S3's does this, because they trust the server: they read whatever it answers, follow it to other
hosts, look names up again, and block a thread meanwhile. Putting an image needs one signed request.

No checksum but the signature's is sent, as most providers refuse AWS's newer ones.
"""

import asyncio
import logging
import re
from datetime import UTC, datetime

from sdworker.delivery.bucket import Bucket
from sdworker.delivery.errors import DeliveryError, explain, explain_answer, explain_fault, explain_not_s3
from sdworker.delivery.s3_url import is_region
from sdworker.delivery.signing import signed_headers
from sdworker.network import Answer, NetworkError, exchange

__all__ = ["S3"]

_log = logging.getLogger(__name__)


class S3:
    """One bucket, and what was learned of it on the way.

    Attributes:
        bucket: as it was given, or in the region where it says that it is.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    async def put(self, name: str, data: bytes, content_type: str) -> str:
        """Store `data` under the bucket's prefix + `name`; returns a link to it.

        Raises:
            DeliveryError: it did not work; `tries` says whether another try may help.
        """
        key = self.bucket.prefix + name
        answer = await self._ask("PUT", key, data, content_type)
        if not 200 <= answer.status < 300:
            raise explain(self.bucket, explain_answer(self.bucket, answer))
        if "etag" not in answer.headers:
            raise explain(self.bucket, explain_not_s3())
        return self.bucket.link(key)

    async def check(self) -> None:
        """Ask whether the bucket is there.

        A key that may only write is refused this question, so a refusal says nothing and passes.

        Raises:
            DeliveryError: the bucket does not exist or its host does not answer.
        """
        answer = await self._ask("HEAD", None)
        if answer.status == 404 or answer.status >= 500:
            raise explain(self.bucket, explain_answer(self.bucket, answer))
        if answer.status >= 300:
            name, status = self.bucket.name, answer.status
            _log.info("The bucket %s does not let this key look at it (%d); going on.", name, status)

    async def _ask(self, method: str, key: str | None, data: bytes = b"", content_type: str = "") -> Answer:
        """The answer of the region where the bucket is: if it names another than the one asked, that one's."""
        asked = self.bucket
        answer = await self._ask_once(asked, method, key, data, content_type)
        region = _region_told(answer)
        if region is None or region == asked.region:
            return answer
        _log.info("The bucket %s is in %s, not in %s.", asked.name, region, asked.region)
        there = asked.in_region(region)
        second = await self._ask_once(there, method, key, data, content_type)
        if second.status < 300:
            self.bucket = there
        return second

    async def _ask_once(
        self, bucket: Bucket, method: str, key: str | None, data: bytes, content_type: str
    ) -> Answer:
        url = bucket.place.url if key is None else bucket.place.object_url(key)
        headers = {"Content-Type": content_type} if content_type else {}
        # In a thread, as it reads all of the data.
        signed = await asyncio.to_thread(
            signed_headers,
            method, url, headers, data, keys=bucket.keys, region=bucket.region, now=datetime.now(UTC),
        )  # fmt: skip
        try:
            return await exchange(method, url, signed, data, public_only=bucket.public_only)
        except NetworkError as error:
            raise explain(bucket, explain_fault(bucket, error.fault)) from error
        except OSError as error:  # AWS_CA_BUNDLE
            raise DeliveryError(str(error)) from error


def _region_told(answer: Answer) -> str | None:
    """The bucket's region, where an answer says that it is another than was thought."""
    if answer.status not in (301, 302, 307, 400, 403):
        return None
    region = answer.headers.get("x-amz-bucket-region")
    if region is None and (found := re.search(rb"<Region>\s*([A-Za-z0-9_-]{1,64})\s*</Region>", answer.body)):
        region = found[1].decode()
    return region if region is not None and is_region(region) else None
