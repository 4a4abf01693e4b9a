"""What only shows when fields are seen together, or against the deployment.

Each check is a function in `CHECKS`; it sees the request as far as it is right, and says what is wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sdworker.request.declaration import LARGEST_SEED, Request
from sdworker.request.loras import asked_loras
from sdworker.request.marks import AtMost, marked
from sdworker.request.models import ServedModels
from sdworker.request.names import Named
from sdworker.request.problems import InputError, allowed
from sdworker.request.sizes import Sizes
from sdworker.samplers import PAIRS, Sampler, UnknownSchedule, with_schedule
from sdworker.settings import Settings
from sdworker.wording import allowed_by, show

__all__ = ["CHECKS", "Seen", "sampler_of", "within"]


@dataclass(frozen=True)
class Seen:
    """An input in front of the checks.

    Attributes:
        request: what is right of the input, with defaults for what is not.
        wrong: the fields already found wrong; nothing more is said of them.
    """

    request: Request
    named: Named
    wrong: set[str]
    settings: Settings
    sizes: Sizes
    models: ServedModels

    def given(self, field: str) -> bool:
        return field in self.named.values

    @property
    def size_follows_the_picture(self) -> bool:
        request = self.request
        return self.given("init_image") and (
            request.resize == "keep" or not (request.width and request.height)
        )


def within(field: str, settings: Settings) -> str:
    """In words, what a field that a setting limits accepts."""
    setting = marked(Request, AtMost)[field].setting
    words = allowed_by(Request.model_fields[field], at_most=getattr(settings, setting))
    return f"{words} ({setting.upper()})"


def sampler_of(request: Request, named: Named, settings: Settings) -> Sampler:
    """The sampler on its schedule.

    A schedule that is named alone goes with the deployment's sampler, whatever schedule that has itself.

    Raises:
        UnknownSchedule: the two do not go together.
    """
    sampler = PAIRS[request.scheduler]
    if request.schedule is not None:
        if "scheduler" not in named.values:
            sampler = PAIRS[sampler.method]
        return with_schedule(sampler, request.schedule)
    if sampler.schedule is None and settings.default_schedule is not None:
        try:
            return with_schedule(sampler, settings.default_schedule)
        except UnknownSchedule:
            pass  # the job asked for the sampler, not for the schedule
    return sampler


def _limits(seen: Seen) -> Iterator[str]:
    """Fields whose largest value, or longest list, is a setting."""
    for field, limit in marked(Request, AtMost).items():
        value = getattr(seen.request, field)
        size = len(value) if isinstance(value, tuple) else value
        if size > getattr(seen.settings, limit.setting):
            given = f"a list of {size}" if isinstance(value, tuple) else show(value)
            yield f"{seen.named.label(field)}: {given} is out of range; allowed: {within(field, seen.settings)}"


def _last_seed(seen: Seen) -> Iterator[str]:
    request = seen.request
    if (
        request.num_outputs <= seen.settings.max_outputs
        and (request.seed or 0) > LARGEST_SEED - request.num_outputs
    ):
        yield (
            f"{seen.named.label('seed')}: {show(request.seed)} is out of range; allowed: "
            f"{allowed(Request.model_fields['seed'])}"
        )


def _model(seen: Seen) -> Iterator[str]:
    name = seen.request.model
    if name is not None and "model" not in seen.wrong and seen.models.find(name) is None:
        yield seen.models.problem(seen.named.label("model"), name)


def _mask(seen: Seen) -> Iterator[str]:
    if seen.given("mask") and not seen.given("init_image"):
        yield f"{seen.named.label('mask')}: needs an init_image to repaint"


def _loras(seen: Seen) -> Iterator[str]:
    """All together, in whatever way they are asked for."""
    if {"prompt", "loras", "lora"} & seen.wrong:
        return
    asked, most = asked_loras(seen.request), seen.settings.max_loras
    yield from asked.problems
    if len(asked.loras) > most >= len(seen.request.loras):
        yield f"loras: {len(asked.loras)} with those of the prompt; allowed: {within('loras', seen.settings)}"


def _controls(seen: Seen) -> Iterator[str]:
    """What each control's fields say together, and whether it has a picture."""
    for number, control in enumerate(seen.request.controls):
        label = partial(seen.named.label, "controls", number)
        if control.start >= control.end:
            yield (
                f"{label('start')}, {label('end')}: {control.start:g} to {control.end:g} is no part of the steps; "
                "allowed: start below end"
            )
        low, high = control.thresholds
        if control.preprocessor == "canny" and low > high:
            yield f"{label('low_threshold')}: {low} is above the high threshold, {high}"
        if control.image is None and not seen.given("init_image"):
            yield f"{label('image')}: is missing; allowed: a URL, a data URI or base64, or an init_image instead"
    if seen.request.return_control and not seen.given("controls"):
        yield f"{seen.named.label('return_control')}: needs controls to return"


def _sampler(seen: Seen) -> Iterator[str]:
    try:
        if not {"scheduler", "schedule"} & seen.wrong:
            sampler_of(seen.request, seen.named, seen.settings)
    except UnknownSchedule as error:
        yield f"{seen.named.label('schedule')}: {show(seen.request.schedule)} {error}"


def _area(seen: Seen) -> Iterator[str]:
    if {"width", "height"} & seen.wrong or seen.size_follows_the_picture:
        return  # the picture's size is judged once the picture is there
    default_width, default_height = seen.sizes.default
    width, height = seen.request.width or default_width, seen.request.height or default_height
    if not seen.sizes.fits(width, height):
        yield (
            f"width, height: {width}x{height} is {width * height} pixels; allowed: at most "
            f"{seen.sizes.most_pixels} (MAX_PIXELS)"
        )


def _larger(seen: Seen) -> Iterator[str]:
    """What is drawn again or enlarged, judged before anything is drawn."""
    request = seen.request
    if {"width", "height", "hires", "upscale"} & seen.wrong or seen.size_follows_the_picture:
        return  # judged once the picture is there
    default_width, default_height = seen.sizes.default
    size = request.width or default_width, request.height or default_height
    try:
        if request.hires is not None:
            size = seen.sizes.of_hires(request.hires, size)
        if request.upscale is not None:
            seen.sizes.of_upscale(request.upscale, size)
    except InputError as error:
        yield str(error)


def _only_enlarged(seen: Seen) -> Iterator[str]:
    request = seen.request
    if not request.only_enlarges or "num_inference_steps" in seen.wrong:
        return
    label = seen.named.label("num_inference_steps")
    if not seen.given("init_image") or not seen.given("upscale"):
        yield (
            f"{label}: 0 is not allowed; allowed: a whole number from 1 to 500, or 0 with an init_image and an "
            "upscale"
        )
        return
    for field in ("hires", "mask"):
        if seen.given(field):
            yield f"{seen.named.label(field)}: cannot be had where {label} is 0, which draws nothing"
    if request.num_outputs > 1:
        yield f"{seen.named.label('num_outputs')}: one picture is enlarged to one; allowed: 1"


CHECKS: tuple[Callable[[Seen], Iterator[str]], ...] = (
    _model,
    _limits,
    _last_seed,
    _loras,
    _mask,
    _controls,
    _sampler,
    _area,
    _larger,
    _only_enlarged,
)
