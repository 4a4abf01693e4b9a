"""Pictures by URL from a real server: limits hold while the body arrives, and no way in is left open."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sdworker.network import Fault, NetworkError, dialled, is_public
from sdworker.pictures.fetch import download
from sdworker.pictures.limits import PictureError, PictureLimits

OPEN = PictureLimits(max_bytes=100_000, max_pixels=1, timeout_s=5, allow_private=True)
GUARDED = replace(OPEN, allow_private=False)
STAND_IN = "127.0.0.3"  # plays the public internet where a test needs one


def _public_or_stand_in(address: str) -> bool:
    return address == STAND_IN or is_public(address)


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, /, **routes: object
) -> AsyncIterator[str]:
    """A server on loopback; each route answers with bytes, a response, or what its handler says."""
    app = web.Application()

    def add(name: str, answer: object) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            if callable(answer):
                return await answer(request)
            return answer if isinstance(answer, web.StreamResponse) else web.Response(body=answer)

        app.router.add_get(f"/{name}", handle)

    for name, answer in routes.items():
        add(name, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=tls)
    await site.start()
    try:
        yield f"http{'s' if tls else ''}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(*pieces: bytes, pause_s: float = 0) -> AsyncIterator[str]:
    """A server that writes these bytes whatever it is asked, then closes: for broken HTTP."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Names(AbstractResolver):
    """A name server whose answers change from one question to the next, as in DNS rebinding."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = iter(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        pass


async def refused(url: str, limits: PictureLimits = OPEN, resolver: AbstractResolver | None = None) -> str:
    with pytest.raises(PictureError) as caught:
        await download(url, limits, resolver=resolver)
    return str(caught.value)


class TestFetching:
    async def test_the_body_comes_back_whole(self) -> None:
        body = bytes(range(256)) * 300
        async with serving(p=body) as server:
            assert await download(f"{server}/p", OPEN) == body
            assert await download(f"  {server.replace('http', 'HTTP')}/p\n", OPEN) == body

    async def test_up_to_five_redirects_are_followed(self) -> None:
        async def count_down(request: web.Request) -> web.Response:
            left = int(request.path[1:])
            if left:
                raise web.HTTPFound(f"/{left - 1}")
            return web.Response(body=b"picture")

        async with serving(**{"{left:.*}": count_down}) as server:
            assert await download(f"{server}/5", OPEN) == b"picture"
            assert "redirects more than 5 times" in await refused(f"{server}/6")

    async def test_a_signed_link_is_sent_exactly_as_given(self) -> None:
        seen: list[str] = []

        async def note(request: web.Request) -> web.Response:
            seen.append(request.raw_path)
            return web.Response(body=b"p")

        async with serving(**{"{path:.*}": note}) as server:
            await download(f"{server}/a%2Fb%7Ec/d+e?sig=%2b%3D&x=a%20b#part", OPEN)
            await download(f"{server}/with space/é", OPEN)
        assert seen == ["/a%2Fb%7Ec/d+e?sig=%2b%3D&x=a%20b", "/with%20space/%C3%A9"]

    async def test_a_line_break_in_a_url_cannot_smuggle_a_header(self) -> None:
        seen: list[web.Request] = []

        async def note(request: web.Request) -> web.Response:
            seen.append(request)
            return web.Response(body=b"p")

        async with serving(**{"{path:.*}": note}) as server:
            for url in (f"{server}/a\r\nX-Evil: 1\r\n", f"{server}/a HTTP/1.1\r\nX-Evil: 1"):
                try:
                    await download(url, OPEN)
                except PictureError:
                    continue
        assert all("X-Evil" not in request.headers for request in seen)

    async def test_no_cookie_goes_from_one_job_to_the_next(self) -> None:
        seen: list[str | None] = []

        async def give(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Cookie"))
            response = web.Response(body=b"p")
            response.set_cookie("who", "job-1")
            return response

        async with serving(p=give) as server:
            await download(f"{server}/p", OPEN)
            await download(f"{server}/p", OPEN)
        assert seen == [None, None]

    async def test_the_environments_proxy_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        async with serving(p=b"picture") as server:
            assert await download(f"{server}/p", OPEN) == b"picture"


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "said"), [(404, "404 Not Found"), (403, "403 Forbidden"), (599, "599")]
    )
    async def test_a_status_other_than_200_is_named(self, status: int, said: str) -> None:
        async with serving(p=web.Response(status=status, reason="secret", text="secret")) as server:
            message = await refused(f"{server}/p")
        assert message.endswith(f"answered {said}")

    async def test_an_empty_success_is_no_picture(self) -> None:
        async with serving(p=web.Response(status=204)) as server:
            assert "204 No Content" in await refused(f"{server}/p")

    async def test_credentials_and_query_are_never_repeated(self) -> None:
        async with serving() as server:
            url = server.replace("//", "//me:secret@") + "/gone.png?token=secret#secret"
            message = await refused(url)
        assert message == f"{server}/gone.png answered 404 Not Found"

    @pytest.mark.parametrize("tail", ["\ud800", "\0\x1b[31m", "x" * 5000, "é"])
    async def test_an_error_can_be_sent_and_printed_whatever_the_url_holds(self, tail: str) -> None:
        async with serving() as server:
            message = await refused(f"{server}/{tail}")
        assert message.isprintable()
        assert len(message.encode()) < 250

    async def test_nobody_listening(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            assert "cannot be reached" in await refused(f"http://127.0.0.1:{taken.getsockname()[1]}/p")

    async def test_a_name_that_does_not_resolve(self) -> None:
        assert "cannot be resolved" in await refused("http://no-such-host.invalid/p", GUARDED)

    @pytest.mark.parametrize(
        "url",
        ["http://", "http:///p", "http://[::1/p", "http://host:port/p", "http://x:99999/"],
    )
    async def test_a_malformed_url(self, url: str) -> None:
        assert "is not a valid URL" in await refused(url, GUARDED)

    async def test_a_body_that_breaks_off(self) -> None:
        async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this") as server:
            assert "broke off" in await refused(f"{server}/p")

    async def test_a_server_that_does_not_speak_http(self) -> None:
        async with answering(b"SSH-2.0-OpenSSH_9.6\r\n") as server:
            assert server in await refused(f"{server}/p")

    async def test_an_untrusted_certificate_is_not_accepted(self, tmp_path: Path) -> None:
        async with serving("127.0.0.1", _self_signed(tmp_path), p=b"picture") as server:
            assert "certificate" in await refused(f"{server}/p")


class TestLimits:
    async def test_a_declared_size_above_the_limit_is_refused_before_the_body(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n"
        async with answering(head, pause_s=3600) as server:  # the body never comes
            assert "is 0.15 MB; at most 0.1 MB" in await refused(f"{server}/p")

    async def test_an_endless_body_is_cut_off_at_the_limit(self) -> None:
        sent = 0

        async def pour(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(10_000))
                sent += 10_000

        async with serving(p=pour) as server:
            assert "MAX_IMAGE_MB" in await refused(f"{server}/p")
        assert sent < 20_000_000  # what the socket buffers hold, and no more

    async def test_a_compressed_body_counts_as_what_it_unpacks_to(self) -> None:
        bomb = web.Response(body=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})
        async with serving(p=bomb) as server:
            assert "MAX_IMAGE_MB" in await refused(f"{server}/p")

    async def test_a_body_of_exactly_the_limit_is_taken(self) -> None:
        async with serving(p=bytes(100_000), q=bytes(100_001)) as server:
            assert len(await download(f"{server}/p", OPEN)) == 100_000
            assert "at most 0.1 MB" in await refused(f"{server}/q")

    async def test_a_body_that_drips_is_given_up_in_time(self) -> None:
        async def drip(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.05)

        async with serving(p=drip) as server:  # without an end
            message = await refused(f"{server}/p", replace(OPEN, timeout_s=0.3))
        assert "did not arrive within 0.3 s (IMAGE_TIMEOUT_S)" in message

    async def test_slow_redirects_and_slow_names_count_too(self) -> None:
        async def onward(request: web.Request) -> web.Response:
            await asyncio.sleep(0.15)
            raise web.HTTPFound("/onward" + "x" * len(request.path))

        class Slow(Names):
            async def resolve(self, *args: object, **kwargs: object) -> list[ResolveResult]:
                await asyncio.sleep(10)
                return []

        hurried = replace(OPEN, timeout_s=0.3)
        async with serving(**{"{path:.*}": onward}) as server:
            assert "did not arrive" in await refused(f"{server}/p", hurried)
        assert "did not arrive" in await refused("http://slow.example/p", hurried, Slow())

    async def test_a_redirect_loop_ends(self) -> None:
        async def loop(request: web.Request) -> web.Response:
            raise web.HTTPFound(request.path)

        async with serving(p=loop) as server:
            assert "redirects more than 5 times" in await refused(f"{server}/p")

    async def test_other_downloads_go_on_meanwhile(self) -> None:
        together = asyncio.Barrier(10)

        async def for_all(request: web.Request) -> web.Response:
            await together.wait()
            return web.Response(body=b"p")

        async with serving(p=for_all) as server:
            assert await asyncio.gather(*(download(f"{server}/p", OPEN) for _ in range(10))) == [b"p"] * 10


class TestGuard:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "localhost",
            "localhost.",
            "2130706433",
            "0x7f.1",
            "127.1",
            "0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::]",
            "169.254.169.254",
            "user@127.0.0.1",
        ],
    )
    async def test_no_spelling_of_a_private_address_is_dialled(self, host: str) -> None:
        dialled = 0

        async def count(request: web.Request) -> web.Response:
            nonlocal dialled
            dialled += 1
            return web.Response(body=b"p")

        async with serving(p=count) as server:
            port = server.rpartition(":")[2]
            message = await refused(f"http://{host}:{port}/p", replace(GUARDED, timeout_s=2))
        assert dialled == 0
        assert "not public" in message or "valid URL" in message or "resolved" in message
        if "@" not in host and "127.0.0.1" not in host:
            assert "127.0.0.1" not in message

    async def test_a_name_is_judged_by_the_address_that_is_dialled(self) -> None:
        async with serving(p=b"inside") as server:
            port = server.rpartition(":")[2]
            assert "not public" in await refused(
                f"http://rebind.example:{port}/p", GUARDED, Names(["127.0.0.1"])
            )

    async def test_a_name_that_turns_private_between_two_hops_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.dial.is_public", _public_or_stand_in)
        async with serving(p=b"inside") as private:
            port = private.rpartition(":")[2]

            async def onward(request: web.Request) -> web.Response:
                raise web.HTTPFound(f"http://rebind.example:{port}/p")

            async with serving(STAND_IN, onward=onward) as public:
                url = public.replace(STAND_IN, "rebind.example") + "/onward"
                names = Names([STAND_IN], ["127.0.0.1"])
                assert "not public" in await refused(url, GUARDED, names)
        assert names.asked == 2

    async def test_of_a_name_with_several_addresses_only_public_ones_are_dialled(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sdworker.network.dial.is_public", _public_or_stand_in)
        async with serving(STAND_IN, p=b"outside") as public:
            url = public.replace(STAND_IN, "both.example") + "/p"
            assert await download(url, GUARDED, resolver=Names(["127.0.0.1", STAND_IN])) == b"outside"

    async def test_a_redirect_into_the_private_network_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside_seen = 0

        async def inside(request: web.Request) -> web.Response:
            nonlocal inside_seen
            inside_seen += 1
            return web.Response(body=b"inside")

        monkeypatch.setattr("sdworker.network.dial.is_public", _public_or_stand_in)
        async with serving(p=inside) as private:

            async def onward(request: web.Request) -> web.Response:
                raise web.HTTPFound(f"{private}/p")

            async with serving(STAND_IN, onward=onward, p=b"picture") as public:
                assert await download(f"{public}/p", GUARDED) == b"picture"
                assert "not public" in await refused(f"{public}/onward", GUARDED)
        assert inside_seen == 0

    @pytest.mark.parametrize(
        "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,AAAA"]
    )
    async def test_a_redirect_to_another_scheme_is_refused(self, target: str) -> None:
        async def onward(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": target})

        async with serving(p=onward) as server:
            message = await refused(f"{server}/p")
        assert message.startswith(server)
        assert "passwd" not in message

    @pytest.mark.parametrize(
        "address",
        [
            "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "127.255.255.254", "0.0.0.0",
            "169.254.169.254", "100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
            "192.0.2.1", "198.18.0.1", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe",
            "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
            "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
            "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "100.100.100.200", "3fff::1", "5f00::1",
            "192.88.99.1", "192.0.0.192", "", "localhost", "127.1", "1.2.3.4:80",
        ],
    )  # fmt: skip
    def test_these_are_not_public(self, address: str) -> None:
        assert not is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ],
    )
    def test_these_are_public(self, address: str) -> None:
        assert is_public(address)

    async def test_of_a_name_only_public_addresses_are_left(self) -> None:
        assert [address[0] for _, address in await dialled("8.8.8.8", 80, public_only=True)] == ["8.8.8.8"]
        for name, fault in (("localhost", Fault.NOT_PUBLIC), ("no-such-host.invalid", Fault.UNRESOLVED)):
            with pytest.raises(NetworkError) as caught:
                await dialled(name, 80, public_only=True)
            assert caught.value.fault is fault
        assert await dialled("localhost", 80, public_only=False)

    async def test_what_cannot_be_resolved_and_what_is_not_public_sound_alike(self) -> None:
        private, nowhere = "http://127.0.0.1:9/p", "http://no-such-host.invalid/p"
        assert (await refused(private, GUARDED)).removeprefix(private) == (
            await refused(nowhere, GUARDED)
        ).removeprefix(nowhere)


def _self_signed(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
