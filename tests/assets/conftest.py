"""A hub, a Civitai and a storage host, each a real HTTP server on a port of its own."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web


@dataclass
class Server:
    """Serves `files` by path, with strong ETags and ranges, and does worse when told.

    Attributes:
        files: path → body.
        redirects: path → where to.
        statuses: path → statuses to answer first, one a request.
        cut: path → after so many bytes of a body the connection is dropped, once a number in the list.
        hold: path → the body's second half waits for this.
        reached: path → set once it waits there.
        requests: (path, headers) of each.
    """

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    listings: dict[str, object] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    endless: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    without_etag: set[str] = field(default_factory=set)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return self.base + path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.requests.append((path, dict(request.headers)))
        if self.statuses.get(path):
            return web.Response(status=self.statuses[path].pop(0))
        if path in self.redirects:
            return web.Response(status=302, headers={"Location": self.redirects[path]})
        if path in self.listings:
            return web.json_response(self.listings[path])
        if path in self.pages:
            return web.Response(text="<html>log in</html>", content_type="text/html")
        if path in self.endless:
            return await self._endless(request)
        if path not in self.files:
            return web.Response(status=404)
        return await self._file(request, self.files[path])

    async def _file(self, request: web.Request, body: bytes) -> web.StreamResponse:
        path = request.path
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        start = 0
        response = web.StreamResponse()
        if path not in self.without_etag:
            response.headers["ETag"] = tag
        wanted = request.headers.get("Range")
        if wanted and request.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        response.content_type = "application/octet-stream"
        response.content_length = len(body) - start
        await response.prepare(request)
        end = len(body)
        if self.cut.get(path):
            end = min(end, start + self.cut[path].pop(0))
        middle = (start + end) // 2
        await response.write(body[start:middle])
        if path in self.hold:
            self.reached[path].set()
            await self.hold[path].wait()
        await response.write(body[middle:end])
        if end < len(body):
            assert request.transport is not None
            request.transport.close()
        return response

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except OSError:
            return response


@pytest.fixture
async def start() -> AsyncIterator[Callable[[], "asyncio.Future[Server]"]]:
    runners: list[web.AppRunner] = []

    async def begin() -> Server:
        server = Server()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return server

    yield begin  # type: ignore[misc]
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def hub(start: Callable[[], "asyncio.Future[Server]"]) -> Server:
    return await start()


@pytest.fixture
async def storage(start: Callable[[], "asyncio.Future[Server]"]) -> Server:
    return await start()
