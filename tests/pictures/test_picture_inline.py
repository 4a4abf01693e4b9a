"""Pictures inside the job: every usual way to write base64 is taken, nothing mangled is."""

import base64
import textwrap
from contextlib import suppress
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.pictures.inline import decode_inline
from sdworker.pictures.limits import PictureError, PictureLimits

LIMITS = PictureLimits(max_bytes=1000, max_pixels=1000, timeout_s=1)


@given(
    data=st.binary(min_size=1, max_size=500),
    urlsafe=st.booleans(),
    padded=st.booleans(),
    line=st.sampled_from([0, 1, 64, 76]),
    prefix=st.sampled_from(
        ["", "data:image/png;base64,", "DATA:;BASE64,", "data:image/jpeg;charset=x;base64,"]
    ),
    around=st.sampled_from(["", "\n", "  "]),
)
def test_base64_is_taken_in_every_usual_spelling(
    data: bytes, urlsafe: bool, padded: bool, line: int, prefix: str, around: str
) -> None:
    text = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(data).decode()
    if not padded:
        text = text.rstrip("=")
    if line:
        text = "\r\n".join(textwrap.wrap(text, line))
    assert decode_inline(around + prefix + text + around, LIMITS) == data


@given(data=st.binary(min_size=1, max_size=300))
def test_data_uris_are_taken_percent_encoded_too(data: bytes) -> None:
    assert decode_inline("data:image/png," + quote_from_bytes(data), LIMITS) == data
    escaped = quote_from_bytes(base64.b64encode(data), safe="")
    assert decode_inline("data:image/png;base64," + escaped, LIMITS) == data


@given(text=st.text(max_size=200))
def test_any_text_gives_bytes_or_a_picture_error(text: str) -> None:
    with suppress(PictureError):
        assert isinstance(decode_inline(text, LIMITS), bytes)


@pytest.mark.parametrize(
    "source",
    [
        "cat.png",
        "a",
        "QUJD!",
        "QU=JD",
        "/9j/4AAQ🙂",
        "QUJD\x00",
        "data:image/png;base64",
        "\ud800",
        "ftp://x/y.png",
    ],
)
def test_what_is_not_base64_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode_inline(source, LIMITS)
    assert source not in str(caught.value) or len(source) == 1


@pytest.mark.parametrize("source", ["", "   ", "data:image/png;base64,", "===="])
def test_nothing_is_an_error(source: str) -> None:
    with pytest.raises(PictureError, match="empty"):
        decode_inline(source, LIMITS)


def test_the_byte_limit_counts_the_file_and_not_its_base64() -> None:
    assert len(decode_inline(base64.b64encode(bytes(1000)).decode(), LIMITS)) == 1000
    for source in (base64.b64encode(bytes(1001)).decode(), "data:," + "x" * 1001, "data:," + "%00" * 1001):
        with pytest.raises(PictureError, match="MAX_IMAGE_MB"):
            decode_inline(source, LIMITS)
