"""Add-ons by name: a file in the folders, or a remote one, fetched once however many jobs want it."""

import asyncio
import errno
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from sdworker.assets.cache import FileCache
from sdworker.assets.download import Limits, download, read_listing
from sdworker.assets.errors import AddOnError
from sdworker.assets.folders import Folders
from sdworker.assets.sources import Source, is_remote, parse_source

__all__ = ["AddOnStore"]

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
# How diffusers calls what it saves; taken where a repository has several files.
_USUAL = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")
_OTHERS_PAUSE_S = 0.5


class AddOnStore:
    """Finds and fetches. For one event loop."""

    def __init__(
        self,
        cache: FileCache,
        limits: Limits,
        *,
        hosts: Collection[str],
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            hosts: those that may be fetched from; none turns remote names off.
            endpoints: host → the base URL that stands for it (a mirror of the hub).
        """
        self._cache = cache
        self._limits = limits
        self._hosts = frozenset(hosts)
        self._endpoints = endpoints
        self._coming: dict[str, asyncio.Task[Path]] = {}
        self._waiting: dict[str, int] = {}

    async def find(self, name: str, folders: Folders, kind: str, *, sha256: str | None = None) -> Path:
        """The file that a job's name means.

        Args:
            name: as the job gave it: of a file in the folders, a URL, `owner/name[:file][@revision]` of the hub,
                or `civitai:VERSION_ID`.
            kind: what it is, for errors: `LoRA`.
            sha256: what a fetched file must hash to, in hexadecimal.

        Raises:
            AddOnError: there is none, or it cannot be had.
        """
        if sha256 is not None and not _SHA256.fullmatch(sha256 := sha256.lower()):
            raise AddOnError("sha256 must be 64 hexadecimal digits")
        if not is_remote(name):
            found = await asyncio.to_thread(folders.find, name)
            if found is not None:
                return found
        source = parse_source(name, self._hosts, self._endpoints) if self._hosts or is_remote(name) else None
        if source is None:
            raise await asyncio.to_thread(folders.unknown, name, kind)
        if source.lists:
            source = await self._choose_file(source)
        return await self._fetch(source, sha256)

    async def _choose_file(self, source: Source) -> Source:
        """The one file of a hub's repository that can be meant."""
        kept = await asyncio.to_thread(self._cache.find, source.url)
        if kept is not None:
            return source
        names = [name for name in await read_listing(source, self._limits) if name.endswith(".safetensors")]
        usual = [name for name in names if name in _USUAL]
        chosen = usual[:1] or names
        if len(chosen) != 1:
            listed = ", ".join(sorted(names)[:8])
            told = f"has several: {listed}; name one as {source.shown}:FILE" if names else "has none"
            raise AddOnError(f"{source.shown}: one .safetensors file is wanted, and the repository {told}")
        repository, _, revision = source.shown.partition("@")
        named = f"{repository}:{chosen[0]}" + (f"@{revision}" if revision else "")
        parsed = parse_source(named, self._hosts, self._endpoints)
        assert parsed is not None
        return parsed

    async def _fetch(self, source: Source, sha256: str | None) -> Path:
        kept = await asyncio.to_thread(self._cache.find, source.url, sha256)
        if kept is not None:
            return kept
        key = f"{source.url} {sha256}"
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.create_task(self._bring(source, sha256))
            task.add_done_callback(lambda _: self._coming.pop(key, None))
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                task.cancel()  # nobody wants it any more; what has arrived of it stays

    async def _bring(self, source: Source, sha256: str | None) -> Path:
        try:
            async with asyncio.timeout(self._limits.timeout_s + 5):
                while True:
                    try:
                        return await self._download(source, sha256)
                    except BlockingIOError:
                        # Another worker on the same volume is at it.
                        await asyncio.sleep(_OTHERS_PAUSE_S)
                        kept = await asyncio.to_thread(self._cache.find, source.url, sha256)
                        if kept is not None:
                            return kept
        except TimeoutError:
            raise AddOnError(
                f"{source.shown} did not arrive within {self._limits.timeout_s:g} s (ADDON_TIMEOUT_S)"
            ) from None
        except OSError as error:
            log.error("an add-on could not be kept", exc_info=error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise AddOnError(
                "the disk that add-ons are kept on is full"
                if full
                else "the folder that add-ons are kept in cannot be written (ADDON_CACHE_DIR)"
            ) from error

    async def _download(self, source: Source, sha256: str | None) -> Path:
        with self._cache.part(source.url) as part:
            await asyncio.to_thread(self._cache.make_room, part.size)
            await download(source, part, self._limits)
            digest = await asyncio.to_thread(part.digest)
            if sha256 is not None and digest != sha256:
                part.drop()
                raise AddOnError(f"{source.shown} has the SHA-256 {digest}, not the one the job names")
            await asyncio.to_thread(self._cache.make_room, part.size)
            return await asyncio.to_thread(self._cache.keep, source.url, part, digest)
