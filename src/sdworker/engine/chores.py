"""What the device does for a job beside its steps, cut into pieces: decoding, enlarging, judging.

Between two steps only so much of it is done as is bearable for those who wait for the next one. Who is served is
decided piece by piece, so that what takes a second, a large picture say, holds up nobody's small one. Small pieces
of several chores are done as one where they are alike (`Joint`).
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sdworker.engine.errors import is_fatal

__all__ = ["Chore", "Chores", "Coming", "Joint"]

log = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Coming(Protocol[T_co]):
    """A result on its way from the device."""

    def is_here(self) -> bool:
        """Whether `get` would not wait."""

    def get(self) -> T_co:
        """The result, once it is here.

        Raises:
            Exception: it is none.
        """


@dataclass(frozen=True)
class Joint:
    """A piece that may be done as one with others like it. A chore's work yields it, and is sent what came of it.

    Attributes:
        key: equal where one call does for both.
        given: to be done.
        run: does several, in order.
        most: so many at once; then it takes as long as a piece may.
    """

    key: Hashable
    given: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    most: int = 1


class Chore(Generic[T]):
    """A piece of work cut into smaller ones, and what came of it.

    Attributes:
        result: what its caller waits for.
        coming: the result on its way, once all pieces are done.
        cancelled: nobody wants it any more; set by any thread.
        kind: chores of one kind have pieces that take about as long.
        is_large: what it holds between its pieces is so much that one of its sort at a time is enough.
        joins: chores of which this is equal yield like pieces from their beginning on; None: it yields none.
    """

    def __init__(
        self,
        work: Callable[[int], Generator[Joint | None, Any, Coming[T]]],
        *,
        kind: Hashable,
        is_large: bool = False,
        joins: Hashable = None,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        """
        Args:
            work: one piece for each item taken. It is told how often memory did not suffice so far, to make do
                with less.
            explain: what becomes of an error for whoever sent the job.
        """
        self.result: Future[T] = Future()
        self.coming: Coming[T] | None = None
        self.cancelled = False
        self.kind = kind
        self.is_large = is_large
        self.joins = joins
        self._work = work
        self._explain = explain
        self._pieces: Generator[Joint | None, Any, Coming[T]] | None = None
        self._wanted: Joint | None = None
        self._shortages = 0

    @property
    def has_begun(self) -> bool:
        return self._pieces is not None

    @property
    def wanted(self) -> Joint | None:
        """The coming piece, where it may be done with others; that is known once it has begun."""
        return self._wanted

    def begin(self) -> None:
        """Have `wanted` known: of a chore that joins others, nothing else is done before its first piece.

        Raises:
            Exception: what the work raises.
        """
        if self._pieces is None:
            self._pieces = self._work(self._shortages)
            if self.joins is not None:
                self._go_on()

    def do_piece(self, mates: "Sequence[Chore[Any]]" = ()) -> "list[Chore[Any]]":
        """The next piece, and that of others with it; those of them that are done.

        Args:
            mates: what they want has the key of what this one wants. Where it fails for all, it is done for this
                one alone, so that only the one at fault fails.

        Raises:
            Exception: what the work raises.
        """
        self.begin()
        wanted = self._wanted
        if wanted is None:
            return [self] if self._go_on() else []
        together: list[Chore[Any]] = [self, *mates]
        try:
            made = wanted.run([one._wanted.given for one in together if one._wanted is not None])
            results = list(zip(together, made, strict=True))
        except Exception as error:
            if len(together) == 1 or is_fatal(error):
                raise
            log.warning("%d pieces failed together; doing one alone", len(together), exc_info=error)
            return self.do_piece()
        return [one for one, result in results if one._go_on(result)]

    def _go_on(self, result: Any = None) -> bool:
        """Up to the next piece; whether there is none."""
        assert self._pieces is not None, "it has begun"
        try:
            self._wanted = self._pieces.send(result)
        except StopIteration as end:
            self.coming, self._pieces, self._wanted = end.value, None, None
            return True
        return False

    def begin_anew(self) -> int:
        """Memory did not suffice: the next piece is the first again. How often that was so."""
        self._pieces = self._wanted = None
        self._shortages += 1
        return self._shortages

    def fail(self, error: Exception) -> None:
        """Tell its caller, once, and give up what was done."""
        self._pieces = self._wanted = None
        if not self.result.done():
            self.result.set_exception(self._explain(error))


class _Batch:
    """The chores of one job, one after another.

    Attributes:
        served: pieces that it has been given, counted from what the one served last had when it came.
    """

    def __init__(self, chores: Sequence[Chore[Any]], served: int) -> None:
        self.chores = deque(chores)
        self.served = served


class Chores:
    """Who waits for a piece, job by job.

    Each job is given as many pieces as any other, so a job of one picture is not behind one of sixteen. A job's
    own pictures follow each other, and of large ones only one is in the making.
    """

    def __init__(self) -> None:
        self._batches: list[_Batch] = []
        self._served = 0

    def __len__(self) -> int:
        return sum(len(batch.chores) for batch in self._batches)

    def add(self, chores: Sequence[Chore[Any]]) -> None:
        """The chores of one job."""
        if chores:
            self._batches.append(_Batch(chores, self._served))

    def next(self) -> Chore[Any] | None:
        """Whose turn it is."""
        heads = [batch.chores[0] for batch in self._batches]
        has_large = any(head.is_large and head.has_begun for head in heads)
        able = [
            batch
            for batch, head in zip(self._batches, heads, strict=True)
            if head.has_begun or not (head.is_large and has_large)
        ]
        if not able:
            return None
        batch = min(able, key=lambda one: one.served)  # the first of several
        batch.served += 1
        self._served = batch.served
        return batch.chores[0]

    def mates_of(self, chore: Chore[Any]) -> list[Chore[Any]]:
        """Others whose coming piece may be done with this one's: no more than take as long as one piece may. They
        lose no turn by it.

        Raises:
            Exception: the chore cannot begin.
        """
        if chore.joins is None:
            return []
        chore.begin()
        mates: list[Chore[Any]] = []
        for other in (one for batch in self._batches for one in batch.chores):
            if chore.wanted is None or len(mates) + 1 >= chore.wanted.most:
                break
            if other is chore or other.joins != chore.joins or other.cancelled:
                continue
            with contextlib.suppress(Exception):  # it will raise that again when its turn comes
                other.begin()
                if other.wanted is not None and other.wanted.key == chore.wanted.key:
                    mates.append(other)
        return mates

    def remove(self, chore: Chore[Any]) -> None:
        """It is done, or will not be."""
        for batch in self._batches:
            if chore in batch.chores:
                batch.chores.remove(chore)
        self._batches = [batch for batch in self._batches if batch.chores]

    def cancelled(self) -> list[Chore[Any]]:
        """Those that nobody wants any more."""
        return [chore for batch in self._batches for chore in batch.chores if chore.cancelled]

    def clear(self) -> list[Chore[Any]]:
        """All there are; and there are none any more."""
        left = [chore for batch in self._batches for chore in batch.chores]
        self._batches = []
        return left
