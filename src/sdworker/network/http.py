"""One HTTP request and its answer, with an end to everything: bytes, seconds, lines, interim answers.

A client made for any server believes what the server says of its answer. Here the other side may be hostile: what
it sends is counted where it arrives, before anything is parsed; an answer is good for its status, its headers and
the first bytes of its body; redirects are not followed, cookies not kept, nothing is decompressed, and the
connection serves one request. Proxies that the environment names are not used: the guard would see only theirs.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from sdworker.network.dial import connect, tls_context
from sdworker.network.faults import Fault, NetworkError

__all__ = ["Answer", "exchange"]

_MOST_BYTES = 64 * 1024  # of one answer, interim ones, heads and framing included
_READ_BYTES = 8 * 1024  # at a time: a head is seen before what comes after it counts as too much
_MOST_PARTS = 64  # interim answers, and pieces of a body: parsing each takes time, however small it is
_HEAD_BYTES = 16 * 1024
_CHUNK_BYTES = 64 * 1024

_CONNECT_S = 5.0
_TLS_S = 4.0
_STALL_S = 20.0  # for each chunk of the request's body to be taken
_ANSWER_S = 20.0  # from the request's end to the answer's head
_BODY_S = 3.0  # for an answer's body, which only explains its status
_CONTINUE_S = 1.0  # servers that know nothing of `Expect` say nothing either


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Attributes:
        headers: their names in lower case; of several with one name, the last.
        body: its beginning, as it came; empty for a success, where nobody needs it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(
    method: str, url: str, headers: Mapping[str, str], body: bytes = b"", *, public_only: bool
) -> Answer:
    """Ask `url`, whose path and query go out as they are.

    Args:
        headers: all of them but Host, User-Agent, Content-Length, Expect and Connection.
        public_only: whether only public addresses may be dialled.

    Raises:
        NetworkError: there is no answer.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    tls = parts.scheme == "https"
    reader, writer = await _open(parts.hostname or "", parts.port, tls=tls, public_only=public_only)
    try:
        return await _Exchange(reader, writer, tls=tls).run(method, target, parts.netloc, headers, body)
    finally:
        # Not `close`: it would wait for the other side's farewell.
        writer.transport.abort()


async def _open(
    host: str, port: int | None, *, tls: bool, public_only: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = await asyncio.to_thread(tls_context) if tls else None  # the first time it reads files
    sock = await connect(host, port or (443 if tls else 80), public_only=public_only, timeout_s=_CONNECT_S)
    if context is None:
        return await asyncio.open_connection(sock=sock, limit=_CHUNK_BYTES)
    try:
        async with asyncio.timeout(_TLS_S):
            return await asyncio.open_connection(
                sock=sock,
                limit=_CHUNK_BYTES,
                ssl=context,
                server_hostname=host,
                ssl_handshake_timeout=_TLS_S * 2,  # ours comes first
            )
    except ssl.SSLCertVerificationError as error:
        raise NetworkError(Fault.CERTIFICATE) from error
    except TimeoutError as error:
        raise NetworkError(Fault.TLS_TIMEOUT) from error
    except OSError as error:  # SSLError is one; a server that hangs up on a handshake is another
        raise NetworkError(Fault.NO_TLS) from error


class _Exchange:
    """One request on a fresh connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tls: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._tls = tls
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._received = 0
        self._ended = False
        self._go_on = asyncio.Event()

    async def run(
        self, method: str, target: str, host: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        # A body that fits into the socket's buffers is gone before a refusal could arrive. A larger one waits for
        # leave: a server that refuses and closes midway would leave a broken connection instead of a reason.
        expect = len(body) > _CHUNK_BYTES
        fields = [("Host", host), ("User-Agent", "sdworker"), *headers.items(), ("Connection", "close")]
        if body or method == "PUT":
            fields.append(("Content-Length", str(len(body))))
        if expect:
            fields.append(("Expect", "100-continue"))
        head = self._http.send(h11.Request(method=method, target=target, headers=fields))
        sending = asyncio.create_task(self._send(head or b"", body, wait=expect))
        receiving = asyncio.create_task(self._receive())
        try:
            return await self._both(sending, receiving)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.wait({sending, receiving})
            for task in (sending, receiving):
                if not task.cancelled():
                    task.exception()  # looked at, or asyncio would complain

    async def _both(self, sending: "asyncio.Task[None]", receiving: "asyncio.Task[Answer]") -> Answer:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if _fault_of(sending) is Fault.UPLOAD_STALLED:
            sending.result()
        # Sent, or the connection broke off, and perhaps the reason has arrived.
        await asyncio.wait({receiving}, timeout=_ANSWER_S)
        if not receiving.done():
            raise NetworkError(Fault.ANSWER_TIMEOUT)
        answer = receiving.result()
        if answer.status < 300:
            await sending  # a success before the end is none unless the end follows
        return answer

    async def _send(self, head: bytes, body: bytes, *, wait: bool) -> None:
        try:
            await self._write(head)
            if wait:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CONTINUE_S):
                        await self._go_on.wait()
            for begin in range(0, len(body), _CHUNK_BYTES):
                await self._write(self._http.send(h11.Data(data=body[begin : begin + _CHUNK_BYTES])) or b"")
            await self._write(self._http.send(h11.EndOfMessage()) or b"")
        except OSError as error:
            raise NetworkError(Fault.BROKE_OFF) from error

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(_STALL_S):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as error:
            raise NetworkError(Fault.UPLOAD_STALLED) from error

    async def _receive(self) -> Answer:
        response = await self._head()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        body = b"" if response.status_code < 300 else await self._body()
        return Answer(response.status_code, headers, body)

    async def _head(self) -> h11.Response:
        try:
            for _ in range(_MOST_PARTS):
                match await self._event():
                    case h11.Response() as response:
                        return response
                    case h11.InformationalResponse():
                        self._go_on.set()
                    case _:
                        raise NetworkError(Fault.BROKE_OFF)
            raise _TooMuchError
        except h11.RemoteProtocolError as error:
            raise NetworkError(Fault.BROKE_OFF if self._ended else Fault.NOT_HTTP) from error
        except _TooMuchError as error:
            raise NetworkError(Fault.NOT_HTTP) from error
        except OSError as error:
            raise NetworkError(Fault.BROKE_OFF) from error

    async def _body(self) -> bytes:
        """As much as comes in time; the status is known, so nothing that goes wrong here matters."""
        body = b""
        with contextlib.suppress(TimeoutError, OSError, h11.RemoteProtocolError, _TooMuchError):
            async with asyncio.timeout(_BODY_S):
                for _ in range(_MOST_PARTS):
                    if not isinstance(event := await self._event(), h11.Data):
                        break
                    body += event.data
        return body

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_READ_BYTES)
            if not self._received and not self._tls and data[:2] in (b"\x15\x03", b"\x16\x03"):
                raise NetworkError(Fault.WANTS_TLS)  # an alert, or the beginning of a handshake
            self._received += len(data)
            self._ended = not data
            if self._received > _MOST_BYTES:
                raise _TooMuchError
            self._http.receive_data(data)
        return event


def _fault_of(task: "asyncio.Task[None]") -> Fault | None:
    error = task.exception() if task.done() else None
    return error.fault if isinstance(error, NetworkError) else None


class _TooMuchError(Exception):
    """More bytes than an answer may have."""
