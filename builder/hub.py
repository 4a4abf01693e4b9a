"""A model hub's repository: what is in it, and its files, whole, whatever the network does.

The hub's own client resolves the revision, lists the files and raises the errors. The transfer itself is
here, because the client's leaves nothing behind when it fails. Ours appends to a `.part` file, so that a
retry, or the next run, goes on where the last one stopped, and checks each file against the hub's hash of it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from tqdm import tqdm

from builder.errors import FetchError

__all__ = ["Hub", "RemoteFile", "Repository"]

_RETRIED_STATUS = {408, 429, 500, 502, 503, 504}
_CHUNK_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository. Big ones have a SHA-256, the others git's blob id (SHA-1 with a header)."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None

    def matches(self, path: Path) -> bool:
        """Whether the file on disk has this one's size and hash."""
        if path.stat().st_size != self.size:
            return False
        if not (self.sha256 or self.blob_id):
            return True  # a mirror that lists no hashes
        digest = (
            hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        )
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == (self.sha256 or self.blob_id)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    id: str
    commit: str
    pinned: bool
    """Whether the commit was asked for, not found behind a branch or a tag."""
    licence: str | None
    files: Mapping[str, RemoteFile]


class Hub:
    """A model hub, asked with the patience that a build needs.

    Args:
        token: For gated and private models. Without one, none is sent, whatever the machine has stored.
        endpoint: The hub's address; by default the client's own (`HF_ENDPOINT`).
        tries: How often a request is sent, or a transfer continued without progress, before it is given up.
        wait_s: Pause before the first retry; it doubles up to 30 s.
    """

    def __init__(
        self, *, token: str | None = None, endpoint: str | None = None, tries: int = 6, wait_s: float = 1.0
    ) -> None:
        self._token: str | bool = token or False
        self._endpoint = endpoint
        self._tries = tries
        self._wait_s = wait_s

    def look_up(self, repo_id: str, revision: str | None) -> Repository:
        """The repository's commit, licence and files.

        Raises:
            FetchError: if there is none such, or the hub does not answer.
        """
        api = HfApi(endpoint=self._endpoint, token=self._token)

        def ask() -> Any:
            return api.model_info(repo_id, revision=revision or "main", files_metadata=True, timeout=30)

        with _told_simply(repo_id, revision, has_token=bool(self._token)):
            info = self._with_retries(ask)
        files = {
            item.rfilename: RemoteFile(
                item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None, item.blob_id
            )
            for item in info.siblings or ()
        }
        licence = info.card_data.get("license") if info.card_data else None
        pinned = bool(revision and _COMMIT.fullmatch(revision))
        return Repository(repo_id, info.sha, pinned, licence if isinstance(licence, str) else None, files)

    def download(self, repository: Repository, names: Collection[str], folder: Path) -> None:
        """Bring the named files into the folder. Files that are there and whole are kept.

        Raises:
            FetchError: naming the file that cannot be had.
            OSError: if the disk is full.
        """
        files = [repository.files[name] for name in names if not _is_there(repository.files[name], folder)]
        _check_space(sum(file.size - _size_of(_part(folder / file.name)) for file in files), folder)
        quiet = not os.isatty(2)
        with (
            _told_simply(repository.id, repository.commit, has_token=bool(self._token)),
            tqdm(
                total=sum(file.size for file in files),
                desc=repository.id,
                unit="B",
                unit_scale=True,
                mininterval=10 if quiet else 0.1,
            ) as bar,
        ):
            for file in files:
                self._download_one(repository, file, folder / file.name, bar)

    def _download_one(self, repository: Repository, file: RemoteFile, target: Path, bar: "tqdm[Any]") -> None:
        """One file, whole and checked. A wrong hash is given one fresh try: a proxy may have broken it."""
        part = _part(target)
        part.parent.mkdir(parents=True, exist_ok=True)
        url = hf_hub_url(repository.id, file.name, revision=repository.commit, endpoint=self._endpoint)
        start = bar.n
        for _ in range(2):
            bar.n = start + _size_of(part)
            self._with_retries(lambda: self._transfer(url, part, file, bar), progress=lambda: _size_of(part))
            if file.matches(part):
                part.replace(target)
                return
            part.unlink()
            bar.write(f"{file.name}: what arrived has another hash than the hub says; trying once more")
        raise FetchError(
            f"{repository.id}: {file.name} does not have the hash that the hub has for it, twice; "
            "something on the way changes it"
        )

    def _transfer(self, url: str, part: Path, file: RemoteFile, bar: "tqdm[Any]") -> None:
        """Append what is missing of the file to its part. Returns only with all bytes there."""
        have = _size_of(part)
        if have > file.size:
            part.unlink()
            have = 0
        if have == file.size and part.exists():
            return
        # `identity`: compressed text would arrive with another size than the hub names. A redirect to another
        # host loses the token: the client sees to that.
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=30) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            resumed = response.status_code == 206
            bar.update(0 if resumed else -have)
            with part.open("ab" if resumed else "wb") as out:
                for chunk in response.iter_bytes():  # as they come: what has arrived is kept
                    out.write(chunk)
                    bar.update(len(chunk))
        if _size_of(part) < file.size:
            raise httpx2.RemoteProtocolError("the connection closed early")

    def _with_retries(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Run the action until it succeeds; progress between failures makes the count start again."""
        failures, before, wait_s = 0, progress(), self._wait_s
        while True:
            try:
                return action()
            except (httpx2.TransportError, HfHubHTTPError) as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code not in _RETRIED_STATUS:
                    raise
                if progress() > before:
                    failures, before, wait_s = 0, progress(), self._wait_s
                failures += 1
                if failures >= self._tries:
                    raise
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, 30)


@contextmanager
def _told_simply(repo_id: str, revision: str | None, *, has_token: bool) -> Iterator[None]:
    """Turn the client's errors into one line each, made of what we asked for and nothing that was sent."""
    try:
        yield
    except GatedRepoError as error:
        if has_token:
            remedy = (
                "the token's account has not been granted access: accept the model's conditions on its page"
            )
        else:
            remedy = "give a token of an account that accepted its conditions (--token-file)"
        raise FetchError(f"{repo_id} is gated; {remedy}") from error
    except RevisionNotFoundError as error:
        raise FetchError(f"{repo_id} has no revision {revision}") from error
    except RemoteEntryNotFoundError as error:
        raise FetchError(
            f"{repo_id} lists a file that it does not have ({error.response.url.path})"
        ) from error
    except RepositoryNotFoundError as error:
        hint = "" if has_token else " (if it is private, give a token: --token-file)"
        raise FetchError(
            f"there is no model {repo_id} on the hub, nor a folder of that name here{hint}"
        ) from error
    except HFValidationError as error:
        raise FetchError(
            f"{repo_id!r} is neither a folder or file here nor a model id like owner/name"
        ) from error
    except OfflineModeIsEnabled as error:
        raise FetchError("HF_HUB_OFFLINE is set; unset it for the build, or give a local folder") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise FetchError(f"the hub refuses {repo_id} ({status}); is the token valid?") from error
        raise FetchError(f"the hub answers {status} for {repo_id}; try again later") from error
    except httpx2.TransportError as error:
        raise FetchError(
            f"the hub cannot be reached ({type(error).__name__}: {error}); "
            "offline, give a local folder or a .safetensors file"
        ) from error
    except json.JSONDecodeError as error:
        raise FetchError(
            "what answers is not a model hub (no JSON); check HF_ENDPOINT and proxies"
        ) from error


def _is_there(file: RemoteFile, folder: Path) -> bool:
    path = folder / file.name
    return path.is_file() and file.matches(path)


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(needed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"the download needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free"
        raise OSError(errno.ENOSPC, message)
