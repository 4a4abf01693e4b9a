"""uvicorn, hardened against callers that never finish what they send, and drained before it stops."""

import asyncio
import contextlib
import errno
import json
import resource
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local_endpoint.app import create_app
from local_endpoint.config import Config
from local_endpoint.core import Core
from local_endpoint.options import OptionError

__all__ = ["Server", "listen", "run_loop"]

T = TypeVar("T")

_HEAD_LIMIT_BYTES = 128 * 1024
_KEEP_ALIVE_S = 30
_LAST_REQUESTS_S = 5


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a program in the event loop that serves best."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises `OSError` when the port is taken, `OptionError` when there is no such."""
    if not 0 <= port <= 65_535:
        raise OptionError(f"--port must be between 0 and 65535; it is {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(_why(error, host, port)) from error
    return listener


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; name another with --port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} of {host} needs root; name another with --port"
    return f"--host {host} is no address of this machine: {error.strerror or error}"


class Server(uvicorn.Server):
    """One endpoint on one socket. `await serve(sockets=[listener])` returns after `stop` and a drain.

    Signals are its user's affair.
    """

    def __init__(self, config: Config) -> None:
        """Must be called inside the event loop that will serve. Raises what `Core` raises."""
        _allow_many_connections()
        self.core = Core(config)

        class Protocol(_PatientProtocol):
            head_timeout_s = config.request_timeout_s

        super().__init__(
            uvicorn.Config(
                create_app(self.core),
                http=Protocol,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_REQUESTS_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would die of the one that it has just handled."""
        yield

    def stop(self) -> None:
        """Begin to shut down; a second time, do not wait for anyone."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let waiting requests go first, or they would hold the shutdown up."""
        self.core.drain()
        await super().shutdown(sockets)
        await self.core.explainer.close()
        await asyncio.to_thread(self.core.close)


class _PatientProtocol(HttpToolsProtocol):
    """Closes a connection whose request head does not arrive in time or grows without end.

    uvicorn itself has a time limit between requests only. Bodies are timed where they are read.
    """

    head_timeout_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and (self.cycle is None or not self.cycle.more_body):
            self._await_head()
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > _HEAD_LIMIT_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._end_wait()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as every other error is."""
        body = json.dumps({"error": f"the request is not valid HTTP: {msg}"}).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _end_wait(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
