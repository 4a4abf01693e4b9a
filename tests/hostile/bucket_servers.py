"""Servers on loopback that take an upload as badly as can be, each a few lines long."""

import asyncio
import contextlib
import gzip
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Writer = asyncio.StreamWriter
Script = Callable[[asyncio.StreamReader, Writer], Awaitable[None]]

OK = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'


@dataclass
class Server:
    """What came to it.

    Attributes:
        heads: the request lines with their headers, of each connection that sent any.
    """

    host: str
    port: int
    connections: int = 0
    heads: list[str] = field(default_factory=list)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://{self.host}:{self.port}"


@asynccontextmanager
async def serving(
    script: Script,
    host: str = "127.0.0.1",
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    read: bool = True,
) -> AsyncIterator[Server]:
    """Each connection's request is read, its body too (unless `read` is false), then `script` plays."""

    playing: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        playing.add(task)
        task.add_done_callback(playing.discard)
        this.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if read:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                this.heads.append(head)
                lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                if "expect" in lines:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await reader.readexactly(int(lines.get("content-length", 0)))
            await script(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(play, host, port, ssl=tls, limit=2**20)
    this = Server(host, server.sockets[0].getsockname()[1])
    try:
        yield this
    finally:
        server.close()
        for task in list(playing):
            task.cancel()


def says(*pieces: bytes, then: Script | None = None) -> Script:
    """These bytes, and the end of the connection."""

    async def script(reader: asyncio.StreamReader, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then(reader, writer)
        else:
            if writer.can_write_eof():
                writer.write_eof()
            await reader.read()  # until the other side has gone too

    return script


def answers(status: int, body: bytes = b"", *headers: str) -> Script:
    """A whole answer."""
    head = "".join(
        f"{line}\r\n" for line in (f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers)
    )
    return says(head.encode("latin-1") + b"\r\n" + body)


def refuses(status: int, code: str, *headers: str) -> Script:
    """An error as S3 words it."""
    return answers(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode(), *headers)


def pours(head: bytes, piece: bytes) -> Script:
    """`piece` without end after `head`, as fast as it is taken."""

    async def script(_: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(head)
        piece_of_64_kb = piece * (65536 // len(piece) + 1)
        while True:
            writer.write(piece_of_64_kb)
            await writer.drain()

    return script


def drips(head: bytes, piece: bytes) -> Script:
    """`piece` again and again, with pauses in which no read times out."""

    async def script(_: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    return script


async def hangs(_: asyncio.StreamReader, __: Writer) -> None:
    """Nothing, for ever."""
    await asyncio.Event().wait()


async def resets(_: asyncio.StreamReader, writer: Writer) -> None:
    """RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def closes(_: asyncio.StreamReader, __: Writer) -> None:
    """The end, without a word."""


def first(script: Script, times: int, *, then: Script | None = None) -> Script:
    """`script` for the first connections, then another: by default a good bucket's."""
    counted = itertools.count()

    async def either(reader: asyncio.StreamReader, writer: Writer) -> None:
        await (script if next(counted) < times else then or says(OK))(reader, writer)

    return either


def gzipped(size: int) -> bytes:
    """A bomb: so many zeros, packed."""
    return gzip.compress(bytes(size))


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a port whose connections are never taken: a listener with a full queue drops what comes."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
