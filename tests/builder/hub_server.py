"""A model hub on loopback: the HTTP routes that the hub's client uses, and how they fail in the field."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["COMMIT", "TOKEN", "FakeHub", "Repo", "serve_hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_the_right_token"
_BIG_BYTES = 4096
"""From this size on a file is kept like a big one: with a SHA-256, and behind a redirect to another host."""


@dataclass
class Repo:
    """A repository at its one commit."""

    folder: Path
    licence: str | None = "creativeml-openrail-m"
    gated: bool = False
    private: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    """File → the size to claim instead of the real one."""
    hashes: dict[str, str] = field(default_factory=dict)
    """File → the SHA-256 to claim instead of the real one."""


@dataclass
class FakeHub:
    """The server's state, for tests to set up and to look at."""

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    """Part of a path → status codes to answer with, one a request, before it works."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File → after how many bytes to drop the connection, one a request, before it works."""
    stalls: dict[str, list[int]] = field(default_factory=dict)
    """File → after how many bytes to send nothing more, until `stalled` is set."""
    stalled: threading.Event = field(default_factory=threading.Event)
    garbled: dict[str, int] = field(default_factory=dict)
    """File → how many requests get bytes that differ from the file's."""
    ignores_ranges: bool = False
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Every request's path and headers (names in lower case)."""

    def asked_for(self, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path contains the part."""
        return [headers for path, headers in self.requests if part in path]


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """A hub that answers while the context is open."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        self.hub.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        for part, statuses in self.hub.failures.items():
            if part in self.path and statuses:
                self._answer(statuses.pop(0), b"try again", {})
                return
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            self._answer_info(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._answer_file(*match.groups())
        elif match := re.fullmatch(r"/bucket/([^/]+/[^/]+)/(.+)", path):
            self._send_content(self.hub.repos[match[1]], match[2])
        else:
            self._answer(404, b"no such route", {})

    def _answer_info(self, repo_id: str, revision: str) -> None:
        repo = self._find(repo_id, revision, even_gated=True)
        if repo is None:
            return
        siblings = [_describe(repo, path) for path in sorted(repo.folder.rglob("*")) if path.is_file()]
        card = {"license": repo.licence} if repo.licence else {}
        info = {"id": repo_id, "sha": COMMIT, "siblings": siblings, "cardData": card, "gated": repo.gated}
        self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._find(repo_id, revision)
        if repo is None:
            return
        path = repo.folder / name
        if not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if path.stat().st_size >= _BIG_BYTES:
            elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
            headers = {
                "Location": f"{elsewhere}/bucket/{repo_id}/{name}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(path.stat().st_size),
                "X-Linked-Etag": f'"{_sha256(path)}"',
            }
            self._answer(302, b"", headers)
            return
        self._send_content(repo, name)

    def _find(self, repo_id: str, revision: str, *, even_gated: bool = False) -> Repo | None:
        """The repository, or None with the hub's own refusal sent."""
        repo = self.hub.repos.get(repo_id)
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not authorized):
            self._answer(
                401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            )
        elif revision not in (COMMIT, "main"):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif repo.gated and not authorized and not even_gated:
            status = 403 if "Authorization" in self.headers else 401
            self._answer(status, b"", {"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def _send_content(self, repo: Repo, name: str) -> None:
        content = (repo.folder / name).read_bytes()
        if self.hub.garbled.get(name, 0) > 0:
            self.hub.garbled[name] -= 1
            content = bytes(byte ^ 1 for byte in content)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not self.hub.ignores_ranges:
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cuts, stalls = self.hub.cuts.get(name), self.hub.stalls.get(name)
        if stalls:
            self._answer(status, content[start:], headers, cut_after=stalls.pop(0))
            self.hub.stalled.wait(60)
        else:
            self._answer(status, content[start:], headers, cut_after=cuts.pop(0) if cuts else None)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], *, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_after])
        if cut_after is not None:
            self.close_connection = True


def _describe(repo: Repo, path: Path) -> dict[str, Any]:
    """A file as the hub lists it: big ones by SHA-256, all by git's own id (of a pointer, for big ones)."""
    name = path.relative_to(repo.folder).as_posix()
    content = path.read_bytes()
    size = repo.sizes.get(name, len(content))
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
    if len(content) >= _BIG_BYTES:
        sha256 = repo.hashes.get(name, _sha256(path))
        entry |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": size, "pointerSize": 134}}
    return entry


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
