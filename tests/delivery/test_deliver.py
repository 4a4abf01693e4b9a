"""Images reach a real S3-speaking server over HTTP, through a front that can be told to misbehave."""

import asyncio
import base64
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from sdworker.delivery import Bucket, Delivery, DeliveryError, result_bytes
from sdworker.settings import load_settings

SECRET = "wJalrXUtnFEMI-secret"
KEY_ID = "AKIAEXAMPLEKEYID"
IMAGES = [b"first" * 1000, b"second", b"third"]


@dataclass
class Front:
    """Stands before the S3 server: keeps what it was sent, and answers with `faults` while it has any.

    A fault is a status with an S3 error code or a whole body, or the seconds to wait before going on.

    Attributes:
        together: no request is answered until so many have come that it breaks.
    """

    url: str = ""
    faults: list[tuple[int, str] | float] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    together: asyncio.Barrier | None = None

    def puts(self) -> list[str]:
        return [path for method, path, _ in self.seen if method == "PUT"]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def front(s3: str) -> AsyncIterator[Front]:
    this = Front()
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.Response:
            this.seen.append((request.method, request.raw_path, dict(request.headers)))
            body = await request.read()
            if this.together is not None:
                await this.together.wait()
            if this.faults:
                fault = this.faults.pop(0)
                if isinstance(fault, tuple):
                    status, code = fault
                    text = f"<Error><Code>{code}</Code><Message>{SECRET} {KEY_ID}</Message></Error>"
                    if code.startswith("<"):
                        text = code
                    return web.Response(status=status, text="" if request.method == "HEAD" else text)
                await asyncio.sleep(fault)
            headers = {name: value for name, value in request.headers.items() if name != "Expect"}
            async with session.request(
                request.method, s3 + request.raw_path, headers=headers, data=body
            ) as answer:
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name not in ("Transfer-Encoding", "Content-Length", "Date", "Server")
                }
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        this.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with session.post(s3 + "/moto-api/reset"), session.put(s3 + "/pics"):
            pass
        yield this
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_bucket_of_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("BUCKET_", "AWS_", "RUNPOD_ALLOW_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdworker.delivery.deliver._PAUSES_S", (0.01, 0.01))


Configure = Callable[..., Delivery]


