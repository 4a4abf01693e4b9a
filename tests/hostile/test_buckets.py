"""A bucket comes with a job, from anybody: it may not cost memory, time, other jobs, or a look inside the network.

Every server here is real and on loopback; 127.0.0.3 plays the public internet where a test needs one. Timeouts are
shortened, and what is checked of time is that an end comes without the job's deadline.
"""

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from sdworker.delivery import Delivery, DeliveryError
from sdworker.network import is_public
from sdworker.network.dial import tls_context
from sdworker.settings import load_settings
from tests.hostile.bucket_servers import (
    OK,
    Script,
    answers,
    closes,
    drips,
    first,
    full_backlog,
    gzipped,
    hangs,
    pours,
    refuses,
    resets,
    says,
    serving,
)

SECRET, KEY_ID = "wJalrXUtnFEMI-secret", "AKIAEXAMPLEKEYID"
SMALL = b"image"
LARGE = bytes(16_000_000)  # more than sockets' buffers hold
STAND_IN = "127.0.0.3"
REFUSED = "endpointUrl leads to a host that cannot be resolved or is not public"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings; every timeout short but the deadline, which must not be needed."""
    for name in [name for name in os.environ if name.startswith(("BUCKET_", "AWS_", "RUNPOD_ALLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    monkeypatch.setattr("sdworker.delivery.deliver._PAUSES_S", (0.01,))
    for name, seconds in {
        "CONNECT": 1.0,
        "TLS": 1.0,
        "STALL": 1.0,
        "ANSWER": 1.0,
        "BODY": 0.3,
        "CONTINUE": 0.2,
    }.items():
        monkeypatch.setattr(f"sdworker.network.http._{name}_S", seconds)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private addresses are refused, as in production; only the stand-in is public beside the real internet."""
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "false")
    monkeypatch.setattr("sdworker.network.dial.is_public", lambda ip: ip == STAND_IN or is_public(ip))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A name server: each name with its answers in turn, the last stays; one that is a number hangs so long."""
    real = socket.getaddrinfo

    def configure(**answers: list[list[str] | float]) -> None:
        left = {name.replace("__", "-").replace("_", "."): list(turns) for name, turns in answers.items()}

        def resolve(host: str, port: int, *args: Any, **options: Any) -> Any:
            turns = left.get(host)
            if turns is None:
                return real(host, port, *args, **options)
            now = turns.pop(0) if len(turns) > 1 else turns[0]
            if isinstance(now, float):
                time.sleep(now)
                raise socket.gaierror(socket.EAI_AGAIN, "no answer")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in now]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    return configure


def config(url: str, **other: object) -> dict[str, object]:
    return {"accessId": KEY_ID, "accessSecret": SECRET, "bucketName": "pics", "endpointUrl": url} | other


async def deliver(
    url: str, *images: bytes, delivery: Delivery | None = None, job_id: str = "j", **other: object
) -> list[str]:
    delivery = delivery or Delivery(load_settings())
    bucket = await delivery.bucket_for(config(url, **other))
    return await delivery.deliver(images or (SMALL,), job_id=job_id, format="png", bucket=bucket)


async def failed(url: str, *images: bytes, **other: Any) -> str:
    """The error's words: fit for a user, without a secret, and not those of the deadline."""
    with pytest.raises(DeliveryError) as caught:
        await deliver(url, *images, **other)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    assert SECRET not in message
    assert KEY_ID not in message
    assert "BUCKET_TIMEOUT_S" not in message
    return message


NOT_S3 = "does not answer as S3 does"
PUT_OK_HEAD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\n'
XML_BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 9))
    + b"]><Error><Code>&a8;</Code></Error>"
)  # fmt: skip

