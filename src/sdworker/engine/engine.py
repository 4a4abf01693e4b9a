"""The batching engine: many drawings at once, one UNet forward a step.

The engine has one thread, the only one that touches the device. Before each step it looks at what waits and what
lives, lets those begin that would have part in the step and fit into memory, `batch.choose` picks generations of
one shape, one forward runs over all their rows, and each takes its sampler step from its own table. A finished
generation is decoded and leaves; a cancelled one leaves before the next step; a new one may join at the next step.
So no job waits for a whole longer one, and each comes out as if it had run alone. Decoding, and what else is done
for a job beside its steps, is cut into pieces (`chores.py`), and few of them are done between two steps. The next
step is queued on the device while it is still at the one before (`device.Pace`), and before it has brought the
images of those who left.

What goes wrong with one drawing fails that drawing. A defect of the loop fails those on board, and it goes on. A
device that is lost, or a defect that comes again and again, ends the thread: then everything fails that was
submitted or will be, and `when_lost` says so.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from sdworker.engine.batch import choose, who_may_begin
from sdworker.engine.chores import Chore, Chores
from sdworker.engine.costs import StepCosts
from sdworker.engine.costs.threads import ThreadChooser
from sdworker.engine.device import Lap, Pace, free_bytes, mark
from sdworker.engine.drawing import Drawing, Standing
from sdworker.engine.errand import Errand
from sdworker.engine.errors import DeviceLost, EngineError, EngineLost, explain, is_fatal
from sdworker.engine.generation import Generation, OnStep, table_for
from sdworker.engine.networks.model import Model
from sdworker.engine.previews import Previews
from sdworker.engine.processor import use_cores
from sdworker.engine.roster import Roster
from sdworker.engine.unet_input import UNetInput

__all__ = ["Engine"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_SHUTTING_DOWN = "the worker is shutting down; send the job again"
# A worker that starts because a job is waiting gets it within this time; then nothing is in its way.
_IDLE_S = 0.25
# How long whoever ends the process waits for a step, or for what is measured or compiled just then.
_STEP_AT_HAND_S = 5.0
# Of a step's time, how long those that live are kept waiting for others to begin; once it is over, the piece at
# hand is the last.
_BEGINNING_SHARE = 0.5
# Of a step's time, how long those that live are kept waiting for what is done beside steps, likewise.
_CHORES_SHARE = 0.5
# So often a chore for which memory does not suffice is begun anew, with less and less.
_MOST_SHORTAGES = 3
# Of the memory that is free once the model is loaded, what drawings may hold between their steps. Steps need the
# rest.
_MEMORY_SHARE = 1 / 3
# So many defects of the loop without a drawing that was finished between them: it would go on failing for ever.
_MOST_DEFECTS = 3


_Item: TypeAlias = Generation | Errand[Any] | list[Chore[Any]]


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
        self._device = model.device
        self._threads = threads
        self._chooser = (
            ThreadChooser(threads or 1, now_s=time.monotonic())
            if fewer_threads and (threads or 1) > 1 and model.device.type == "cpu"
            else None
        )
        if memory_bytes is None:
            memory_bytes = int(_MEMORY_SHARE * max(0, free_bytes(model.device) - reserved_bytes))
        self._memory_bytes = memory_bytes
        self._inbox: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._errand: Errand[Any] | None = None  # the one at hand
        self._generations: list[Generation] = []  # unfinished ones, waiting or live, in order of arrival
        self._beginning: tuple[Generation, Iterator[None]] | None = None
        self._leaving: list[Generation] = []
        self._chores = Chores()
        self._arriving: list[Chore[Any]] = []  # done, and on their way from the device
        self._piece_s: dict[Hashable, float] = {}  # by kind of chore, what its last piece took
        self._laps: deque[tuple[Hashable, Lap]] = deque()
        self._step_s = 0.0  # what the last step was taken to cost
        self._defects = 0
        self._pace = Pace(partial(mark, model.device))
        self._lost: EngineLost | None = None
        self._on_lost: list[Callable[[EngineLost], None]] = []
        self._door = threading.Lock()  # nothing is submitted behind the end
        self._closed = False
        self._finish = True
        # Even a sampler's small arithmetic would otherwise start a second team of threads: see processor.py.
        self._prober = ThreadPoolExecutor(1, "tables", initializer=use_cores, initargs=(1,))
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
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
        return self._lost

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Have it told, on the engine's thread, when that ends without having been closed; or now, if it has."""
        with self._door:
            lost = self._lost
            if lost is None:
                self._on_lost.append(tell)
        if lost is not None:
            tell(lost)

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
        self._submit(errand)
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
        self._submit(generation)
        images = asyncio.wrap_future(generation.images)
        try:
            return await asyncio.shield(images)
        except asyncio.CancelledError:
            generation.cancelled = True
            await asyncio.wait([images])
            images.exception()  # seen: asyncio need not warn that nobody looked
            raise

    async def _planned(self, drawing: Drawing, on_step: OnStep | None, **options: Any) -> Generation:
        with self._door:
            self._check_open()
        plan = partial(self._plan, drawing, on_step, **options)
        return await asyncio.get_running_loop().run_in_executor(self._prober, plan)

    async def do(self, chores: Sequence[Chore[T]]) -> list[T]:
        """What comes of one job's chores, done on the device between steps. Cancelling is as with `draw`.

        Raises:
            EngineError: nothing is taken any more.
            Exception: a chore failed, as it explains itself; the others are given up.
        """
        self._submit(list(chores))
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
        with self._door:
            self._closed = True
            self._finish = finish
            self._inbox.put(None)
        for learner in self._roster.learners:
            learner.stop()
        self._prober.shutdown(wait=finish)
        self._thread.join(None if finish else _STEP_AT_HAND_S)
        return not self._thread.is_alive()

    def _submit(self, item: _Item) -> None:
        with self._door:
            self._check_open()
            self._inbox.put(item)

    def _check_open(self) -> None:
        """Raises: EngineError: nothing is taken any more."""
        if self._lost is not None:
            raise self._lost
        if self._closed:
            raise EngineError(_SHUTTING_DOWN)

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

    # From here on, all on the engine's thread.

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            if self._threads is not None:
                use_cores(self._threads)
            with torch.inference_mode():
                self._loop()
        except BaseException as error:
            # Whatever it is, a panic of a library in Rust say: a worker that answers nothing would be worse.
            end = error
        self._end(end)

    def _loop(self) -> None:
        """Draw until closed.

        Raises:
            BaseException: it cannot go on.
        """
        while True:
            try:
                if not self._admit() and not self._is_busy:
                    return
                if not self._finish:
                    return
                self._turn()
            except Exception as error:
                if is_fatal(error):
                    raise
                self._defects += 1
                if self._defects == _MOST_DEFECTS:
                    raise
                log.exception("a defect of the engine fails all that was on board")
                self._beginning = None
                self._fail([*self._generations, *self._leaving], error)
                for chore in [*self._chores.clear(), *self._arriving]:
                    self._fail_chore(chore, error)

    @property
    def _is_busy(self) -> bool:
        return bool(self._generations or self._leaving or self._chores or self._arriving)

    def _turn(self) -> None:
        """One step, and what comes before and after it."""
        if any(learner.is_overdue() for learner in self._roster.learners):
            self._use_idle_time()
        self._drop_cancelled()
        self._begin_some()
        chosen = choose(self._generations, self._roster, [one for one in self._generations if one.is_live])
        if chosen:
            self._age(chosen)
            began = time.perf_counter()
            self._step(chosen)
            self._choose_threads(time.perf_counter() - began)
        self._let_finished_leave()
        if self._do_some_chores() or chosen:
            self._pace.step_queued()
        self._deliver(wait=not self._generations and not self._chores)

    def _end(self, error: BaseException | None) -> None:
        """The thread ends: fail whatever nobody will do any more, and say so unless it was asked to end."""
        reason = EngineError(_SHUTTING_DOWN)
        tell: Sequence[Callable[[EngineLost], None]] = ()
        if error is not None:
            log.critical("the engine cannot go on", exc_info=error)
            reason = (
                DeviceLost("the GPU failed and this worker restarts; send the job again")
                if is_fatal(error)
                else EngineLost("the worker failed and restarts; send the job again")
            )
            reason.__cause__ = error
        with self._door:
            if isinstance(reason, EngineLost):
                self._lost = reason
                tell = self._on_lost
            self._closed = True
            left: list[Generation | Errand[Any] | Chore[Any]] = [*self._generations, *self._leaving]
            left += [*self._chores.clear(), *self._arriving]
            left += [] if self._errand is None else [self._errand]
            with contextlib.suppress(queue.Empty):
                while True:
                    item = self._inbox.get_nowait()
                    left += [] if item is None else item if isinstance(item, list) else [item]
        for one in left:
            one.fail(reason)
        self._generations.clear()
        self._leaving.clear()
        self._arriving.clear()
        for function in tell:
            function(self._lost_for_good())

    def _lost_for_good(self) -> EngineLost:
        assert self._lost is not None
        return self._lost

    def _admit(self) -> bool:
        """Take in what was submitted, waiting for it when there is nothing else to do. False: closed."""
        while True:
            idle = not self._is_busy
            try:
                item = self._inbox.get(
                    block=idle, timeout=_IDLE_S if idle and self._has_use_for_idle_time() else None
                )
            except queue.Empty:
                if not idle:
                    return True
                self._use_idle_time()
                continue
            if item is None:
                self._inbox.put(None)  # stays closed for the next round
                return False
            if isinstance(item, Errand):
                self._run_errand(item)
            elif isinstance(item, Generation):
                self._generations.append(item)
            else:
                self._chores.add(item)

    def _run_errand(self, errand: "Errand[Any]") -> None:
        self._errand = errand
        try:
            errand.run()
        except Exception as error:
            if is_fatal(error):
                raise
        self._errand = None

    def _has_use_for_idle_time(self) -> bool:
        return not self._closed and (
            any(learner.has_more for learner in self._roster.learners)
            or any(seat.model.wants_preparing for seat in self._roster)
        )

    def _use_idle_time(self) -> None:
        """Do what can wait and is done in some tenths of a second; jobs need none of it."""
        try:
            learner = next((one for one in self._roster.learners if one.has_more), None)
            if learner is not None:
                learner.learn_more()
                return
            for seat in self._roster:
                if seat.model.wants_preparing:
                    seat.model.prepare_wanted()
                    return
        except Exception as error:
            if is_fatal(error):
                raise
            if not self._closed:
                log.warning("what steps cost could not be measured", exc_info=error)

    def _drop_cancelled(self) -> None:
        board = [*self._generations, *self._leaving]
        self._fail([one for one in board if one.cancelled], EngineError("cancelled"))
        for chore in self._chores.cancelled():
            self._fail_chore(chore, EngineError("cancelled"))

    def _begin_some(self) -> None:
        """Let those begin that would have part in the next step, piece by piece, for a part of a step's time.

        Whoever lives would have to wait for all of it; as long as nobody does, until the first one does.
        """
        enough = time.perf_counter() + _BEGINNING_SHARE * self._step_s
        while (generation := self._next_to_begin()) is not None:
            self._begin_piece(generation)
            if time.perf_counter() >= enough and any(one.is_live for one in self._generations):
                return

    def _next_to_begin(self) -> Generation | None:
        """The one that has begun to begin, else the first of those who wait that would have part in a step."""
        if self._beginning is not None:
            return self._beginning[0]
        if all(one.is_live for one in self._generations):
            return None
        held = sum(one.memory_bytes for one in self._generations if one.is_live)
        may = who_may_begin(
            self._generations, self._roster, self._memory_bytes - held, lambda one: one.has_slots
        )
        return next((one for one in choose(may, self._roster) if not one.is_live), None)

    def _begin_piece(self, generation: Generation) -> None:
        """The next piece of its beginning; all of them once more with what can be freed, if memory lacks."""
        if self._beginning is None:
            self._beginning = generation, generation.begin()
        try:
            try:
                next(self._beginning[1], None)
            except (torch.OutOfMemoryError, MemoryError):
                self._free_memory()
                for _ in generation.begin():
                    pass
        except Exception as error:
            self._beginning = None
            self._fail([generation], error)
            return
        if generation.is_live:
            self._beginning = None

    def _age(self, chosen: "list[Generation]") -> None:
        """Count what the coming step takes, and for whom it is time passed over."""
        self._step_s = self._roster.seconds(sum(one.rows for one in chosen), chosen[0].group)
        for one in self._generations:
            one.standing.age += self._step_s
            if one not in chosen:
                one.standing.passed_over += self._step_s

    def _choose_threads(self, seconds: float) -> None:
        """The step at hand took so long: on a CPU, with how many threads shall the next one be taken?"""
        if self._chooser is None or not self._learner.knows:
            return
        before = self._chooser.threads
        threads = self._chooser.step_took(seconds / self._step_s, time.monotonic())
        if threads != before:
            use_cores(threads)

    def _step(self, chosen: "list[Generation]") -> None:
        """One UNet forward over the rows of all chosen, and each one's sampler step."""
        if log.isEnabledFor(logging.DEBUG):
            loras = {key for one in chosen for key in one.adapters}
            log.debug(
                "a step of %d drawings, %d rows, %d LoRAs",
                len(chosen),
                sum(one.rows for one in chosen),
                len(loras),
            )
        for generation, predicted in self._predict(chosen):
            try:
                self._with_memory(partial(generation.take, predicted))
            except Exception as error:
                self._fail([generation], error)
            else:
                generation.report()

    def _predict(self, chosen: "list[Generation]") -> list[tuple[Generation, torch.Tensor]]:
        """What the UNet says to each of them. Where it fails for all together, each alone, so that only the one
        at fault fails."""
        try:
            inputs = self._with_memory(lambda: UNetInput.cat([one.next_input() for one in chosen]))
            predicted = self._forward(inputs, chosen[0].model)
            return list(zip(chosen, predicted.split([one.rows for one in chosen]), strict=True))
        except Exception as error:
            if len(chosen) == 1 or is_fatal(error):
                self._fail(chosen, error)
                return []
            log.warning("a step of %d drawings failed; stepping each alone", len(chosen), exc_info=error)
        return [answer for one in chosen for answer in self._predict([one])]

    def _forward(self, inputs: UNetInput, model: Model) -> torch.Tensor:
        """The UNet over all rows, in as few forwards as fit into memory."""
        costs = self._roster.costs_of(model)
        outputs: list[torch.Tensor] = []
        done = 0
        while done < inputs.rows:
            part = inputs[done : done + costs.limit(inputs.shape)]
            try:
                outputs.append(self._with_memory(partial(model.denoise, part)))
            except (torch.OutOfMemoryError, MemoryError):
                if part.rows == 1:
                    raise
                fitting = part.rows // 2
                costs.remember_lack_of_memory(inputs.shape, fitting)
                log.warning(
                    "%d rows of %s do not fit into memory; from now on %d", part.rows, inputs.shape, fitting
                )
                continue
            done += part.rows
        return torch.cat(outputs)

    def _with_memory(self, function: Callable[[], T]) -> T:
        """Call the function; if memory does not suffice, once more with what can be freed."""
        with contextlib.suppress(torch.OutOfMemoryError, MemoryError):
            return function()
        self._free_memory()
        return function()

    def _free_memory(self) -> None:
        """Give back what models keep only for speed."""
        for seat in self._roster:
            seat.model.free_memory()

    def _let_finished_leave(self) -> None:
        """What has no step left leaves the live ones; its images are to be decoded."""
        for generation in [one for one in self._generations if one.finished]:
            try:
                latents = self._with_memory(generation.leave)
            except Exception as error:
                self._fail([generation], error)
                continue
            self._generations.remove(generation)
            if generation.as_latents:
                generation.images.set_result(latents)
                continue
            self._leaving.append(generation)
            self._chores.add(generation.chores)

    def _do_some_chores(self) -> bool:
        """Do pieces of what is to be done beside steps, for a part of a step's time; whether there were any.

        Whoever lives or waits to begin would have to wait for all of it. As long as nobody does, one piece, and
        then it is looked who came.
        """
        left_s = _CHORES_SHARE * self._step_s
        did = False
        while (chore := self._chores.next()) is not None:
            left_s -= self._do_piece(chore)
            did = True
            if left_s <= 0 or not self._generations:
                break
        return did

    def _do_piece(self, chore: Chore[Any]) -> float:
        """The next piece of a chore; seconds that it takes the device, as far as one knows by now."""
        lap = Lap(self._device)
        try:
            if chore.do_piece():
                self._chores.remove(chore)
                self._arriving.append(chore)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._free_memory()
            if chore.begin_anew() > _MOST_SHORTAGES:
                self._fail_chore(chore, error)
        except Exception as error:
            self._fail_chore(chore, error)
        lap.end()
        self._laps.append((chore.kind, lap))
        while self._laps and (seconds := self._laps[0][1].seconds()) is not None:
            self._piece_s[self._laps.popleft()[0]] = seconds
        return self._piece_s.get(chore.kind, self._step_s)

    def _deliver(self, *, wait: bool) -> None:
        """Hand over what has arrived.

        Args:
            wait: for all that is on its way, because there is nothing else to do.
        """
        for chore in self._arriving.copy():
            assert chore.coming is not None, "it is done"
            if chore not in self._arriving or (not wait and not chore.coming.is_here()):
                continue
            try:
                result = chore.coming.get()
            except Exception as error:
                self._fail_chore(chore, error)
                continue
            self._arriving.remove(chore)
            chore.result.set_result(result)
            self._defects = 0
        for generation in self._leaving.copy():
            if all(chore.result.done() for chore in generation.chores):
                self._leaving.remove(generation)
                generation.images.set_result([chore.result.result() for chore in generation.chores])

    def _fail(self, generations: "Sequence[Generation]", error: Exception) -> None:
        """These cannot be drawn; the others go on.

        Raises:
            Exception: the error itself, if it means that nothing can be drawn any more.
        """
        if is_fatal(error):
            raise error
        for generation in generations:
            if self._beginning is not None and self._beginning[0] is generation:
                self._beginning = None
            for place in (self._generations, self._leaving):
                if generation in place:
                    place.remove(generation)
            for chore in generation.chores:
                self._forget(chore)
            generation.fail(explain(generation.drawing, error, generation.model.dtype))
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            self._free_memory()

    def _fail_chore(self, chore: Chore[Any], error: Exception) -> None:
        """It cannot be done, and with it the drawing whose it is; the others go on.

        Raises:
            Exception: as `_fail`.
        """
        if is_fatal(error):
            raise error
        self._forget(chore)
        owner = next((one for one in self._leaving if chore in one.chores), None)
        if owner is not None:
            self._fail([owner], error)
        chore.fail(error)

    def _forget(self, chore: Chore[Any]) -> None:
        self._chores.remove(chore)
        if chore in self._arriving:
            self._arriving.remove(chore)
