"""Pictures that come inside the job: `data:` URIs and bare base64."""

import binascii
from urllib.parse import unquote_to_bytes

from sdworker.pictures.limits import PictureError, PictureLimits

__all__ = ["decode_inline"]

_TO_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f\v"


def decode_inline(source: str, limits: PictureLimits) -> bytes:
    """The bytes of a `data:` URI (RFC 2397) or of bare base64.

    Base64 is taken as people send it: with or without line breaks and padding, in the standard or
    the URL-safe alphabet. Anything else in it is an error, so that a mangled upload does not turn
    into some other picture.

    Raises:
        PictureError: it is neither, is empty, or is larger than `limits.max_bytes`.
    """
    source = source.strip()
    if source[:5].lower() != "data:":
        if "://" in source[:32]:
            raise PictureError("a URL must begin with http:// or https://")
        return _decode_base64(source, limits)
    header, comma, body = source.partition(",")
    if not comma:
        raise PictureError("the data: URI has no comma, so it has no data")
    if header.lower().endswith(";base64"):
        # Percent signs are no base64, so where there are some the text was escaped.
        return _decode_base64(unquote_to_bytes(body).decode("latin-1") if "%" in body else body, limits)
    if len(body) > 3 * limits.max_bytes:
        raise limits.refuse_bytes()
    data = unquote_to_bytes(body)
    if len(data) > limits.max_bytes:
        raise limits.refuse_bytes(len(data))
    return data


def _decode_base64(text: str, limits: PictureLimits) -> bytes:
    malformed = PictureError("it is neither an http(s) URL nor a data: URI nor valid base64")
    if not text.isascii():
        raise malformed
    digits = text.encode("ascii").translate(_TO_STANDARD_ALPHABET, delete=_WHITESPACE).rstrip(b"=")
    size = len(digits) * 3 // 4
    if size > limits.max_bytes:
        raise limits.refuse_bytes(size)
    if not digits:
        raise PictureError("it is empty")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as error:
        raise malformed from error
