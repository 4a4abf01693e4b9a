"""The job API as commands use it: where an endpoint is, which key it gets, what it answers, or why it does not.

An answer that says that nothing was changed (429, 503, 507) is waited out, as its `Retry-After` says, for as long
as the user of this has patience. A question is asked again when the line breaks, and a job is sent again where
nobody listened; one that may have arrived is never sent twice.
"""

import argparse
import ipaddress
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

__all__ = ["FINAL", "Client", "EndpointError", "UsageError", "add_endpoint_options", "client_for"]

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

_LOCAL = "http://127.0.0.1:8000"
_RUNPOD = "https://api.runpod.ai/v2"
_DEFAULT_ID = "stable-diffusion-v1"
_LOCAL_KEYS = Path("~/.local/share/sdworker-endpoint/keys.json").expanduser()
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_TIMEOUT_S = 60
_PATIENCE_S = 30
_LATER = (429, 503, 507)
_AWAY = (502, 504)
_LONGEST_PAUSE_S = 10.0


class UsageError(ValueError):
    """What was asked for makes no sense; the message says what would."""


class EndpointError(Exception):
    """The endpoint did not do what it was asked; the message is for the user.

    Attributes:
        status: the HTTP status of its answer, or None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--endpoint` and `--key`; they go to `client_for`."""
    parser.add_argument(
        "--endpoint",
        default=os.environ.get("SDWORKER_ENDPOINT", _LOCAL),
        help="an endpoint's URL or host:port, or its id on RunPod (default: %(default)s)",
    )
    parser.add_argument(
        "--key", help="the API key (default: on this machine the one that `serve` made, else RUNPOD_API_KEY)"
    )


def client_for(
    arguments: argparse.Namespace, *, patience_s: float = _PATIENCE_S, connections: int = 10
) -> "Client":
    """The client that the options name. Raises `UsageError`."""
    base_url, endpoint_id = address_of(arguments.endpoint)
    return Client(
        base_url,
        endpoint_id,
        key_for(arguments.key, base_url),
        patience_s=patience_s,
        connections=connections,
    )


def address_of(endpoint: str) -> tuple[str, str]:
    """The URL up to and with `/v2`, and the endpoint's id. Raises `UsageError`."""
    if _ID.fullmatch(endpoint) and endpoint != "localhost":
        return _RUNPOD, endpoint
    problem = UsageError(
        f"--endpoint {endpoint}: should be a URL such as {_LOCAL}/v2/{_DEFAULT_ID}, a host:port, "
        "or an id on RunPod"
    )
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"{_scheme(endpoint)}://{endpoint}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise problem from None
    before, v2, after = f"{parts.path}/".partition("/v2/")
    endpoint_id = unquote(after.split("/")[0]) or _DEFAULT_ID
    is_one = parts.scheme in ("http", "https") and host and not re.search(r"[\s@]", parts.netloc)
    if not is_one or parts.query or parts.fragment or (before.strip("/") and not v2):
        raise problem
    return f"{parts.scheme}://{parts.netloc}{before if v2 else ''}/v2", endpoint_id


def _scheme(endpoint: str) -> str:
    """Plain HTTP for an address, this machine, or a port of its own; TLS for a name alone."""
    netloc = endpoint.partition("/")[0]
    host = netloc.partition(":")[0]
    try:
        ipaddress.ip_address(netloc.strip("[]"))
    except ValueError:
        return "http" if ":" in netloc or host == "localhost" else "https"
    return "http"


def key_for(given: str | None, base_url: str) -> str:
    """The key to send there. Raises `UsageError` when there is none, or it cannot be one."""
    key = _local_key(base_url) if given is None else given
    name = "--key"
    if key is None:
        key, name = os.environ.get("RUNPOD_API_KEY"), "RUNPOD_API_KEY"
    if not key:
        raise UsageError("no API key: give --key or set RUNPOD_API_KEY")
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(f"{name}: a key has printable ASCII characters only, without spaces or line ends")
    return key


