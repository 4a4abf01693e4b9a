"""The models of a worker: which are loaded, which come, and which make room for them.

Whoever draws holds a model while it does (`use`). A model that is not loaded is brought in by a thread of its own,
while others are drawn with; where memory lacks, those that nobody holds make room, the one that was used longest
ago first. Nobody waits for ever: behind one who waits for room, no new hold of a model that is there is given out
once that has lasted for several times what a load takes. So two models of which one fits take turns, and most of
the time is spent drawing.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.model_config import ModelError
from sdworker.engine.networks.model import Model
from sdworker.engine.processor import use_cores

__all__ = ["ModelPool", "Pooled"]

log = logging.getLogger(__name__)

# So many times what its load takes may those who draw go on before they let a model in; and so long at least.
_PATIENCE_LOADS = 4.0
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Pooled:
    """A model that can be had.

    Attributes:
        name: what jobs call it.
        weights_bytes: what it takes in memory.
        load: reads it, on any thread.
        try_out: shows that it draws, on the engine's thread.
    """

    name: str
    weights_bytes: int
    load: Callable[[], Model]
    try_out: Callable[[Model], None] = lambda model: None


@dataclass(eq=False)
class _Place:
    """Where a model is. What `load` and `try_out` raise is for its users; the next who asks tries again."""

    pooled: Pooled
    model: Model | None = None
    users: int = 0
    is_coming: bool = False
    used_at: float = 0.0
    load_s: float = 0.0


@dataclass(eq=False)
class _Waiting:
    """Somebody who waits for a model."""

    place: _Place
    held: Future[Model] = field(default_factory=Future)


class ModelPool:
    """Models within a budget of memory. For any thread and any number of event loops."""

    def __init__(
        self,
        engine: Engine,
        models: Sequence[Pooled],
        *,
        budget_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            models: at least one; the first is the engine's own, and is there.
            budget_bytes: what all that are loaded may take. None: as much as they like.
        """
        self._engine = engine
        self._places = {one.name: _Place(one) for one in models}
        self._first = models[0].name
        self._places[self._first].model = engine.model
        self._budget = budget_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._lacks_room: tuple[_Place, float] | None = None  # who waits for room, and since when
        self._when_leaving: list[Callable[[Model], object]] = []
        self._loader = ThreadPoolExecutor(1, "models", initializer=use_cores, initargs=(1,))

    @property
    def names(self) -> list[str]:
        return list(self._places)

    @property
    def loaded(self) -> list[str]:
        """The names of those that are there, the one used last behind."""
        with self._lock:
            there = [place for place in self._places.values() if place.model is not None]
        return [place.pooled.name for place in sorted(there, key=lambda place: place.used_at)]

    def when_leaving(self, tell: Callable[[Model], object]) -> None:
        """Have it told, on the loader's thread, of each model that makes room, before it does."""
        self._when_leaving.append(tell)

    @contextlib.asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Model]:
        """A model, loaded, which stays while this is open.

        Args:
            name: None: the first.

        Raises:
            EngineError: it cannot be had; says why.
        """
        place = self._places[name or self._first]
        waiting = _Waiting(place)
        with self._lock:
            self._waiting.append(waiting)
            self._move()
        try:
            model = await asyncio.wrap_future(waiting.held)
        except BaseException:
            with self._lock:
                was_given = not waiting.held.cancel() and waiting.held.exception() is None
            if was_given:
                self._give_back(place)
            raise
        try:
            yield model
        finally:
            self._give_back(place)

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _give_back(self, place: _Place) -> None:
        with self._lock:
            place.users -= 1
            place.used_at = self._clock()
            self._move()

    # From here on under the lock.

    def _move(self) -> None:
        """Give out what can be given, in the order in which it was asked for, and fetch what is lacking."""
        left: deque[_Waiting] = deque()
        asked, self._waiting = self._waiting, left
        held_up = False
        if self._lacks_room is not None and all(one.place is not self._lacks_room[0] for one in asked):
            self._lacks_room = None
        for one in asked:
            if one.held.cancelled():
                continue
            if one.place.model is not None and not held_up:
                self._give(one)
                continue
            left.append(one)
            if one.place.model is None and not one.place.is_coming and not self._bring(one.place):
                held_up = held_up or self._is_overdue()

    def _give(self, one: _Waiting) -> None:
        assert one.place.model is not None, "it is there"
        if one.held.set_running_or_notify_cancel():
            one.place.users += 1
            one.place.used_at = self._clock()
            one.held.set_result(one.place.model)

    def _is_overdue(self) -> bool:
        """Whether somebody has waited for room for longer than is bearable."""
        if self._lacks_room is None:
            return False
        place, since = self._lacks_room
        return self._clock() - since >= max(_PATIENCE_S, _PATIENCE_LOADS * place.load_s)

    def _bring(self, place: _Place) -> bool:
        """Begin to load a model if there is room for it, or can be made; else note who lacks it."""
        needed = place.pooled.weights_bytes
        out: list[_Place] = []
        if self._budget is not None:
            held = sum(
                one.pooled.weights_bytes
                for one in self._places.values()
                if one.model is not None or one.is_coming
            )
            idle = [one for one in self._places.values() if one.model is not None and not one.users]
            for one in sorted(idle, key=lambda one: one.used_at):
                if held + needed <= self._budget:
                    break
                held -= one.pooled.weights_bytes
                out.append(one)
            if held + needed > self._budget:
                if needed > self._budget:
                    self._fail(place, EngineError(self._too_large(place)))
                elif self._lacks_room is None:
                    self._lacks_room = place, self._clock()
                return False
        models = [one.model for one in out if one.model is not None]
        for one in out:
            one.model = None
        place.is_coming = True
        if self._lacks_room is not None and self._lacks_room[0] is place:
            self._lacks_room = None
        try:
            self._loader.submit(self._load, place, models)
        except RuntimeError:  # closed
            place.is_coming = False
            self._fail(place, EngineError("the worker is shutting down; send the job again"))
        return True

    def _too_large(self, place: _Place) -> str:
        return (
            f"model: {place.pooled.name} takes {place.pooled.weights_bytes / 1e9:.2g} GB of memory, and this "
            f"worker has {(self._budget or 0) / 1e9:.2g} GB for models (MODEL_MEMORY_GB)"
        )

    def _fail(self, place: _Place, error: Exception) -> None:
        """Tell all who wait for that model."""
        for one in [one for one in self._waiting if one.place is place]:
            self._waiting.remove(one)
            if one.held.set_running_or_notify_cancel():
                one.held.set_exception(error)

    # On the loader's thread.

    def _load(self, place: _Place, leaving: list[Model]) -> None:
        """Have models leave, and one come."""
        name = place.pooled.name
        error: Exception | None = None
        model: Model | None = None
        began = time.perf_counter()
        try:
            for one in leaving:
                for tell in self._when_leaving:
                    tell(one)
                self._engine.call(partial(self._engine.remove, one)).result()
            leaving.clear()
            model = place.pooled.load()
            self._engine.call(partial(self._take_in, place, model)).result()
            log.info("loaded %s in %.2f s", name, time.perf_counter() - began)
        except ModelError as problem:
            log.error("%s cannot be loaded: %s", name, problem)
            error = EngineError(
                f"model: {name} cannot be loaded at the moment; the worker's log has the cause"
            )
            error.__cause__ = problem
        except EngineError as problem:
            error = problem
        except Exception as problem:
            log.exception("%s cannot be loaded", name)
            error = EngineError(
                f"model: {name} cannot be loaded at the moment; the worker's log has the cause"
            )
            error.__cause__ = problem
        with self._lock:
            place.is_coming = False
            place.load_s = time.perf_counter() - began
            if error is None:
                place.model = model
                place.used_at = self._clock()
            else:
                self._fail(place, error)
            self._move()

    def _take_in(self, place: _Place, model: Model) -> None:
        """On the engine's thread."""
        place.pooled.try_out(model)
        self._engine.add(model)