@pytest.fixture
def configure(front: Front, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Makes a Delivery of environment variables; those of a whole configuration are set."""

    def make(**environment: str) -> Delivery:
        whole = {
            "BUCKET_ENDPOINT_URL": front.url,
            "BUCKET_ACCESS_KEY_ID": KEY_ID,
            "BUCKET_SECRET_ACCESS_KEY": SECRET,
            "BUCKET_NAME": "pics",
        }
        for name, value in (whole | environment).items():
            monkeypatch.setenv(name, value)
        return Delivery(load_settings())

    return make


async def deliver(delivery: Delivery, s3_config: object = None, job_id: str = "job-1") -> list[str]:
    bucket = await delivery.bucket_for(s3_config)
    return await delivery.deliver(IMAGES, job_id=job_id, format="png", bucket=bucket)


async def fetch(url: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.content_type, await response.read()


class TestWithoutABucket:
    async def test_images_come_back_as_bare_base64_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        delivery = Delivery(load_settings())
        assert await delivery.bucket_for(None) is None
        assert [base64.b64decode(text) for text in await deliver(delivery)] == IMAGES

    async def test_base64_is_the_same_without_pybase64(self, monkeypatch: pytest.MonkeyPatch) -> None:
        delivery = Delivery(load_settings())
        quick = await deliver(delivery)
        monkeypatch.setattr("sdworker.delivery.deliver.pybase64", None)
        assert await deliver(delivery) == quick

    def test_boto3_is_not_imported(self) -> None:
        code = (
            "import sys; from sdworker.delivery import Delivery; from sdworker.settings import load_settings;"
            "Delivery(load_settings()); sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    async def test_there_is_nothing_to_check(self) -> None:
        await Delivery(load_settings()).check()


class TestUpload:
    async def test_links_come_back_in_order_and_work_with_a_plain_get(self, configure: Configure) -> None:
        links = await deliver(configure())
        for link, image in zip(links, IMAGES, strict=True):
            assert await fetch(link) == (200, "image/png", image)

    async def test_objects_are_named_by_prefix_job_and_index(
        self, configure: Configure, front: Front
    ) -> None:
        await deliver(configure(BUCKET_PREFIX="/renders/today/"))
        assert sorted(front.puts()) == [f"/pics/renders/today/job-1_{i}.png" for i in range(3)]

    @pytest.mark.parametrize(("format", "extension"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
    async def test_type_and_extension_follow_the_format(
        self, configure: Configure, front: Front, format: str, extension: str
    ) -> None:
        delivery = configure()
        bucket = await delivery.bucket_for()
        [link] = await delivery.deliver([b"x"], job_id="j", format=format, bucket=bucket)  # type: ignore[arg-type]
        assert front.puts() == [f"/pics/j_0.{extension}"]
        assert (await fetch(link))[1] == f"image/{format}"

    @pytest.mark.parametrize("job_id", ["../../etc/passwd", "a/b", "", "..", "é?x=1#y", "x" * 3000, "a\nb"])
    async def test_a_job_id_cannot_leave_the_prefix(
        self, configure: Configure, front: Front, job_id: str
    ) -> None:
        links = await deliver(configure(BUCKET_PREFIX="safe/"), job_id=job_id)
        for path in front.puts():
            assert path.startswith("/pics/safe/")
            assert path.count("/") == 3
            assert ".." not in path
        assert (await fetch(links[0]))[0] == 200

    async def test_presigned_links_are_version_4_with_the_set_expiry_and_region(
        self, configure: Configure
    ) -> None:
        [link, *_] = await deliver(configure(BUCKET_LINK_EXPIRY_S="3600", BUCKET_REGION="eu-west-3"))
        query = parse_qs(urlsplit(link).query)
        assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
        assert query["X-Amz-Expires"] == ["3600"]
        assert "/eu-west-3/s3/" in query["X-Amz-Credential"][0]
        assert SECRET not in link

    async def test_with_a_public_url_links_are_plain(self, configure: Configure) -> None:
        links = await deliver(configure(BUCKET_PUBLIC_URL="https://cdn.example/i/", BUCKET_PREFIX="a b/"))
        assert links == [f"https://cdn.example/i/a%20b/job-1_{i}.png" for i in range(3)]

    async def test_no_checksum_is_sent_that_only_aws_understands(
        self, configure: Configure, front: Front
    ) -> None:
        await deliver(configure())
        for method, _, headers in front.seen:
            names = {name.lower() for name in headers}
            assert method == "PUT"
            assert not [name for name in names if "checksum" in name or name in ("x-amz-trailer", "te")]
            assert "aws-chunked" not in headers.get("Content-Encoding", "")
            assert "STREAMING" not in headers["X-Amz-Content-SHA256"]

    async def test_uploads_run_in_parallel_and_off_the_event_loop(
        self, configure: Configure, front: Front
    ) -> None:
        """The server answers nobody before all three are there; and it answers on this very loop."""
        front.together = asyncio.Barrier(3)
        assert len(await deliver(configure())) == 3

    async def test_the_same_job_again_overwrites_its_own(self, configure: Configure) -> None:
        delivery = configure()
        bucket = await delivery.bucket_for()
        for body in (b"one", b"two"):
            [link] = await delivery.deliver([body], job_id="j", format="png", bucket=bucket)
        assert (await fetch(link))[2] == b"two"


class TestFaults:
    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    async def test_a_short_fault_is_ridden_out(self, configure: Configure, front: Front, status: int) -> None:
        front.faults = [(status, "InternalError")] * 4
        links = await deliver(configure())
        assert [(await fetch(link))[2] for link in links] == IMAGES

    async def test_a_bucket_that_stays_down_is_an_error_that_names_it(
        self, configure: Configure, front: Front
    ) -> None:
        front.faults = [(503, "ServiceUnavailable")] * 100
        with pytest.raises(DeliveryError, match=r"the bucket 'pics' at 127.0.0.1: it answered 503"):
            await deliver(configure())

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (403, "AccessDenied", "access is denied"),
            (403, "InvalidAccessKeyId", "keys are not accepted"),
            (403, "SignatureDoesNotMatch", "keys are not accepted"),
            (404, "NoSuchBucket", "no such bucket"),
            (400, "AuthorizationHeaderMalformed", "BUCKET_REGION"),
            (400, "InvalidArgument", "answered 400"),
        ],
    )
    async def test_what_will_not_pass_is_not_tried_again(
        self, configure: Configure, front: Front, status: int, code: str, said: str
    ) -> None:
        front.faults = [(status, code)] * 100
        with pytest.raises(DeliveryError, match=said) as caught:
            await deliver(configure())
        assert "'pics'" in str(caught.value)
        # The first refusal stops the others, some of them before they are sent.
        assert sorted(front.puts()) == sorted(set(front.puts()))
        assert SECRET not in str(caught.value)
        assert KEY_ID not in str(caught.value)

    async def test_a_bucket_that_is_not_there(self, configure: Configure) -> None:
        with pytest.raises(DeliveryError, match=r"'nowhere' .*no such bucket"):
            await deliver(configure(BUCKET_NAME="nowhere"))

    async def test_a_refused_connection(self, configure: Configure) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(DeliveryError, match="cannot be reached"):
                await deliver(configure(BUCKET_ENDPOINT_URL=url))

    async def test_a_bucket_that_hangs_is_given_up(
        self, configure: Configure, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.http._ANSWER_S", 0.5)
        front.faults = [3600.0] * 100
        with pytest.raises(DeliveryError, match=r"longer than 0.3 s \(BUCKET_TIMEOUT_S\)"):
            await deliver(configure(BUCKET_TIMEOUT_S="0.3"))

    async def test_an_upload_that_hangs_once_is_tried_again(
        self, configure: Configure, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.http._ANSWER_S", 0.3)
        front.faults = [1.0]
        assert len(await deliver(configure())) == 3

    @pytest.mark.parametrize(("status", "said"), [(200, "as S3 does"), (400, "answered 400"), (405, "405")])
    async def test_a_server_that_is_not_s3(
        self, configure: Configure, front: Front, status: int, said: str
    ) -> None:
        front.faults = [(status, "<html>Welcome</html>")] * 100
        with pytest.raises(DeliveryError, match=f"'pics' .*{said}"):
            await deliver(configure())

    async def test_base64_is_the_way_out_where_the_settings_say_so(
        self, configure: Configure, front: Front, caplog: pytest.LogCaptureFixture
    ) -> None:
        front.faults = [(403, "AccessDenied")]  # one of three: the result is all of one kind
        with caplog.at_level(logging.WARNING):
            texts = await deliver(configure(BUCKET_FALLBACK="base64"))
        assert [base64.b64decode(text) for text in texts] == IMAGES
        assert "job-1" in caplog.text
        assert "'pics'" in caplog.text
        assert SECRET not in caplog.text

    async def test_a_cancelled_delivery_stops_trying(
        self, configure: Configure, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.delivery.deliver._PAUSES_S", (3600.0,))
        front.faults = [(503, "SlowDown")] * 100
        task = asyncio.create_task(deliver(configure()))
        while not front.puts():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestCheck:
    async def test_a_bucket_that_is_there_passes(self, configure: Configure) -> None:
        await configure().check()

    async def test_a_key_that_may_only_write_passes(self, configure: Configure, front: Front) -> None:
        front.faults = [(403, "")]
        await configure().check()

    async def test_a_missing_bucket_fails(self, configure: Configure) -> None:
        with pytest.raises(DeliveryError, match=r"'nowhere' .*no such bucket"):
            await configure(BUCKET_NAME="nowhere").check()

    async def test_a_dead_host_fails(self, configure: Configure) -> None:
        with pytest.raises(DeliveryError, match="cannot be reached"):
            await configure(BUCKET_ENDPOINT_URL="http://127.0.0.1:1").check()


class TestJobsOwnBucket:
    @pytest.fixture(autouse=True)
    def _private_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")

    def config(self, front: Front, **other: object) -> dict[str, object]:
        return {
            "accessId": KEY_ID,
            "accessSecret": SECRET,
            "bucketName": "mine",
            "endpointUrl": front.url,
        } | other

    async def test_it_beats_the_deployments_bucket_and_its_prefix(
        self, configure: Configure, front: Front, s3: str
    ) -> None:
        delivery = configure(BUCKET_PREFIX="theirs/", BUCKET_PUBLIC_URL="https://cdn.example/")
        async with aiohttp.ClientSession() as session, session.put(s3 + "/mine"):
            pass
        links = await deliver(delivery, self.config(front))
        assert sorted(front.puts()) == [f"/mine/job-1_{i}.png" for i in range(3)]
        assert (await fetch(links[1]))[2] == IMAGES[1]

    async def test_it_works_where_the_deployment_has_none(
        self, front: Front, s3: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with aiohttp.ClientSession() as session, session.put(s3 + "/mine"):
            pass
        config = self.config(front, endpointUrl=front.url + "/mine", bucketName="")
        assert (await fetch((await deliver(Delivery(load_settings()), config))[0]))[0] == 200

    @pytest.mark.parametrize("empty", [None, {}, {"accessId": "", "accessSecret": None}])
    async def test_an_empty_one_counts_as_none(self, empty: object) -> None:
        assert await Delivery(load_settings()).bucket_for(empty) is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"accessSecret": None}, "accessSecret missing"),
            ({"accessId": "", "accessSecret": " "}, "accessId, accessSecret missing"),
            ({"endpointUrl": ""}, "endpointUrl missing"),
            ({"bucketName": None}, "bucketName missing"),
            ({"bucketName": 7}, "bucketName must be text"),
            ({"endpointUrl": "s3.example.com"}, "endpointUrl: must be a URL"),
            ({"endpointUrl": "file:///etc"}, "endpointUrl: must be a URL"),
            ({"endpointUrl": "http://[oops"}, "endpointUrl: not a valid URL"),
            ({"endpointUrl": "http://a:b@host"}, "without credentials"),
            ({"endpointUrl": "http://ho\r\nst"}, "endpointUrl"),
            ({"accessId": "a\r\nX-Evil: 1"}, "accessId with spaces or unusual characters"),
            ({"endpointUrl": "http://no-such-host.invalid"}, "cannot be resolved"),
        ],
    )
    async def test_what_is_wrong_is_said_before_anything_is_drawn(
        self, front: Front, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
    ) -> None:
        monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "false")
        with pytest.raises(DeliveryError, match=f"^s3Config: .*{said}") as caught:
            await Delivery(load_settings()).bucket_for(self.config(front, **change))
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("config", ["text", 7, ["a"]])
    async def test_anything_but_an_object_is_refused(self, config: object) -> None:
        with pytest.raises(DeliveryError, match="must be an object"):
            await Delivery(load_settings()).bucket_for(config)

    async def test_it_cannot_lead_into_the_private_network(
        self, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "false")
        for url in (front.url, "http://169.254.169.254/latest", "http://localhost:9000"):
            with pytest.raises(DeliveryError, match="not public"):
                await Delivery(load_settings()).bucket_for(self.config(front, endpointUrl=url))
        assert front.seen == []

    @pytest.mark.parametrize("name", ["a/../b", "new\nline", "\ud800", "x" * 300, "arn:aws:s3:us-east-1:1:x"])
    async def test_a_bucket_name_that_cannot_be_is_a_readable_error(self, front: Front, name: str) -> None:
        with pytest.raises(DeliveryError) as caught:
            await deliver(Delivery(load_settings()), self.config(front, bucketName=name))
        assert str(caught.value).isprintable()
        assert front.puts() == []

    async def test_keys_do_not_show_in_a_printed_bucket(self, front: Front) -> None:
        bucket = await Delivery(load_settings()).bucket_for(self.config(front))
        assert isinstance(bucket, Bucket)
        assert SECRET not in repr(bucket)
        assert KEY_ID not in repr(bucket)


def test_the_result_is_measured_as_the_sdk_posts_it() -> None:
    items = [{"image": "A" * 1000, "seed": 1}, {"image": "é☕", "seed": 2}]
    assert result_bytes(items) == len(json.dumps({"output": items}, ensure_ascii=False).encode())
    assert result_bytes([]) == len('{"output": []}')
