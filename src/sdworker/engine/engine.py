"""The batching engine: many drawings at once, one UNet forward a step.

The engine has one thread, the only one that touches the device (`loop.py`). Before each step it looks at what
waits and what lives (`board.py`), lets those begin that would have part in the step and fit into memory
(`beginning.py`), `batch.choose` picks generations of one shape, one forward runs over all their rows, and each
takes its sampler step from its own table (`stepping.py`). A finished generation is decoded and leaves
(`finishing.py`); a cancelled one leaves before the next step; a new one may join at the next step. So no job
waits for a whole longer one, and each comes out as if it had run alone. Decoding, and what else is done for a
job beside its steps, is cut into pieces (`chores.py`), and few of them are done between two steps. The next
step is queued on the device while it is still at the one before (`device.Pace`), and before it has brought the
images of those who left.

What goes wrong with one drawing fails that drawing. When the thread cannot go on, everything fails that was
submitted or will be, and `when_lost` says so.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from sdworker.engine.beginning import Beginning
from sdworker.engine.board import Board
from sdworker.engine.chores import Chore
from sdworker.engine.costs import StepCosts
from sdworker.engine.costs.threads import ThreadChooser
from sdworker.engine.device import free_bytes
from sdworker.engine.drawing import Drawing, Standing
from sdworker.engine.errand import Errand
from sdworker.engine.errors import EngineError, EngineLost
from sdworker.engine.finishing import Finishing
from sdworker.engine.generation import Generation, OnStep, table_for
from sdworker.engine.inbox import Inbox
from sdworker.engine.loop import Loop
from sdworker.engine.networks.model import Model
from sdworker.engine.previews import Previews
from sdworker.engine.processor import use_cores
from sdworker.engine.roster import Roster
from sdworker.engine.stepping import Stepping

__all__ = ["Engine"]

T = TypeVar("T")

# How long whoever ends the process waits for a step, or for what is measured or compiled just then.
_STEP_AT_HAND_S = 5.0
# Of the memory that is free once the model is loaded, what drawings may hold between their steps. Steps need the
# rest.
_MEMORY_SHARE = 1 / 3


class Engine:
    """Draws. Submit with `draw`, from any number of coroutines."""

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int | None = None,
        threads: int | None = None,
        fewer_threads: bool = True,
        memory_bytes: int | None = None,
        reserved_bytes: int = 0,
    ) -> None:
        """
        Args:
            model: from now on only the engine's thread uses it. More can be added.
            max_rows: most rows in one UNet forward. None: as many as `calibrate` finds worth it.
            threads: with how many threads to compute on a CPU (`processor.reserve_cores`). None: torch's own
                number.
            fewer_threads: steps are taken with fewer of them while that is quicker (`costs/threads.py`).
            memory_bytes: what drawings under way may hold on the device beside the model and between steps.
                None: a third of what is free now.
            reserved_bytes: of what is free now, what other models will take.
        """
        self._roster = Roster(max_rows=max_rows)
        self._learner = self._roster.add(model).learner
        self._default_shape = model.default_shape
        if memory_bytes is None:
            memory_bytes = int(_MEMORY_SHARE * max(0, free_bytes(model.device) - reserved_bytes))
        self._memory_bytes = memory_bytes
        chooser = (
            ThreadChooser(threads or 1, now_s=time.monotonic())
            if fewer_threads and (threads or 1) > 1 and model.device.type == "cpu"
            else None
        )
        self._inbox = Inbox()
        self._board = Board(self._roster)
        loop = Loop(
            self._inbox,
            self._roster,
            self._board,
            beginning=Beginning(self._board, self._roster, memory_bytes=memory_bytes),
            stepping=Stepping(self._board, self._roster, chooser),
            finishing=Finishing(self._board, self._roster, model.device),
            device=model.device,
            threads=threads,
        )
        # Even a sampler's small arithmetic would otherwise start a second team of threads: see processor.py.
        self._prober = ThreadPoolExecutor(1, "tables", initializer=use_cores, initargs=(1,))
        self._thread = threading.Thread(target=loop.run, name="engine", daemon=True)
        self._thread.start()

    @property
    def model(self) -> Model:
        """The only one, or the one that came first of those there are."""
        return next(seat.model for seat in self._roster)

    @property
    def costs(self) -> StepCosts:
        """What steps of the first model are taken to cost, and how many rows one may have."""
        return self._learner.costs

    @property
    def batch_rows(self) -> int:
        """Most rows in a forward at the first model's own size."""
        return self.costs.limit(self._default_shape)

    def add(self, model: Model) -> None:
        """Draw with this one too, from now on; on the engine's thread (`call`)."""
        learner = self._roster.add(model).learner
        if self._learner.has_begun and not learner.has_begun:
            learner.begin()

    def remove(self, model: Model) -> None:
        """Draw with it no more, and give up its memory; on the engine's thread (`call`), when nothing is drawn
        with it."""
        self._roster.remove(model)
        model.free_memory()
        device = model.device
        model.release()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def lost(self) -> EngineLost | None:
        """Why nothing is drawn any more, if so."""
        return self._inbox.lost

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Have it told, on the engine's thread, when that ends without having been closed; or now, if it has."""
        self._inbox.when_lost(tell)

    async def calibrate(self) -> None:
        """Measure now what steps cost here, and with it how many rows are worth sharing one; drawings wait.

        Raises:
            EngineError: the model does not run.
        """
        try:
            await asyncio.wrap_future(self.call(self._learner.learn_all))
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"the model does not run: {error}") from error

    def calibrate_when_idle(self) -> None:
        """Measure likewise while there is nothing to draw, or at the latest after a while.

        One number of rows at a time, so that a drawing that comes waits for some tenths of a second at most. Until
        it is done, steps are assumed to cost what they do on hardware that a few rows fill.

        Raises:
            EngineError: the engine is closed.
        """
        self.call(self._learner.begin)

    async def prepare(self, rows: int) -> None:
        """Have forwards of so many rows at the model's own size prepared, where the model's means ask for it."""
        await asyncio.wrap_future(self.call(lambda: self.model.prepare(rows)))

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the engine's thread, the only one that may use the model, between two steps.

        Raises:
            EngineError: the engine is closed.
        """
        errand = Errand(function)
        self._inbox.put(errand)
        return errand.result

    async def draw(
        self,
        drawing: Drawing,
        on_step: OnStep | None = None,
        *,
        previews: Previews | None = None,
        model: Model | None = None,
        standing: Standing | None = None,
    ) -> list[np.ndarray]:
        """The drawing's images, uint8 [height, width, 3], in the order of its seeds.

        Cancelling the awaiting task takes the drawing out at its next step; the task ends once its rows are
        free, so whoever counts tasks counts the device's load.

        Args:
            on_step: told how far it is.
            previews: shown the first image on its way, when it wants that.
            model: one that was added, and stays until it is drawn; None: the first.
            standing: of its job, where this is one of several passes.

        Raises:
            UserError: it could not be drawn.
        """
        images: list[np.ndarray] = await self._draw(
            drawing, on_step, previews=previews, model=model, standing=standing
        )
        return images

    async def draw_latents(
        self,
        drawing: Drawing,
        on_step: OnStep | None = None,
        *,
        previews: Previews | None = None,
        model: Model | None = None,
        standing: Standing | None = None,
    ) -> torch.Tensor:
        """The same up to the finished latents, [images, 4, h, w] on the model's device, for another pass."""
        latents: torch.Tensor = await self._draw(
            drawing, on_step, previews=previews, model=model, standing=standing, as_latents=True
        )
        return latents

    async def evaluations(self, drawing: Drawing, *, model: Model | None = None) -> int:
        """Of the UNet, that it takes; and so whether it can be drawn at all.

        Raises:
            UserError: it cannot.
        """
        return (await self._planned(drawing, None, model=model)).table.evaluations

    async def _draw(
        self, drawing: Drawing, on_step: OnStep | None, *, previews: Previews | None = None, **options: Any
    ) -> Any:
        generation = await self._planned(drawing, on_step, **options)
        generation.previews = previews
        self._inbox.put(generation)
        images = asyncio.wrap_future(generation.images)
        try:
            return await asyncio.shield(images)
        except asyncio.CancelledError:
            generation.cancelled = True
            await asyncio.wait([images])
            images.exception()  # seen: asyncio need not warn that nobody looked
            raise

    async def _planned(self, drawing: Drawing, on_step: OnStep | None, **options: Any) -> Generation:
        self._inbox.check_open()
        plan = partial(self._plan, drawing, on_step, **options)
        return await asyncio.get_running_loop().run_in_executor(self._prober, plan)

    async def do(self, chores: Sequence[Chore[T]]) -> list[T]:
        """What comes of one job's chores, done on the device between steps. Cancelling is as with `draw`.

        Raises:
            EngineError: nothing is taken any more.
            Exception: a chore failed, as it explains itself; the others are given up.
        """
        self._inbox.put(list(chores))
        results = [asyncio.wrap_future(chore.result) for chore in chores]
        try:
            return await asyncio.shield(asyncio.gather(*results))
        except BaseException:
            for chore in chores:
                chore.cancelled = True
            await asyncio.gather(*results, return_exceptions=True)
            raise

    def close(self, *, finish: bool = True) -> bool:
        """Take nothing new, and end the thread.

        Args:
            finish: what was submitted first. Otherwise it fails, after the step at hand.

        Returns:
            Whether the thread has ended. It may not have, without `finish`, where a step takes seconds or a
            forward is being compiled; Python must not end under a thread that computes, for then it aborts.
        """
        self._inbox.close(finish=finish)
        for learner in self._roster.learners:
            learner.stop()
        self._prober.shutdown(wait=finish)
        self._thread.join(None if finish else _STEP_AT_HAND_S)
        return not self._thread.is_alive()

    def _plan(
        self, drawing: Drawing, on_step: OnStep | None, *, model: Model | None, **options: Any
    ) -> Generation:
        """The drawing as it will wait, off the engine's thread: probing a table of 500 steps takes a second.

        Raises:
            UserError: the sampler cannot do it, a prompt asks for what is not allowed, or it would never fit
                into memory.
        """
        model = model or self.model
        tables = self._roster.of(model).tables
        table = table_for(drawing, tables, inpaints_natively=model.inpaints_natively)
        generation = Generation(drawing, table, model, on_step, **options)
        if generation.memory_bytes > self._memory_bytes:
            raise EngineError(
                f"{len(drawing.seeds)} images of {drawing.width}x{drawing.height} in {drawing.steps} steps of "
                f"{drawing.sampler} take {generation.memory_bytes / 1e9:.2g} GB while they are drawn, more than "
                f"the {self._memory_bytes / 1e9:.2g} GB that this worker has for it; ask for fewer images, fewer "
                "steps or a smaller size"
            )
        return generation