def _local_key(base_url: str) -> str | None:
    """The key that `serve` made, for an endpoint on this machine: RUNPOD_API_KEY is the platform's there too."""
    if urlsplit(base_url).hostname not in _LOCAL_HOSTS:
        return None
    try:
        return str(json.loads(_LOCAL_KEYS.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Client:
    """One endpoint, asked with one key; threads may share it. Everything raises `EndpointError`."""

    def __init__(
        self,
        base_url: str,
        endpoint_id: str,
        key: str,
        *,
        patience_s: float = _PATIENCE_S,
        connections: int = 10,
    ) -> None:
        # Imported here: it takes a while, and `--help` need not wait for it.
        import requests
        from requests.adapters import HTTPAdapter

        self.base_url = base_url
        self.url = f"{base_url}/{quote(endpoint_id, safe='')}"
        self.hurry = threading.Event()
        """Once set, nothing is waited out any more."""
        self._patience_s = patience_s
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))
        self._session.headers["Authorization"] = f"Bearer {key}"

    def check_reachable(self) -> None:
        """Find out at once that nothing listens there, unless it is reached in other ways than directly."""
        parts = urlsplit(self.base_url)
        if parts.scheme != "http" or os.environ.get("http_proxy") or os.environ.get("HTTP_PROXY"):
            return
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10).close()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EndpointError(f"{self.base_url} cannot be reached: {reason}") from error

    def run(self, job: dict[str, Any]) -> str:
        """Queue a job; returns its id."""
        return str(self._ask("POST", "run", job)["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """A job as it is."""
        return self._ask("GET", f"status/{quote(job_id, safe='')}", wanted="status")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; one that is over stays as it is."""
        return self._ask("POST", f"cancel/{quote(job_id, safe='')}", wanted="status")

    def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a failed job again."""
        return self._ask("POST", f"retry/{quote(job_id, safe='')}", wanted="status")

    def health(self) -> dict[str, Any]:
        """Jobs and workers in numbers."""
        return self._ask("GET", "health", wanted="workers")

    def purge(self) -> int:
        """Cancel everything that waits; returns how many."""
        return int(self._ask("POST", "purge-queue", wanted="removed")["removed"])

    def _ask(self, method: str, path: str, body: Any = None, *, wanted: str = "id") -> dict[str, Any]:
        """One answer, a JSON object that has `wanted` in it."""
        import requests

        end_s, pause_s = time.monotonic() + self._patience_s, 0.5
        while True:
            try:
                answer = self._session.request(method, f"{self.url}/{path}", json=body, timeout=_TIMEOUT_S)
            except requests.RequestException as error:
                if (method == "GET" or _never_sent(error)) and self._wait(pause_s, end_s):
                    pause_s *= 2
                    continue
                reason = f"{self.base_url} cannot be reached: {type(error).__name__}"
                raise EndpointError(reason) from error
            later = answer.status_code in _LATER or (method == "GET" and answer.status_code in _AWAY)
            if later and self._wait(_retry_after(answer, pause_s), end_s):
                pause_s *= 2
                continue
            return _object(answer, wanted)

    def _wait(self, pause_s: float, end_s: float) -> bool:
        """Pause, where there is the time for it; returns whether there was."""
        pause_s = min(pause_s, _LONGEST_PAUSE_S)
        return time.monotonic() + pause_s < end_s and not self.hurry.wait(pause_s)


def _never_sent(error: Exception) -> bool:
    """Whether nobody listened."""
    from urllib3.exceptions import NewConnectionError

    return isinstance(getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError)


def _retry_after(answer: Any, otherwise_s: float) -> float:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdigit() else otherwise_s


def _object(answer: Any, wanted: str) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code == 200 and isinstance(body, dict) and wanted in body:
        return body
    if answer.status_code == 200:
        raise EndpointError(f"{answer.url} answers, but not as an endpoint does: is it one?", 200)
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        raise EndpointError(f"{body['error']} (HTTP {answer.status_code})", answer.status_code)
    raise EndpointError(f"the endpoint answered HTTP {answer.status_code}", answer.status_code)
