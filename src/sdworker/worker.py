"""One job from start to finish.

    job → request → (pictures and add-ons in) → engine → (upscale, check) → encode → delivery → [{image, seed}]

`Worker.run` tells it top to bottom. Nothing here blocks the event loop: pictures are decoded in processes of
their own and encoded in threads, the engine has its own thread, so any number of jobs can be on their way at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sdworker.answers import Done, answer_of
from sdworker.assets import AddOns
from sdworker.budgets import CONTROLS_SHARE
from sdworker.controls import Controls, Shown
from sdworker.delivery import Delivery
from sdworker.embeddings import Embeddings
from sdworker.engine.controls.store import ControlNets
from sdworker.engine.device import free_bytes
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.generation import OnStep
from sdworker.engine.lora import LoraWeights, read_lora
from sdworker.engine.networks.model import Model
from sdworker.engine.pool import ModelPool
from sdworker.engine.previews import Previews
from sdworker.engine.processor import give_back_memory
from sdworker.engine.shelf import Shelf
from sdworker.engine.text.embeddings import Vectors, read_vectors
from sdworker.generation_data import parameters_text
from sdworker.larger import SecondPass, Upscalers, draw_twice, enlarge
from sdworker.loras import Loras
from sdworker.pictures import PictureLimits, encode_image
from sdworker.reading import reading_of
from sdworker.request import Contract, Request
from sdworker.safety import SafetyGuard, SafetyGuards
from sdworker.settings import Settings
from sdworker.start_picture import StartPicture
from sdworker.timing import Stopwatch

__all__ = ["Worker"]

log = logging.getLogger(__name__)

_ADD_ONS_SHARE = 1 / 8  # of free memory, for LoRA files as they were read


@dataclass(frozen=True)
class _Beside:
    """What was read for one model, and goes with it: files that fit no other."""

    loras: Loras
    embeddings: Embeddings
    controls: Controls


class Worker:
    """Turns jobs into images. Holds no state of any job."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        models: ModelPool,
        contract: Contract,
        *,
        guards: SafetyGuards | None = None,
        control_bytes: int | None = None,
    ) -> None:
        """
        Args:
            models: those the engine draws with, by the names that the contract knows.
            guards: judge what is drawn; None: nothing is judged.
            control_bytes: most memory of each model's ControlNets. None: a share of what is free.
        """
        self.contract = contract
        self.engine = engine
        self.models = models
        self.add_ons = AddOns.from_settings(settings)
        self._settings = settings
        self._delivery = Delivery(settings)
        self._limits = PictureLimits.from_settings(settings)
        self._beside: dict[Model, _Beside] = {}
        models.when_leaving(lambda model: self._beside.pop(model, None))
        self._guards = guards
        self._control_bytes = control_bytes
        self._upscalers = Upscalers(engine, self.add_ons)
        self._concurrency = settings.concurrency
        self._compiles = settings.compile
        self._most_tokens = settings.max_prompt_tokens

    @property
    def jobs_at_once(self) -> int:
        """Jobs to hold: what fills the engine's largest batch, and a quarter more.

        So the place of a job that is done is taken at the next step, not when the platform has sent another.
        At least 2, because the SDK idles a second after every job when there is one at a time.
        """
        return self._concurrency or max(2, self.engine.batch_rows // 2 * 5 // 4)

    async def check_bucket(self) -> None:
        """The bucket, when one is configured, is there.

        Raises:
            DeliveryError: it does not exist or does not answer.
        """
        await self._delivery.check()

    async def warm_up(self) -> None:
        """Draw one image of the model's own size, so that the first job pays for nothing but itself.

        What steps cost is measured when there is nothing to draw, so that the first job need not wait for that;
        with COMPILE, which belongs to it and takes longer than anybody waits for a job, at once.

        Raises:
            EngineError: the model does not draw.
        """
        request = self.contract.parse({"prompt": "warm-up", "num_inference_steps": 2, "seed": 0})
        await self.engine.draw(await self._drawing_of(request))
        await asyncio.wrap_future(self.engine.call(self.engine.model.previewer))
        if self._compiles:
            await self.engine.calibrate()
            return
        await self.engine.prepare(rows=2)
        self.engine.calibrate_when_idle()

    async def answer(
        self, job: Mapping[str, Any], on_step: OnStep | None = None, previews: Previews | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """A job's output as the deployment answers (`ANSWER`); else as `run`."""
        return answer_of(await self._carry_out(job, on_step, previews), self._settings.answer)

    async def run(
        self, job: Mapping[str, Any], on_step: OnStep | None = None, previews: Previews | None = None
    ) -> list[dict[str, Any]]:
        """A job's output: `[{"image": base64 or URL, "seed": n}, …]`, in order; `"nsfw": True` too in what the
        safety checker flags. Behind them, where the job wants to see its hints, `{"image": …, "control": i}`.

        Args:
            job: as the platform hands it over: `id`, `input`, sometimes `s3Config`.
            on_step: told, on the engine's thread, how far the drawing is.
            previews: shown the first image on its way, where the job asks for that.

        Raises:
            UserError: with a message for whoever sent it.
        """
        return (await self._carry_out(job, on_step, previews)).images

    async def _carry_out(
        self, job: Mapping[str, Any], on_step: OnStep | None, previews: Previews | None
    ) -> Done:
        job_id = str(job["id"])
        watch = Stopwatch()
        request = self.contract.parse(job.get("input"))
        bucket = await self._delivery.bucket_for(job.get("s3Config"))
        start = await StartPicture.fetch(request, self._limits)
        drawing = await self._drawing_of(request, start)
        second_pass = await self._second_pass_of(request, drawing, start)
        upscaler = await self._upscalers.of(request.upscale)
        size = (drawing.width, drawing.height) if second_pass is None else second_pass.size
        if upscaler is not None:
            size = self.contract.upscaled_size(request, size)
        watch.lap("read")
        async with self.models.use(request.model) as model:
            watch.lap("model")
            guard = await self._guard_of(request)
            beside = self._beside_of(model)
            loras, embeddings = await asyncio.gather(
                beside.loras.find(request.loras), beside.embeddings.find(request)
            )
            drawing = replace(drawing, loras=loras, embeddings=embeddings)
            passes = [Shown((drawing.width, drawing.height), drawing.image)]
            passes += [] if second_pass is None else [Shown(second_pass.size, second_pass.image)]
            async with beside.controls.lease(request.controls, passes) as (controls, *again):
                watch.lap("add-ons")
                drawing = replace(drawing, controls=controls)
                second_pass = second_pass and replace(second_pass, controls=again[0])
                shown = previews if request.previews else None
                images = await self._draw(drawing, second_pass, on_step, previews=shown, model=model)
        watch.lap("draw")
        if upscaler is not None:
            images = await enlarge(self.engine, images, upscaler, size)
            watch.lap("upscale")
        flagged: set[int] = set()
        if guard is not None:
            images, flagged = await guard.judge(self.engine, images)
            watch.lap("check")
        files = await self._encode(request, drawing, images)
        if request.return_control:
            files += await _encode_all(request, [(control.hint, "") for control in controls])
        watch.lap("encode")
        delivered = await self._delivery.deliver(
            files, job_id=job_id, format=request.output_format, bucket=bucket
        )
        watch.lap("deliver")
        with contextlib.suppress(EngineError):  # that it is closed: then there is nothing to be done
            self.engine.call(give_back_memory)
        log.info("job %s: %d x %dx%d, %d steps of %s; %s", job_id, len(images), *size,
                 drawing.steps, drawing.sampler, watch)  # fmt: skip
        told: list[dict[str, Any]] = [
            {"seed": seed} | ({"nsfw": True} if i in flagged else {}) for i, seed in enumerate(drawing.seeds)
        ]
        told += [{"control": number} for number in range(len(files) - len(images))]
        output = [{"image": image, **facts} for image, facts in zip(delivered, told, strict=True)]
        return Done(request, size, output, watch.seconds)

    async def _draw(
        self,
        drawing: Drawing,
        second_pass: SecondPass | None,
        on_step: OnStep | None,
        *,
        previews: Previews | None,
        model: Model,
    ) -> list[np.ndarray]:
        """The drawing's images, in one pass or two; of one without steps, the picture it starts from."""
        if drawing.steps == 0:
            assert drawing.image is not None, "nothing is drawn of nothing"
            return [drawing.image]
        if second_pass is not None:
            return await draw_twice(
                self.engine, drawing, second_pass, on_step, previews=previews, model=model
            )
        return await self.engine.draw(drawing, on_step, previews=previews, model=model)

    async def _second_pass_of(
        self, request: Request, drawing: Drawing, start: StartPicture | None
    ) -> SecondPass | None:
        if request.hires is None:
            return None
        size = self.contract.hires_size(request, (drawing.width, drawing.height))
        upscaler = await self._upscalers.of(request.hires)
        image = mask = None
        if start is not None and (request.mask or any(one.image is None for one in request.controls)):
            image, mask = await start.decode(lambda _: size)
        return SecondPass(request.hires, size, upscaler, image, mask)

    def _beside_of(self, model: Model) -> "_Beside":
        """The add-ons of a model that is held."""
        beside = self._beside.get(model)
        if beside is None:
            most_bytes = int(_ADD_ONS_SHARE * free_bytes(torch.device("cpu")))
            read_loras: Shelf[LoraWeights] = Shelf(
                partial(read_lora, directory=model.adapters.directory), most_bytes=most_bytes
            )
            read_embeddings: Shelf[Vectors] = Shelf(
                partial(read_vectors, widths=model.text_widths), most_bytes=most_bytes // 8
            )
            beside = self._beside[model] = _Beside(
                Loras(self.add_ons, read_loras),
                Embeddings(self.add_ons, read_embeddings),
                Controls(self.add_ons, self._control_nets(model), self._limits),
            )
        return beside

    def _control_nets(self, model: Model) -> ControlNets:
        budget = self._control_bytes
        if budget is None:
            budget = int(CONTROLS_SHARE * free_bytes(model.device))
        return ControlNets(model, budget_bytes=budget, channels_last=self._settings.channels_last)

    async def _drawing_of(self, request: Request, start: StartPicture | None = None) -> Drawing:
        """The request as the engine draws it, with the picture that it starts from brought to size."""
        image: np.ndarray | None = None
        mask: np.ndarray | None = None
        width, height = request.width, request.height
        if start is not None:

            def fit(size: tuple[int, int]) -> tuple[int, int]:
                if request.only_enlarges and not (request.width or request.height):
                    self.contract.upscaled_size(request, size)  # before it is read
                    return size
                return self.contract.size_for(request, size)

            image, mask = await start.decode(fit)
            height, width = image.shape[:2]
        if width is None or height is None:
            raise AssertionError("a request without a picture has its size")
        return Drawing(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=width,
            height=height,
            steps=request.num_inference_steps,
            guidance=request.guidance_scale,
            sampler=request.scheduler,
            seeds=request.seeds,
            image=image,
            mask=mask,
            strength=request.prompt_strength,
            reading=reading_of(request, most_tokens=self._most_tokens),
        )

    async def _guard_of(self, request: Request) -> SafetyGuard | None:
        if self._guards is None:
            return None
        return await self._guards.of(request.model or self.contract.served.first.name, request, self.engine)

    async def _encode(self, request: Request, drawing: Drawing, images: Sequence[np.ndarray]) -> list[bytes]:
        """The images as files, each with its own generation data."""
        size, model = (drawing.width, drawing.height), request.model or ""
        told = [parameters_text(request, seed=seed, size=size, model=model) for seed in drawing.seeds]
        return await _encode_all(request, list(zip(images, told, strict=True)))


async def _encode_all(request: Request, pictures: Sequence[tuple[np.ndarray, str]]) -> list[bytes]:
    """Pixels, each with the generation data that go into its file, as files of the job's format."""
    encode = partial(encode_image, format=request.output_format, quality=request.output_quality)
    return await asyncio.gather(
        *(asyncio.to_thread(encode, pixels, parameters=parameters) for pixels, parameters in pictures)
    )
