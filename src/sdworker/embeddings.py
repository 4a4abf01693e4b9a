"""The embeddings (textual inversion) that a job's prompts name: found, fetched, read."""

import asyncio
import dataclasses
from collections.abc import Mapping

from sdworker.assets import AddOns, Kind
from sdworker.engine.shelf import Shelf
from sdworker.engine.text.embeddings import Embedding, EmbeddingError, Vectors
from sdworker.request import Request

__all__ = ["Embeddings"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where an embedding comes from: what the folders or hosts know it by, and what it must hash to."""

    name: str
    sha256: str | None = None


class Embeddings:
    """Those of one model."""

    def __init__(self, add_ons: AddOns, shelf: Shelf[Vectors]) -> None:
        self._add_ons = add_ons
        self._shelf = shelf

    async def find(self, request: Request) -> tuple[Embedding, ...]:
        """Those that the job brings, and those of the folders whose names are in its prompts; none where prompts
        are read plainly.

        Raises:
            AddOnError, EmbeddingError: one of them cannot be had; with a message for the user.
        """
        if request.prompt_syntax == "plain":
            return ()
        said = _letters(f"{request.prompt} {request.negative_prompt}")
        sources: dict[str, _Source] = {}
        for path in await asyncio.to_thread(self._add_ons.names, Kind.EMBEDDING):
            name = path.rpartition("/")[2]
            if _letters(name) in said:
                sources.setdefault(name, _Source(path))
        for one in request.embeddings:
            sources[one.name] = _Source(one.source, one.sha256)
        return tuple(await asyncio.gather(*(self._read(name, sources) for name in sources)))

    async def _read(self, name: str, sources: Mapping[str, _Source]) -> Embedding:
        source = sources[name]
        path = await self._add_ons.find(Kind.EMBEDDING, source.name, sha256=source.sha256)
        try:
            key, vectors = await self._shelf.read(path)
        except EmbeddingError as error:
            raise EmbeddingError(f"embedding {name!a}: {error}") from error
        return Embedding(name, key, vectors)


def _letters(text: str) -> str:
    """Case and spaces do not matter; whether it is whole words the tokens say."""
    return "".join(text.casefold().split())