# What a bucket does | what the job is told, None where its upload succeeds | times that it is tried
ANSWERS: dict[str, tuple[Script, str | None, int]] = {
    # Without end.
    "a 200 with an endless body is no S3's": (pours(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), NOT_S3, 1),
    "a 200 with ETag is taken at its head, its endless body is not read": (
        pours(PUT_OK_HEAD + b"\r\n", b"x"),
        None,
        1,
    ),
    "a 500 with an endless body is a 500": (pours(b"HTTP/1.1 500 x\r\n\r\n", b"x"), "it answered 500", 7),
    "a 403 with an endless body is a 403": (pours(b"HTTP/1.1 403 x\r\n\r\n", b"x"), "access is denied", 1),
    "endless headers are not HTTP": (pours(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), NOT_S3, 1),
    "one endless header is not HTTP": (pours(b"HTTP/1.1 200 OK\r\nX-A: ", b"b"), NOT_S3, 1),
    "a folded header without end is not HTTP": (
        pours(b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b" more\r\n"),
        NOT_S3,
        1,
    ),
    "an endless status line is not HTTP": (pours(b"HTTP/1.1 200 ", b"O"), NOT_S3, 1),
    "endless 100 Continue is no answer": (pours(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), NOT_S3, 1),
    "endless early hints are no answer": (pours(b"", b"HTTP/1.1 103 x\r\nLink: </a>\r\n\r\n"), NOT_S3, 1),
    "endless chunks of a 500": (
        pours(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "answered 500",
        7,
    ),
    "an endless chunk extension": (
        pours(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        "answered 500",
        7,
    ),
    "an endless chunk length": (
        pours(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        "answered 500",
        7,
    ),
    "endless trailers": (
        pours(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
        "answered 500",
        7,
    ),
    "endless blank lines before an answer": (pours(b"", b"\r\n"), NOT_S3, 1),
    "endless zeros": (pours(b"", b"\0"), NOT_S3, 1),
    "a packed bomb of a 500 stays packed": (
        answers(500, gzipped(10**7), "Content-Encoding: gzip"),
        "answered 500",
        7,
    ),
    "a packed bomb of a 200": (answers(200, gzipped(10**7), "Content-Encoding: gzip"), NOT_S3, 1),
    "a bomb of XML entities is not read as XML": (answers(400, XML_BOMB), "it answered 400", 1),
    # Slow.
    "silence is tried twice": (hangs, "does not answer in time", 2),
    "a head that drips is not waited for": (
        drips(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        "does not answer in time",
        2,
    ),
    "100 Continue that drips is no answer": (
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "does not answer in time",
        2,
    ),
    "a body that drips does not hide its status": (
        drips(b"HTTP/1.1 403 x\r\n\r\n", b"x"),
        "access is denied",
        1,
    ),
    "a body that never comes does not hide its status": (
        says(b"HTTP/1.1 404 x\r\nContent-Length: 99999999999\r\n\r\n", then=hangs),
        "no such bucket",
        1,
    ),
    "a success whose body drips is a success": (drips(PUT_OK_HEAD + b"\r\n", b"x"), None, 1),
    # Broken.
    "the connection ends without an answer": (closes, "closes the connection without an answer", 7),
    "the connection is reset": (resets, "closes the connection without an answer", 7),
    "the connection ends in the head": (
        says(b"HTTP/1.1 200 O"),
        "closes the connection without an answer",
        7,
    ),
    "another protocol": (says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), NOT_S3, 1),
    "HTTP 0.9": (says(b"<html>hello</html>\r\n\r\n"), NOT_S3, 1),
    "HTTP 2": (says(b"HTTP/2 200 OK\r\n\r\n"), NOT_S3, 1),
    "101 Switching Protocols": (says(b"HTTP/1.1 101 x\r\nUpgrade: x\r\n\r\n"), NOT_S3, 1),
    "two lengths that differ": (
        says(PUT_OK_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        NOT_S3,
        1,
    ),
    "a negative length": (says(PUT_OK_HEAD + b"Content-Length: -1\r\n\r\n"), NOT_S3, 1),
    "a status that is none": (says(b"HTTP/1.1 999 x\r\n\r\n"), "it answered 999", 7),
    "a status of two digits": (says(b"HTTP/1.1 20 x\r\n\r\n"), NOT_S3, 1),
    "TLS on the port of http": (says(b"\x15\x03\x01\x00\x02\x02\x46"), "begin with https://", 1),
    "nginx's page of a TLS port": (
        answers(400, b"The plain HTTP request was sent to HTTPS port"),
        "begin with https://",
        1,
    ),
    # Refusals.
    "a 200 without ETag is a web page": (answers(200, b"<html>Welcome</html>"), NOT_S3, 1),
    "a 204 without ETag": (answers(204), NOT_S3, 1),
    "a good bucket": (says(OK), None, 1),
    "a hint before the answer": (says(b"HTTP/1.1 103 x\r\n\r\n", OK), None, 1),
    "a key that is not known": (
        refuses(403, "InvalidAccessKeyId"),
        "keys are not accepted (InvalidAccessKeyId)",
        1,
    ),
    "a wrong secret": (
        refuses(403, "SignatureDoesNotMatch"),
        "keys are not accepted (SignatureDoesNotMatch)",
        1,
    ),
    "temporary keys that are over": (refuses(400, "ExpiredToken"), "keys are not accepted (ExpiredToken)", 1),
    "a key that may not write": (refuses(403, "AccessDenied"), "the key needs the right to put objects", 1),
    "a clock that is wrong": (refuses(403, "RequestTimeTooSkewed"), "its clock and this worker's differ", 1),
    "no such bucket": (refuses(404, "NoSuchBucket"), "there is no such bucket", 1),
    "another region, not told which": (
        refuses(400, "AuthorizationHeaderMalformed"),
        "the endpointUrl of its region",
        1,
    ),
    "a region that is told and is not it either": (
        refuses(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-9"),
        "the endpointUrl of its region",
        2,
    ),
    "a region that would be a host": (
        refuses(301, "PermanentRedirect", "x-amz-bucket-region: evil.example/#"),
        "the endpointUrl of its region",
        1,
    ),
    "a region of 300 letters": (
        refuses(301, "PermanentRedirect", "x-amz-bucket-region: " + "a" * 300),
        "the endpointUrl of its region",
        1,
    ),
    "too many requests": (refuses(429, "SlowDown"), "it answered 429 (SlowDown)", 7),
    "S3 wants less": (refuses(503, "SlowDown"), "it answered 503 (SlowDown)", 7),
    "S3 did not get the body in time": (
        refuses(400, "RequestTimeout"),
        "it answered 400 (RequestTimeout)",
        7,
    ),
    "what the bucket cannot do": (refuses(501, "NotImplemented"), "it answered 501 (NotImplemented)", 1),
    "Cloudflare's own statuses pass": (answers(522), "it answered 522", 7),
    "a quota that is used up": (refuses(413, "EntityTooLarge"), "it answered 413 (EntityTooLarge)", 1),
    "a code with markup is not repeated": (refuses(400, f"<b>\x1b[31m{SECRET}</b>"), "it answered 400", 1),
    "what was sent is not repeated": (refuses(400, "X", f"X-Echo: {SECRET}"), "it answered 400 (X)", 1),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_whatever_a_bucket_answers_has_an_end(case: str) -> None:
    script, said, tries = ANSWERS[case]
    async with serving(script) as server:
        if said is None:
            assert [link.partition("?")[0] for link in await deliver(server.url())] == [
                server.url() + "/pics/j_0.png"
            ]
        else:
            assert said in await failed(server.url())
        assert server.connections == tries


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with (
        serving(says(OK)) as inside,
        serving(answers(status, b"", f"Location: {inside.url()}/pics/j_0.png")) as server,
    ):
        assert f"redirects elsewhere ({status})" in await failed(server.url())
    assert inside.connections == 0


# What a bucket does with a large body | what the job is told
LARGE_BODIES: dict[str, tuple[Script, str]] = {
    "never reads it": (hangs, "stopped taking the upload"),
    "refuses it unread, and closes": (refuses(403, "AccessDenied"), "access is denied"),
    "refuses it unread, and goes on sending": (pours(b"HTTP/1.1 403 x\r\n\r\n", b"x"), "access is denied"),
    "thanks for it unread": (says(OK, then=hangs), "stopped taking the upload"),
    "closes at once": (closes, "closes the connection without an answer"),
    "says to go on without end": (pours(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), NOT_S3),
}


@pytest.mark.parametrize("case", LARGE_BODIES)
async def test_a_bucket_that_does_not_take_the_body(case: str) -> None:
    script, said = LARGE_BODIES[case]
    async with serving(script, read=False) as server:
        assert said in await failed(server.url(), LARGE)


# What goes wrong at first | how often
PASSING: dict[str, tuple[Script, int]] = {
    "resets": (resets, 5),
    "closed connections": (closes, 5),
    "503 SlowDown": (refuses(503, "SlowDown"), 6),
    "429": (answers(429), 6),
    "500 with an endless body": (pours(b"HTTP/1.1 500 x\r\n\r\n", b"x"), 3),
    "silence": (hangs, 1),
}


@pytest.mark.parametrize("case", PASSING)
async def test_what_passes_is_ridden_out(case: str) -> None:
    script, times = PASSING[case]
    async with serving(first(script, times)) as server:
        assert len(await deliver(server.url(), SMALL if times != 3 else LARGE)) == 1
    assert server.connections == times + 1


class TestConnecting:
    async def test_a_port_that_nobody_listens_on(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            assert "cannot be reached" in await failed(f"http://127.0.0.1:{taken.getsockname()[1]}")

    async def test_a_port_that_takes_no_connection(self) -> None:
        with full_backlog() as url:
            assert "cannot be reached in time" in await failed(url)

    @pytest.mark.parametrize(
        "script",
        [
            answers(400, b"Bad request"),
            hangs,
            closes,
            resets,
            pours(b"", b"x"),
            says(b"\x15\x03\x01\x00\x02\x02\x46"),
        ],
        ids=["a 400 in plain HTTP", "silence", "the end", "a reset", "noise", "an alert"],
    )
    async def test_https_at_a_port_that_speaks_no_tls_says_so(self, script: Script) -> None:
        async with serving(script, read=False) as server:
            assert "TLS" in await failed(server.url("https"))
            assert server.connections <= 2

    @pytest.mark.slow
    async def test_https_at_a_silent_port_is_given_up_within_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.http._TLS_S", 4.0)  # the real one
        async with serving(hangs, read=False) as server:
            begun = time.monotonic()
            assert "does not answer a TLS handshake" in await failed(server.url("https"))
            assert time.monotonic() - begun < 20

    async def test_http_at_a_port_that_speaks_tls(self, tmp_path: Path) -> None:
        async with serving(says(OK), tls=certificate(tmp_path)) as server:
            message = await failed(server.url("http"))
            assert "https://" in message or "without an answer" in message

    @pytest.mark.parametrize("days", [-1, 1], ids=["expired", "of no authority"])
    async def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path, days: int) -> None:
        async with serving(says(OK), tls=certificate(tmp_path, days=days)) as server:
            assert "certificate is not accepted" in await failed(server.url("https"))
            assert server.connections <= 1

    @pytest.mark.parametrize(
        ("host", "said"), [("127.0.0.1", None), ("localhost", "certificate is not accepted")]
    )
    async def test_an_authority_of_ones_own_and_a_name_that_is_not_the_certificates(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, said: str | None
    ) -> None:
        tls = certificate(tmp_path)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
        tls_context.cache_clear()
        try:
            async with serving(says(OK), tls=tls) as server:
                url = f"https://{host}:{server.port}"
                if said is None:
                    assert len(await deliver(url, SMALL, LARGE)) == 2
                else:
                    assert said in await failed(url)
        finally:
            tls_context.cache_clear()

    async def test_proxies_of_the_environment_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving(says(OK)) as proxy, serving(says(OK)) as server:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url())
            await deliver(server.url())
        assert (proxy.connections, server.connections) == (0, 1)


@pytest.mark.usefixtures("guarded")
class TestPrivateAddresses:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "localhost", "localhost.", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "0.0.0.0",
            "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
            "10.0.0.1",
            "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "[fe80::1]", "100.100.100.200", "168.63.129.16",
            "[::ffff:168.63.129.16]", "192.0.0.192", "224.0.0.1", "255.255.255.255", "no-such-host.invalid",
            "a..b", "a" * 64 + ".example",
        ],
    )  # fmt: skip
    async def test_no_spelling_leads_there_and_all_sound_alike(self, host: str) -> None:
        async with serving(says(OK), "0.0.0.0") as inside:
            for scheme in ("http", "https"):
                assert await failed(f"{scheme}://{host}:{inside.port}") == f"s3Config: {REFUSED}"
        assert inside.connections == 0

    # Names' answers in turn | what the stand-in says: a rebinding's first answer passes the check before drawing.
    REBINDING: ClassVar[dict[str, tuple[list[list[str]], Script]]] = {
        "turns private once it was judged": ([[STAND_IN], ["127.0.0.1"]], says(OK)),
        "turns private at the second try": ([[STAND_IN], [STAND_IN], ["127.0.0.1"]], answers(503)),
        "turns private after a reset": ([[STAND_IN], [STAND_IN], ["127.0.0.1"]], resets),
        "turns private where another region is told": (
            [[STAND_IN], [STAND_IN], ["127.0.0.1"]],
            refuses(400, "AuthorizationHeaderMalformed", "x-amz-bucket-region: eu-west-9"),
        ),
        "turns into Azure's host": ([[STAND_IN], ["168.63.129.16"]], says(OK)),
    }

    @pytest.mark.parametrize("case", REBINDING)
    async def test_a_name_that_changes_its_address(self, names: Callable[..., None], case: str) -> None:
        answers_of_name, script = self.REBINDING[case]
        names(rebind_example=answers_of_name)
        # The same port inside: whoever is reached there is counted.
        async with serving(script, STAND_IN) as outside, serving(says(OK), port=outside.port) as inside:
            message = await failed(f"http://rebind.example:{outside.port}")
        assert message.endswith("at rebind.example: it is at a host that cannot be resolved or is not public")
        assert inside.connections == 0

    async def test_of_several_addresses_only_public_ones_are_dialled(
        self, names: Callable[..., None]
    ) -> None:
        names(both_example=[["127.0.0.1", STAND_IN]])
        async with serving(says(OK), STAND_IN) as outside, serving(says(OK), port=outside.port) as inside:
            assert len(await deliver(f"http://both.example:{outside.port}")) == 1
        assert inside.connections == 0

    async def test_the_host_that_holds_the_buckets_name_is_judged(self, names: Callable[..., None]) -> None:
        """With the name in the host it is the bucket's host that is dialled, not the endpoint's."""
        names(nyc3_digitaloceanspaces_com=[[STAND_IN]], pics_nyc3_digitaloceanspaces_com=[["127.0.0.1"]])
        async with serving(says(OK)) as inside:
            url = f"http://nyc3.digitaloceanspaces.com:{inside.port}"
            assert await failed(url) == f"s3Config: {REFUSED}"
        assert inside.connections == 0

    async def test_the_region_that_aws_tells_is_followed(self, names: Callable[..., None]) -> None:
        names(pics_s3_us__east__1_amazonaws_com=[[STAND_IN]], pics_s3_eu__west__3_amazonaws_com=[[STAND_IN]])
        redirect = refuses(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-3")
        async with serving(first(redirect, 1), STAND_IN) as aws:
            [link] = await deliver(f"http://s3.us-east-1.amazonaws.com:{aws.port}")
        there = f"pics.s3.eu-west-3.amazonaws.com:{aws.port}"
        assert f"Host: {there}\r\n" in aws.heads[1]
        assert "/eu-west-3/s3/aws4_request" in aws.heads[1]
        assert link.startswith(f"http://{there}/j_0.png?")

    async def test_a_redirect_of_awss_into_the_network_is_judged_too(
        self, names: Callable[..., None]
    ) -> None:
        names(pics_s3_us__east__1_amazonaws_com=[[STAND_IN]], pics_s3_evil_amazonaws_com=[["127.0.0.1"]])
        redirect = refuses(301, "PermanentRedirect", "x-amz-bucket-region: evil")
        async with serving(redirect, STAND_IN) as aws, serving(says(OK), port=aws.port) as inside:
            assert "is not public" in await failed(f"http://s3.us-east-1.amazonaws.com:{aws.port}")
        assert inside.connections == 0

    async def test_the_deployments_own_bucket_may_be_private(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving(says(OK)) as minio:
            delivery = own_bucket(monkeypatch, minio.url())
            bucket = await delivery.bucket_for(None)
            links = await delivery.deliver([SMALL], job_id="j", format="png", bucket=bucket)
        assert links[0].startswith(f"{minio.url()}/pics/j_0.png?")

    async def test_an_access_point_is_taken_at_awss_own_endpoint(self, names: Callable[..., None]) -> None:
        names(ap__123456789012_s3__accesspoint_eu__west__1_amazonaws_com=[[STAND_IN]])
        arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap"
        async with serving(says(OK), STAND_IN) as aws:
            await deliver(f"http://s3.eu-west-1.amazonaws.com:{aws.port}", bucketName=arn)
        assert f"Host: ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com:{aws.port}\r\n" in aws.heads[0]


ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint"
BAD_NAMES = [
    # ARNs make a host of their own.
    f"{ARN}/ap", f"{ARN}:ap", f"{ARN}/ap".upper(), "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/ap",
    "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/ap",
    "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/ap", "arn:aws:s3:::pics",
    "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "arn:", "arn:aws:s3:127.0.0.1#:1:accesspoint/x",
    # Names that would be more than one segment of a path or a label of a host.
    ".", "..", "../..", "a/../b", "a/b", "a\\b", "a?b", "a#b", "user@evil.example", "user:word@evil.example",
    "a b",
    "a%2fb", "a%00", "a\0b", "a\r\nX-Evil: 1", "a\tb", "a\u3002b", "\ud800", "☕", "-a", ".a", "a..b", "[::1]",
    "127.0.0.1:80", "x" * 256, "${jndi:ldap://x}", "%s", "a;b", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_a_bucket_name_that_cannot_be_is_refused_before_drawing(name: str) -> None:
    async with serving(says(OK)) as server:
        with pytest.raises(
            DeliveryError, match=r"s3Config: bucketName: .*(is no bucket's name|an ARN is taken)"
        ) as caught:
            await Delivery(load_settings()).bucket_for(config(server.url(), bucketName=name))
    assert str(caught.value).isprintable()
    assert server.connections == 0


@pytest.mark.parametrize(
    "name",
    [
        "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/ap",
        "arn:aws:s3:::x",
        f"{ARN}/a.b",
    ],
)
async def test_what_is_no_access_point_is_refused_at_aws_too(name: str) -> None:
    with pytest.raises(DeliveryError, match="s3Config: bucketName: an ARN"):
        await Delivery(load_settings()).bucket_for(
            config("https://s3.eu-west-1.amazonaws.com", bucketName=name)
        )


@pytest.mark.parametrize(
    "url",
    [
        "s3.example.com", "//s3.example.com", "file:///etc/passwd", "javascript:alert(1)", "gopher://h/", "http://",
        "http:///pics", "http://[::1", "http://h:port", "http://h:99999", "http://h:0", "http://h:-1",
        "http://good.example@127.0.0.1", "http://@127.0.0.1", "http://127.0.0.1#@good.example", "http://h/?x=1",
        "http://h/%0d%0aX: y", "http://h/../b", "http://h/a/./b", "http://h\\@127.0.0.1", "http://①②⑦.0.0.1",
        "http://h\0.example", "http://*", "http://h/\ud800", "http://h/a b", "https://" + "h" * 5000 + "/[",
    ],
    ids=ascii,
)  # fmt: skip
async def test_an_endpoint_that_cannot_be_is_refused_before_drawing(url: str) -> None:
    with pytest.raises(DeliveryError, match=r"^s3Config: endpointUrl: (must be|not a valid URL)") as caught:
        await Delivery(load_settings()).bucket_for(config(url))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("key", ["accessId", "accessSecret", "sessionToken"])
@pytest.mark.parametrize("value", ["a b", "a\r\nX-Evil: 1", "é", "\0", "x" * 10_000])
async def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key: str, value: str) -> None:
    with pytest.raises(DeliveryError, match=f"^s3Config: {key} with spaces or unusual characters$"):
        await Delivery(load_settings()).bucket_for(config("http://127.0.0.1:1", **{key: value}))


async def test_a_session_token_is_signed_and_sent() -> None:
    async with serving(says(OK)) as server:
        [link] = await deliver(server.url(), sessionToken="FwoG/token==")
    assert "X-Amz-Security-Token: FwoG/token==\r\n" in server.heads[0]
    assert ";x-amz-security-token," in server.heads[0]
    assert "X-Amz-Security-Token=FwoG%2Ftoken%3D%3D" in link


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A good bucket, at a real S3-speaking server, and boto3 to look into it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
    )  # fmt: skip
    client.create_bucket(Bucket="pics")
    yield client
    server.stop()


class TestOtherJobs:
    @pytest.mark.parametrize(
        ("script", "read"),
        [(hangs, True), (hangs, False), (drips(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), True),
         (pours(b"HTTP/1.1 500 x\r\n\r\n", b"x"), True)],
        ids=["silent", "not reading", "dripping", "pouring"],
    )  # fmt: skip
    async def test_a_good_buckets_uploads_do_not_wait_for_a_bad_ones(
        self, s3: Any, script: Script, read: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.http._ANSWER_S", 60.0)
        monkeypatch.setattr("sdworker.network.http._STALL_S", 60.0)
        delivery = Delivery(load_settings())
        async with serving(script, read=read) as bad:
            jobs = [
                asyncio.create_task(deliver(bad.url(), *[LARGE] * 16, delivery=delivery, job_id=f"bad-{i}"))
                for i in range(4)
            ]
            await until(lambda: bad.connections >= 32)
            images = [f"image {i}".encode() for i in range(8)]
            async with asyncio.timeout(50):
                links = await deliver(s3.meta.endpoint_url, *images, delivery=delivery, job_id="good")
            if script is hangs:
                assert not any(job.done() for job in jobs)
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
        assert len(links) == 8
        for i, image in enumerate(images):
            stored = s3.get_object(Bucket="pics", Key=f"good_{i}.png")
            assert (stored["Body"].read(), stored["ContentType"]) == (image, "image/png")

    async def test_names_that_are_never_answered_hold_up_nobody(
        self, s3: Any, names: Callable[..., None]
    ) -> None:
        names(**{f"slow{i}_example": [60.0] for i in range(40)})
        delivery = Delivery(load_settings())
        jobs = [asyncio.create_task(deliver(f"http://slow{i}.example", delivery=delivery)) for i in range(40)]
        await until(lambda: sum(thread.name == "lookup" for thread in threading.enumerate()) >= 40)
        async with asyncio.timeout(50):
            assert len(await deliver(s3.meta.endpoint_url, LARGE, delivery=delivery, job_id="good")) == 1
            [text] = await delivery.deliver([SMALL], job_id="j", format="png", bucket=None)
        assert base64.b64decode(text) == SMALL
        assert not any(job.done() for job in jobs)
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)

    async def test_the_deadline_is_for_all_of_a_jobs_images_and_tries(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BUCKET_TIMEOUT_S", "0.5")
        monkeypatch.setattr("sdworker.delivery.deliver._PAUSES_S", (0.3,))
        async with serving(answers(503)) as server:
            with pytest.raises(DeliveryError, match=r"longer than 0.5 s \(BUCKET_TIMEOUT_S\)"):
                await deliver(server.url(), *[SMALL] * 16)

    async def test_no_task_or_connection_is_left_of_a_job_that_was_stopped(self) -> None:
        async with serving(hangs) as server:
            before = len(asyncio.all_tasks())
            job = asyncio.create_task(deliver(server.url(), *[LARGE] * 8))
            await until(lambda: len(server.heads) == 8)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            await until(lambda: len(asyncio.all_tasks()) <= before + 8)  # the server's own
            uploads = [
                task for task in asyncio.all_tasks() if "_send" in repr(task) or "_receive" in repr(task)
            ]
            assert uploads == []


class TestOneImageOfSeveral:
    @pytest.mark.parametrize("fallback", ["error", "base64"])
    async def test_nothing_is_half_returned(self, monkeypatch: pytest.MonkeyPatch, fallback: str) -> None:
        images = [f"image {i}".encode() for i in range(8)]

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await (refuses(403, "AccessDenied") if len(server.heads) == 5 else says(OK))(reader, writer)

        async with serving(script) as server:
            delivery = own_bucket(monkeypatch, server.url(), BUCKET_FALLBACK=fallback)
            bucket = await delivery.bucket_for(None)
            ask = delivery.deliver(images, job_id="j", format="png", bucket=bucket)
            if fallback == "error":
                with pytest.raises(
                    DeliveryError, match=r"the bucket 'pics' at 127\.0\.0\.1: access is denied"
                ):
                    await ask
            else:
                assert [base64.b64decode(text) for text in await ask] == images


# Runs deliveries to the URL it is given, in a process of its own, and says how many MB it has grown by at most.
_GROWTH = """
import asyncio, json, pathlib, re, sys
from sdworker.delivery import Delivery, DeliveryError
from sdworker.settings import load_settings
import sdworker.delivery.deliver as deliver
deliver._PAUSES_S = (0.01,)
delivery = Delivery(load_settings())
async def job(url, i):
    bucket = await delivery.bucket_for(dict(accessId="a", accessSecret="b", bucketName="pics", endpointUrl=url))
    try:
        await delivery.deliver([b"image"] * 8, job_id=str(i), format="png", bucket=bucket)
    except DeliveryError as error:
        return str(error)
def most_mb():  # not ru_maxrss, which begins with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
async def main(urls):
    await job(urls[0], 0)
    before = most_mb()
    told = await asyncio.gather(*(job(url, i) for url in urls for i in range(2)))
    print(json.dumps([most_mb() - before, told]))
asyncio.run(main(sys.argv[1:]))
"""

# Hangs in an upload, in a name and in a handshake; told to stop, it cancels what runs and ends.
_STOPPED = """
import asyncio, signal, socket, sys, time
from sdworker.delivery import Delivery
from sdworker.settings import load_settings
real = socket.getaddrinfo
def resolve(host, *args, **options):
    return time.sleep(300) if host == "slow.example" else real(host, *args, **options)
socket.getaddrinfo = resolve
delivery = Delivery(load_settings())
async def job(url, i):
    bucket = await delivery.bucket_for(dict(accessId="a", accessSecret="b", bucketName="pics", endpointUrl=url))
    await delivery.deliver([bytes(16_000_000)] * 8, job_id=str(i), format="png", bucket=bucket)
async def main(urls):
    jobs = [asyncio.create_task(job(url, i)) for i, url in enumerate([*urls, "http://slow.example"])]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.sleep(1)
    print("hanging", flush=True)
    await stop.wait()
    for each in jobs: each.cancel()
    await asyncio.wait(jobs)
asyncio.run(main(sys.argv[1:]))
"""


class TestProcess:
    @pytest.mark.slow
    async def test_memory_is_flat_whatever_pours_in(self) -> None:
        pouring = {
            name: script for name, (script, *_) in ANSWERS.items() if "ndless" in name or "bomb" in name
        }
        assert len(pouring) >= 12
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving(script)) for script in pouring.values()]
            urls = [server.url() for server in servers]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _GROWTH, *urls, stdout=subprocess.PIPE
            )
            out, _err = await process.communicate()
        grown_mb, told = json.loads(out)
        assert len(told) == 2 * len(urls)
        # Some 200 connections, each with at most some hundred KB under way.
        assert grown_mb < 110

    async def test_what_hangs_does_not_keep_the_process(self) -> None:
        async with serving(hangs) as silent, serving(hangs, read=False) as stuck:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _STOPPED,
                silent.url(),
                stuck.url(),
                stuck.url("https"),
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"hanging\n"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0  # an upload may take 60 s, a name 300


def own_bucket(monkeypatch: pytest.MonkeyPatch, url: str, **other: str) -> Delivery:
    """A delivery whose deployment has a bucket."""
    keys = {"BUCKET_ACCESS_KEY_ID": KEY_ID, "BUCKET_SECRET_ACCESS_KEY": SECRET}
    for name, value in ({"BUCKET_ENDPOINT_URL": url, "BUCKET_NAME": "pics"} | keys | other).items():
        monkeypatch.setenv(name, value)
    return Delivery(load_settings())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not holds():  # noqa: ASYNC110 - there is no event for what another process or thread does
            await asyncio.sleep(0.01)


def certificate(folder: Path, *, days: int = 1) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of its own authority for 127.0.0.1, left in `certificate.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bucket")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    return context
