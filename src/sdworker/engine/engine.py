"""The batching engine: many drawings at once, one UNet forward a step.

The engine has one thread, the only one that touches the device. Before each step it admits what was submitted,
`batch.choose` picks generations of one shape, one forward runs over all their rows, and each takes its sampler
step from its own table. A finished generation is decoded and leaves; a cancelled one leaves before the next
step; a new one may join at the next step. So no job waits for a whole longer one, and each comes out as if it had
run alone. The next step is queued on the device while it is still at the one before (`device.Pace`), and before it
has brought the images of those who left.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from sdworker.engine.batch import choose
from sdworker.engine.cost_learner import CostLearner
from sdworker.engine.costs import Shape, StepCosts
from sdworker.engine.device import Pace, mark
from sdworker.engine.drawing import Drawing
from sdworker.engine.errors import DeviceLost, EngineError, explain, is_fatal
from sdworker.engine.generation import Generation, Rows, table_for
from sdworker.engine.networks import Networks
from sdworker.engine.processor import use_cores
from sdworker.engine.tables import SamplerTables, TableError
from sdworker.engine.ticket import Errand, OnStep, Ticket
from sdworker.engine.vae import ComingImage

__all__ = ["Engine"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_SHUTTING_DOWN = "the worker is shutting down; send the job again"
# A worker that starts because a job is waiting gets it within this time; then nothing is in its way.
_IDLE_S = 0.25
# How long whoever ends the process waits for a step, or for what is measured or compiled just then.
_STEP_AT_HAND_S = 5.0


class Engine:
    """Draws. Submit with `draw`, from any number of coroutines."""

    def __init__(
        self, networks: Networks, *, max_rows: int | None = None, threads: int | None = None
    ) -> None:
        """
        Args:
            networks: a loaded model; from now on only the engine's thread uses it.
            max_rows: most rows in one UNet forward. None: as many as `calibrate` finds worth it.
            threads: with how many threads to compute on a CPU (`processor.reserve_cores`). None: torch's own
                number.
        """
        self.networks = networks
        self._tables = SamplerTables(networks.scheduler_config, networks.device)
        self._threads = threads
        self._learner = CostLearner(networks, max_rows=max_rows)
        self._inbox: queue.SimpleQueue[Ticket | Errand[Any] | None] = queue.SimpleQueue()
        self._live: list[Ticket] = []
        self._leaving: list[Ticket] = []
        self._pace = Pace(lambda: mark(networks.device))
        self._lost: DeviceLost | None = None
        self._door = threading.Lock()  # nothing is submitted behind the end
        self._closed = False
        self._finish = True
        # Even a sampler's small arithmetic would otherwise start a second team of threads: see processor.py.
        self._prober = ThreadPoolExecutor(1, "tables", initializer=use_cores, initargs=(1,))
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> DeviceLost | None:
        """Why nothing can be drawn any more; None: all is well."""
        return self._lost

    @property
    def costs(self) -> StepCosts:
        """What steps are taken to cost, and how many rows one may have."""
        return self._learner.costs

    @property
    def batch_rows(self) -> int:
        """Most rows in a forward at the model's own size."""
        return self.costs.limit(self.networks.default_shape)

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
        """Have forwards of so many rows at the model's own size prepared, where the networks' means ask for it."""
        await asyncio.wrap_future(self.call(lambda: self.networks.prepare(rows)))

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the engine's thread, the only one that may use the networks, between two steps.

        Raises:
            EngineError: the engine is closed.
        """
        errand = Errand(function)
        self._submit(errand)
        return errand.result

    async def draw(self, drawing: Drawing, on_step: OnStep | None = None) -> list[np.ndarray]:
        """The drawing's images, uint8 [height, width, 3], in the order of its seeds.

        Cancelling the awaiting task takes the drawing out at its next step; the task ends once its rows are
        free, so whoever counts tasks counts the device's load.

        Raises:
            EngineError: it could not be drawn.
        """
        if self._lost is not None:
            raise self._lost
        if self._closed:
            raise EngineError(_SHUTTING_DOWN)
        await asyncio.get_running_loop().run_in_executor(self._prober, self._check, drawing)
        ticket = Ticket(drawing, on_step)
        self._submit(ticket)
        images = asyncio.wrap_future(ticket.images)
        try:
            return await asyncio.shield(images)
        except asyncio.CancelledError:
            ticket.cancelled = True
            await asyncio.wait([images])
            images.exception()  # seen: asyncio need not warn that nobody looked
            raise

    def close(self, *, finish: bool = True) -> None:
        """Take nothing new, and end the thread.

        Args:
            finish: what was submitted first. Otherwise it fails, after the step at hand.
        """
        with self._door:
            self._closed = True
            self._finish = finish
            self._inbox.put(None)
        self._thread.join(None if finish else _STEP_AT_HAND_S)
        self._prober.shutdown()

    def _submit(self, item: Ticket | Errand[Any]) -> None:
        with self._door:
            if self._closed:
                raise EngineError(_SHUTTING_DOWN)
            self._inbox.put(item)

    def _check(self, drawing: Drawing) -> None:
        """Probe the sampler's table off the engine's thread; probing 500 steps takes a second."""
        try:
            table_for(drawing, self._tables, inpaints_natively=self.networks.inpaints_natively)
        except TableError as error:
            raise EngineError(str(error)) from error

    # From here on, all on the engine's thread.

    def _run(self) -> None:
        if self._threads is not None:
            use_cores(self._threads)
        with torch.inference_mode():
            while self._admit() or self._live or self._leaving:
                if not self._finish:
                    self._abandon()
                    break
                try:
                    if self._learner.is_overdue():
                        self._use_idle_time()
                    self._drop_cancelled()
                    waiting = [ticket for ticket in self._live if not ticket.finished]
                    chosen = choose(waiting, self.costs)
                    if chosen:
                        self._age(waiting, chosen)
                        self._step(chosen)
                        self._pace.step_queued()
                    self._decode_finished()
                    self._deliver(wait=not self._live)
                except Exception as error:  # a defect of the loop itself; without this every job would hang
                    self._lose(error, [])

    def _abandon(self) -> None:
        for ticket in self._live + self._leaving:
            ticket.images.set_exception(EngineError(_SHUTTING_DOWN))

    def _admit(self) -> bool:
        """Begin what was submitted, waiting for it when there is nothing else to do. False: closed."""
        while True:
            idle = not self._live and not self._leaving
            try:
                ticket = self._inbox.get(
                    block=idle, timeout=_IDLE_S if idle and self._has_use_for_idle_time() else None
                )
            except queue.Empty:
                if not idle:
                    return True
                self._use_idle_time()
                continue
            if ticket is None:
                self._inbox.put(None)  # stays closed for the next round
                return False
            if isinstance(ticket, Errand):
                self._run_errand(ticket)
            else:
                self._begin(ticket)

    def _run_errand(self, errand: "Errand[Any]") -> None:
        if not errand.result.set_running_or_notify_cancel():  # whoever asked no longer waits
            return
        try:
            errand.result.set_result(errand.function())
        except Exception as error:
            errand.result.set_exception(error)
            if is_fatal(error):
                self._lose(error, [])

    def _has_use_for_idle_time(self) -> bool:
        return self._lost is None and (self._learner.has_more or self.networks.wants_preparing)

    def _use_idle_time(self) -> None:
        """Do what can wait and is done in some tenths of a second; jobs need none of it."""
        try:
            if self._learner.has_more:
                self._learner.learn_more()
            else:
                self.networks.prepare_wanted()
        except Exception as error:
            if is_fatal(error):
                self._lose(error, [])
            else:
                log.warning("what steps cost could not be measured", exc_info=error)

    def _begin(self, ticket: "Ticket") -> None:
        if self._lost is not None:
            ticket.images.set_exception(self._lost)
            return
        try:
            ticket.generation = Generation(ticket.drawing, self.networks, self._tables)
        except Exception as error:
            self._fail([ticket], error)
        else:
            self._live.append(ticket)

    def _drop_cancelled(self) -> None:
        for ticket in [ticket for ticket in self._live if ticket.cancelled]:
            self._live.remove(ticket)
            ticket.images.set_exception(EngineError("cancelled"))

    def _age(self, waiting: "list[Ticket]", chosen: "list[Ticket]") -> None:
        """Count what the coming step takes, and for whom it is time passed over."""
        seconds = self.costs.seconds(sum(ticket.rows for ticket in chosen), chosen[0].shape)
        for ticket in waiting:
            ticket.age += seconds
            if ticket not in chosen:
                ticket.passed_over += seconds

    def _step(self, chosen: "list[Ticket]") -> None:
        """One UNet forward over the rows of all chosen, and each one's sampler step."""
        try:
            generations = [ticket.begun for ticket in chosen]
            rows = [generation.next_rows() for generation in generations]
            predicted = self._predict(rows, generations[0].shape)
            for generation, part in zip(
                generations, predicted.split([g.rows for g in generations]), strict=True
            ):
                generation.take(part)
        except Exception as error:
            self._isolate(chosen, error)
            return
        for ticket in chosen:
            ticket.report()

    def _predict(self, rows: list[Rows], shape: Shape) -> torch.Tensor:
        """The UNet over all rows, in as few forwards as fit; a batch too large for memory is halved for good."""
        latents = torch.cat([part.latents for part in rows])
        timesteps = torch.cat([part.timesteps for part in rows])
        text = torch.cat([part.text for part in rows])
        embedded = [part.guidance for part in rows if part.guidance is not None]
        guidance = torch.cat(embedded) if embedded else None
        outputs: list[torch.Tensor] = []
        done = 0
        while done < len(latents):
            part = slice(done, done + self.costs.limit(shape))
            try:
                output = self.networks.predict(
                    latents[part], timesteps[part], text[part], None if guidance is None else guidance[part]
                )
            except (torch.OutOfMemoryError, MemoryError):
                size = len(latents[part])
                if size == 1:
                    raise
                self.costs.remember_lack_of_memory(shape, size // 2)
                log.warning("%d rows of %s do not fit into memory; from now on %d", size, shape, size // 2)
                self.networks.free_memory()
                continue
            outputs.append(output)
            done += len(output)
        return torch.cat(outputs)

    def _isolate(self, chosen: "list[Ticket]", error: Exception) -> None:
        """A step of several failed: step each alone, so that only the one at fault fails."""
        if len(chosen) == 1 or is_fatal(error):
            self._fail(chosen, error)
            return
        log.warning("a step of %d drawings failed; stepping each alone", len(chosen), exc_info=error)
        for ticket in chosen:
            if self._lost is None:
                self._step([ticket])

    def _decode_finished(self) -> None:
        """Have what is finished decoded; it leaves the live ones, and its images are on their way."""
        for ticket in [ticket for ticket in self._live if ticket.finished]:
            try:
                self._decode(ticket)
            except Exception as error:
                self._fail([ticket], error)
                continue
            self._live.remove(ticket)
            self._leaving.append(ticket)

    def _decode(self, ticket: "Ticket") -> None:
        """One image at a time: the memory a decode needs grows with the pixels decoded at once."""
        for latents in ticket.begun.outcome().split(1):
            if ticket.cancelled:
                raise EngineError("cancelled")
            ticket.coming.append(self._decode_one(latents))

    def _decode_one(self, latents: torch.Tensor) -> ComingImage:
        """Once more with what can be freed, if memory does not suffice."""
        with contextlib.suppress(torch.OutOfMemoryError, MemoryError):
            return self.networks.decode(latents)
        self.networks.free_memory()
        return self.networks.decode(latents)

    def _deliver(self, *, wait: bool) -> None:
        """Hand over the images that have arrived.

        Args:
            wait: for all that are on their way, because there is nothing else to do.
        """
        for ticket in self._leaving.copy():
            if not wait and not all(image.is_here() for image in ticket.coming):
                break  # they arrive in this order
            self._leaving.remove(ticket)
            try:
                ticket.images.set_result([image.pixels() for image in ticket.coming])
            except Exception as error:
                self._fail([ticket], error)

    def _fail(self, tickets: "list[Ticket]", error: Exception) -> None:
        if is_fatal(error):
            self._lose(error, tickets)
            return
        for ticket in tickets:
            if ticket in self._live:
                self._live.remove(ticket)
            ticket.images.set_exception(explain(ticket.drawing, error, self.networks.dtype))
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            self.networks.free_memory()

    def _lose(self, error: Exception, tickets: "list[Ticket]") -> None:
        """Nothing can be drawn any more: fail these, all that live, and all to come."""
        log.critical("the engine cannot go on", exc_info=error)
        self._lost = DeviceLost("the GPU failed and this worker restarts; send the job again")
        self._lost.__cause__ = error
        for ticket in {*tickets, *self._live, *self._leaving}:
            if not ticket.images.done():
                ticket.images.set_exception(self._lost)
        self._live.clear()
        self._leaving.clear()
