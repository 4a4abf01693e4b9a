"""What is signed here is what botocore would have signed, whatever the bucket, the key and the keys."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdworker.delivery.signing import Keys, presigned, signed_headers

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
regions = st.from_regex(r"[a-z]{2}-[a-z]{1,9}-[0-9]", fullmatch=True) | st.just("auto")
hosts = st.sampled_from(
    ["s3.eu-west-1.amazonaws.com", "pics.s3.amazonaws.com", "minio:9000", "[2001:db8::1]:9000"]
)
paths = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(
    lambda text: "/" + quote(text, safe="/-_.~")
)
tokens = st.none() | printable


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW)


same_clock = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@same_clock
@given(hosts, paths, printable, printable, tokens, regions, st.binary(max_size=200))
def test_headers_are_signed_as_botocore_signs_them(
    host: str, path: str, access_id: str, secret: str, token: str | None, region: str, body: bytes
) -> None:
    url, headers = f"https://{host}{path}", {"Content-Type": "image/png"}
    ours = signed_headers(
        "PUT", url, headers, body, keys=Keys(access_id, secret, token), region=region, now=NOW
    )
    request = AWSRequest("PUT", url, headers=headers, data=body)
    S3SigV4Auth(Credentials(access_id, secret, token), "s3", region).add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert {name.lower(): value for name, value in ours.items()} == theirs


@same_clock
@given(hosts, paths, printable, printable, tokens, regions, st.integers(1, 604800))
def test_links_are_signed_as_botocore_signs_them(
    host: str, path: str, access_id: str, secret: str, token: str | None, region: str, expiry_s: int
) -> None:
    url = f"https://{host}{path}"
    ours = presigned(url, keys=Keys(access_id, secret, token), region=region, expiry_s=expiry_s, now=NOW)
    request = AWSRequest("GET", url)
    S3SigV4QueryAuth(Credentials(access_id, secret, token), "s3", region, expires=expiry_s).add_auth(request)
    assert sorted(ours.partition("?")[2].split("&")) == sorted(request.url.partition("?")[2].split("&"))


def test_keys_are_not_printed() -> None:
    assert repr(Keys("the-id", "the-secret", "the-token")) == "Keys()"
