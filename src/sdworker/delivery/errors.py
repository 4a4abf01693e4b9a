"""What went wrong with a bucket, in words a user can act on.

boto3's own messages may quote what the server said and what was sent; these never do.
"""

import re
from typing import Any

__all__ = ["DeliveryError", "NotS3Error", "cause_of", "status_of"]


class DeliveryError(Exception):
    """Images that could not be handed over; the message names the bucket and the cause, never a key.

    Attributes:
        temporary: whether trying again later may help.
    """

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class NotS3Error(Exception):
    """An answer that no S3 would give, such as a web page with status 200 to an upload."""


def status_of(error: Exception) -> int | None:
    """The HTTP status of the server's answer, None if it gave none."""
    from botocore.exceptions import ClientError

    return error.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(error, ClientError) else None


def cause_of(error: Exception) -> tuple[str, bool]:
    """An error of boto3's in words, without what it quotes, and whether it may pass."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _cause_of_answer(error)
    match error:
        case boto.SSLError():
            return "its TLS certificate or protocol is not accepted", False
        case boto.ConnectTimeoutError() | boto.ReadTimeoutError():
            return "it does not answer in time", True
        case boto.ConnectionError() | boto.HTTPClientError():
            return "it cannot be reached", True
        case ResponseParserError() | NotS3Error():
            return "its endpoint does not answer as S3 does", False
        case boto.ParamValidationError():
            return "its name, or the object's, is not valid", False
        case _:
            return f"the upload failed ({type(error).__name__})", False


def _cause_of_answer(error: Any) -> tuple[str, bool]:
    code = re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))[:40]
    status = status_of(error) or 0
    if code == "NoSuchBucket" or status == 404:
        return "there is no such bucket", False
    if (
        code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "Unauthorized")
        or status == 401
    ):
        return f"its keys are not accepted ({code or status})", False
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"):
        return f"it is in another region ({code}): set BUCKET_REGION", False
    if status == 403:
        return f"access is denied ({code or status}); the key needs the right to put objects", False
    return f"it answered {status} ({code})", status >= 500 or status == 429
