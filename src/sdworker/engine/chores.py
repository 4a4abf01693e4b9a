"""What the device does for a job beside its steps, cut into pieces: decoding, enlarging, judging.

Between two steps only so much of it is done as is bearable for those who wait for the next one. Who is served is
decided piece by piece, so that what takes a second, a large picture say, holds up nobody's small one.
"""

from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Chore", "Chores", "Coming"]

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


class Chore(Generic[T]):
    """A piece of work cut into smaller ones, and what came of it.

    Attributes:
        result: what its caller waits for.
        coming: the result on its way, once all pieces are done.
        cancelled: nobody wants it any more; set by any thread.
        kind: chores of one kind have pieces that take about as long.
        is_large: what it holds between its pieces is so much that one of its sort at a time is enough.
    """

    def __init__(
        self,
        work: Callable[[int], Generator[None, None, Coming[T]]],
        *,
        kind: Hashable,
        is_large: bool = False,
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
        self._work = work
        self._explain = explain
        self._pieces: Generator[None, None, Coming[T]] | None = None
        self._shortages = 0

    @property
    def has_begun(self) -> bool:
        return self._pieces is not None

    def do_piece(self) -> bool:
        """The next piece; whether it was the last.

        Raises:
            Exception: what the work raises.
        """
        if self._pieces is None:
            self._pieces = self._work(self._shortages)
        try:
            next(self._pieces)
        except StopIteration as end:
            self.coming, self._pieces = end.value, None
            return True
        return False

    def begin_anew(self) -> int:
        """Memory did not suffice: the next piece is the first again. How often that was so."""
        self._pieces = None
        self._shortages += 1
        return self._shortages

    def fail(self, error: Exception) -> None:
        """Tell its caller, once, and give up what was done."""
        self._pieces = None
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
