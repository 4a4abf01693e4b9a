"""What went wrong with a bucket, in words a user can act on, and how often to try again.

Of what the server said only a status and an error code are repeated: the rest may quote what was sent.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sdworker.errors import UserError
from sdworker.network import Answer, Fault

if TYPE_CHECKING:
    from sdworker.delivery.bucket import Bucket

__all__ = [
    "NOT_PUBLIC",
    "DeliveryError",
    "explain",
    "explain_answer",
    "explain_fault",
    "explain_not_s3",
]

_FINAL: Final = 1
_ONCE_MORE: Final = 2  # what took seconds to fail
_MANY: Final = 7

# One wording for both: two would tell which names exist inside the network around the worker.
NOT_PUBLIC = "a host that cannot be resolved or is not public"


class DeliveryError(UserError):
    """Images that could not be handed over; the message names the bucket and the cause, never a key.

    Attributes:
        tries: how many tries in all the cause deserves; 1 means that another would fail as well.
    """

    def __init__(self, message: str, *, tries: int = _FINAL) -> None:
        super().__init__(message)
        self.tries = tries


@dataclass(frozen=True, slots=True)
class _Cause:
    words: str
    tries: int = _FINAL


_FAULTS = {
    Fault.NOT_PUBLIC: _Cause(f"it is at {NOT_PUBLIC}"),
    Fault.UNREACHABLE: _Cause("it cannot be reached", _MANY),
    Fault.CONNECT_TIMEOUT: _Cause("it cannot be reached in time", _ONCE_MORE),
    Fault.CERTIFICATE: _Cause("its TLS certificate is not accepted"),
    Fault.NO_TLS: _Cause(
        "it does not speak TLS there: does its URL begin with http://, or is the port another?"
    ),
    Fault.TLS_TIMEOUT: _Cause(
        "it does not answer a TLS handshake: does its URL begin with http://, or is the port another?",
        _ONCE_MORE,
    ),
    Fault.UPLOAD_STALLED: _Cause("it stopped taking the upload", _ONCE_MORE),
    Fault.ANSWER_TIMEOUT: _Cause("it does not answer in time", _ONCE_MORE),
    Fault.BROKE_OFF: _Cause("it cannot be reached: it closes the connection without an answer", _MANY),
    Fault.WANTS_TLS: _Cause("it speaks TLS there: its URL should begin with https://"),
    Fault.NOT_HTTP: _Cause("its endpoint does not answer as S3 does"),
}

_KEYS_REFUSED = {
    "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "Unauthorized",
}  # fmt: skip
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_PASSING_STATUSES = {408, 429}
_PASSING_CODES = {"OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}


def explain(bucket: "Bucket", cause: _Cause) -> DeliveryError:
    """The error to raise for `cause`."""
    host = urlsplit(bucket.place.endpoint).hostname
    return DeliveryError(f"the bucket {bucket.name!r} at {host}: {cause.words}", tries=cause.tries)


def explain_fault(bucket: "Bucket", fault: Fault) -> _Cause:
    """The cause where there was no answer."""
    if fault is Fault.UNRESOLVED:
        if bucket.public_only:
            return _FAULTS[Fault.NOT_PUBLIC]
        return _Cause("it cannot be reached: its host cannot be resolved", _MANY)
    return _FAULTS[fault]


def explain_not_s3() -> _Cause:
    """The cause of a success that is none: a web page with status 200, say."""
    return _FAULTS[Fault.NOT_HTTP]


def explain_answer(bucket: "Bucket", answer: Answer) -> _Cause:
    """The cause where the answer is no success."""
    status, code = answer.status, _code_of(answer.body)
    if code == "NoSuchBucket" or (status == 404 and code in ("", "NotFound")):
        return _Cause("there is no such bucket")
    if code in _KEYS_REFUSED or status == 401:
        return _Cause(f"its keys are not accepted ({code or status})")
    if code == "RequestTimeTooSkewed":
        return _Cause("its clock and this worker's differ by too much (RequestTimeTooSkewed)")
    if code in _ELSEWHERE:
        remedy = "give the endpointUrl of its region" if bucket.of_job else "set BUCKET_REGION"
        return _Cause(f"it is in another region than {bucket.region} ({code}): {remedy}")
    if 300 <= status < 400:
        return _Cause(f"it redirects elsewhere ({status}), which is not followed: give that as its endpoint")
    if status == 400 and b"HTTPS" in answer.body and bucket.place.endpoint.startswith("http:"):
        return _FAULTS[Fault.WANTS_TLS]
    if status == 403:
        return _Cause(f"access is denied ({code or status}); the key needs the right to put objects")
    passing = status >= 500 and status not in (501, 505)
    passing = passing or status in _PASSING_STATUSES or code in _PASSING_CODES
    return _Cause(f"it answered {status}" + (f" ({code})" if code else ""), _MANY if passing else _FINAL)


def _code_of(body: bytes) -> str:
    """The error code of S3's XML, found without reading it as XML."""
    found = re.search(rb"<Code>\s*([A-Za-z0-9]{1,60})\s*</Code>", body)
    return found[1].decode() if found else ""
