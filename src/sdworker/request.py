"""The input contract: what a job may ask for, declared once.

`Request`'s fields are the declaration; validation, the JSON Schema, the table in the documentation and the
playground's form all come from it. What depends on the deployment (its limits and defaults) is in `Contract`.
Every problem of an input is reported at once, in one string: field, what was given, what is allowed.
"""

import difflib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from sdworker.engine.samplers import SAMPLERS, UnknownSampler, find_sampler
from sdworker.settings import Settings
from sdworker.wording import allowed_by, show

__all__ = ["Contract", "InputError", "OutputFormat", "Request"]

OutputFormat = Literal["png", "jpeg", "webp"]

_LARGEST_SEED = 2**63 - 1
_SHORTEST, _LONGEST, _MULTIPLE = 64, 2048, 8
_V1_STRENGTH = 0.8


class InputError(Exception):
    """A job's input is not acceptable; the message lists every problem of it."""


def _whole(value: object) -> object:
    """25.0 is a whole number: JSON has one kind of number, and some clients send all of them as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _aliases(*names: str) -> dict[str, Any]:
    return {"aliases": list(names)}


_Int = Annotated[int, BeforeValidator(_whole)]
_Side = Annotated[_Int, Field(ge=_SHORTEST, le=_LONGEST, multiple_of=_MULTIPLE)]


class Request(BaseModel):
    """A job's input, checked, with its defaults filled in. Immutable.

    `width` and `height` stay None only where an `init_image` will say them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    prompt: str = Field(min_length=1, max_length=4096, description="What to draw.")
    negative_prompt: str = Field("", max_length=4096, description="What to keep out of the picture.")
    width: _Side | None = Field(None, description="Width in pixels.")
    height: _Side | None = Field(None, description="Height in pixels.")
    init_image: str | None = Field(
        None,
        min_length=1,
        description="A picture to start from: URL, data URI or base64. Sets the size when none is given.",
        json_schema_extra=_aliases("image", "image_url"),
    )
    mask: str | None = Field(
        None,
        min_length=1,
        description="Where `init_image` is repainted: white is, black stays. URL, data URI or base64.",
        json_schema_extra=_aliases("mask_image"),
    )
    prompt_strength: float = Field(
        _V1_STRENGTH,
        gt=0,
        le=1,
        description="How much of `init_image` may change.",
        json_schema_extra=_aliases("strength", "denoising_strength"),
    )
    num_outputs: _Int = Field(
        1,
        ge=1,
        description="How many images; image i is drawn with `seed` + i.",
        json_schema_extra=_aliases("num_images", "batch_size"),
    )
    num_inference_steps: _Int = Field(
        25, ge=1, le=500, description="Sampling steps.", json_schema_extra=_aliases("steps")
    )
    guidance_scale: float = Field(
        7.5,
        ge=0,
        le=30,
        description="How closely to follow the prompt; at 1 and below it runs without guidance, twice as fast.",
        json_schema_extra=_aliases("cfg_scale"),
    )
    scheduler: str = Field(
        "DPM++ 2M Karras",
        description="The sampler: a name of the list below, a diffusers class name, or a name of "
        "worker-stable_diffusion_v1 or AUTOMATIC1111. Case and punctuation do not matter.",
        json_schema_extra=_aliases("sampler", "sampler_name"),
    )
    seed: _Int | None = Field(
        None, ge=-1, le=_LARGEST_SEED, description="Seed of the first image; null and -1 mean random."
    )
    output_format: Annotated[OutputFormat, BeforeValidator(_lower)] = Field(
        "png", description="Format of the images."
    )
    output_quality: _Int = Field(95, ge=1, le=100, description="Quality of jpeg and webp.")
    nsfw: bool | None = Field(
        None, description="Accepted for worker-stable_diffusion_v1's sake; there is no safety checker yet."
    )
    lora: str | None = Field(None, description="Not supported yet: leave it out.")
    lora_scale: float = Field(1.0, ge=0, le=1, description="Not supported yet.")

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("is blank")
        return prompt

    @field_validator("scheduler")
    @classmethod
    def _canonical(cls, name: str) -> str:
        try:
            return find_sampler(name).name
        except UnknownSampler as error:
            raise ValueError(str(error)) from error

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each image."""
        assert self.seed is not None, "a parsed request has its seed"
        return tuple(self.seed + i for i in range(self.num_outputs))


_NAMES: dict[str, str] = {
    name: field
    for field, info in Request.model_fields.items()
    for name in (field, *((info.json_schema_extra or {}).get("aliases", ())))  # type: ignore[union-attr, misc]
}
"""Every name a field goes by → the field."""


@dataclass(frozen=True)
class Contract:
    """The input contract of one deployment.

    Attributes:
        settings: its limits and defaults.
        model_size: width and height the model was trained for, in pixels.
    """

    settings: Settings
    model_size: tuple[int, int]

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height of an image when a job names neither and brings no picture."""
        width, height = self.model_size
        return self.settings.default_width or width, self.settings.default_height or height

    def parse(self, given: object) -> Request:
        """The request a job's `input` makes.

        Raises:
            InputError: listing every problem.
        """
        if not isinstance(given, Mapping):
            raise InputError(
                f"input: {show(given)} is not an object; allowed: an object with at least `prompt`"
            )
        named, problems = _by_field(given)
        request, wrong, more = _check_fields({**self._defaults(), **named})
        problems += more
        problems += self._check_together(request, named.keys() - wrong)
        if problems:
            raise InputError("; ".join(problems))
        return self._complete(request)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a job's `input`, with this deployment's limits and defaults."""
        schema = Request.model_json_schema()
        properties = schema["properties"]
        for field, default in self._defaults().items():
            properties[field]["default"] = default
        properties["num_outputs"]["maximum"] = self.settings.max_outputs
        width, height = self.default_size
        properties["width"]["default"], properties["height"]["default"] = width, height
        properties["scheduler"]["examples"] = list(SAMPLERS)
        schema["title"] = "Stable Diffusion job input"
        return schema

    def allowed(self, field: str) -> str:
        """In words, what a field accepts in this deployment."""
        if field == "num_outputs":
            return f"a whole number from 1 to {self.settings.max_outputs}"
        if field in ("width", "height"):
            return f"{_allowed(field)}, width x height at most {self.settings.max_pixels}"
        return _allowed(field)

    def size_for(self, request: Request, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the images of a request that starts from a picture of that size.

        What the request names counts; what it leaves open follows the picture's shape, rounded down to
        multiples of 8 as diffusers does. A picture larger than this deployment draws is brought down to fit.

        Raises:
            InputError: no size that may be drawn has the picture's shape.
        """
        given_width, given_height = picture
        scale = 1.0
        if request.width and request.height:
            return request.width, request.height
        if request.width or request.height:
            scale = request.width / given_width if request.width else (request.height or 0) / given_height
        elif not self.fits(*picture):
            scale = (self.settings.max_pixels / (given_width * given_height)) ** 0.5
        if not (request.width or request.height):
            scale = min(max(scale, _SHORTEST / min(picture)), _LONGEST / max(picture))
        width = request.width or _to_multiple(given_width * scale)
        height = request.height or _to_multiple(given_height * scale)
        if min(width, height) < _SHORTEST or max(width, height) > _LONGEST or not self.fits(width, height):
            raise InputError(
                f"init_image: its {given_width}x{given_height} pixels would give an image of {width}x{height}; "
                f"allowed: {self.allowed('width')}; set width and height"
            )
        return width, height

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of that size may be drawn."""
        return width * height <= self.settings.max_pixels

    def _defaults(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "num_inference_steps": settings.default_steps,
            "guidance_scale": settings.default_guidance,
            "scheduler": settings.default_scheduler,
        }

    def _check_together(self, request: Request, given: set[str]) -> Iterator[str]:
        """What only shows when fields are seen together or against this deployment. `given`: valid ones."""
        if request.num_outputs > self.settings.max_outputs:
            yield self._refuse("num_outputs", request.num_outputs)
        if request.seed is not None and request.seed > _LARGEST_SEED - request.num_outputs:
            yield self._refuse("seed", request.seed)
        if request.lora:
            yield f"lora: {show(request.lora)} cannot be loaded: LoRA is not supported yet; leave it out"
        if request.init_image is None:
            yield from self._check_without_picture(request, given)
        elif request.width and request.height and not self.fits(request.width, request.height):
            yield self._too_large(request.width, request.height)

    def _check_without_picture(self, request: Request, given: set[str]) -> Iterator[str]:
        if "mask" in given:
            yield "mask: needs an init_image to repaint"
        if "prompt_strength" in given and request.prompt_strength != _V1_STRENGTH:
            yield "prompt_strength: needs an init_image to start from"
        default_width, default_height = self.default_size
        width, height = request.width or default_width, request.height or default_height
        if not self.fits(width, height):
            yield self._too_large(width, height)

    def _too_large(self, width: int, height: int) -> str:
        return (
            f"width, height: {width}x{height} is {width * height} pixels; allowed: at most "
            f"{self.settings.max_pixels} (MAX_PIXELS)"
        )

    def _refuse(self, field: str, value: object) -> str:
        return f"{field}: {show(value)} is out of range; allowed: {self.allowed(field)}"

    def _complete(self, request: Request) -> Request:
        update: dict[str, Any] = {}
        if request.seed in (None, -1):
            update["seed"] = secrets.randbelow(2**32)
        if request.init_image is None:
            width, height = self.default_size
            update |= {"width": request.width or width, "height": request.height or height}
        return request.model_copy(update=update)


def _by_field(given: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The input by field name: aliases resolved, nulls left out (they mean the default); and its problems."""
    named: dict[str, Any] = {}
    problems = []
    for key, value in given.items():
        field = _NAMES.get(key)
        if field is None:
            problems.append(_unknown(key))
        elif field in named and named[field] != value:
            problems.append(f"{key}: {field} is given twice, under different names and with different values")
        elif value is not None:
            named[field] = value
    if named.get("lora") == "":
        del named["lora"]
    return named, problems


def _unknown(key: object) -> str:
    nearest = difflib.get_close_matches(str(key).lower(), _NAMES, n=1, cutoff=0.0)
    return f"{show(key)}: there is no such field; the nearest is {nearest[0]}"


def _check_fields(named: dict[str, Any]) -> tuple[Request, set[str], list[str]]:
    """Check field by field: a request of what is right, the names that are wrong, and the problems."""
    try:
        return Request.model_validate(named), set(), []
    except ValidationError as error:
        found = error.errors()
    wrong = {str(problem["loc"][0]) for problem in found}
    right = {field: value for field, value in named.items() if field not in wrong}
    return Request.model_validate({"prompt": "-", **right}), wrong, [_describe(p) for p in found]


def _describe(problem: Mapping[str, Any]) -> str:
    """One of pydantic's problems as a user should read it."""
    field, given = str(problem["loc"][0]), show(problem["input"])
    if problem["type"] == "missing":
        return f"{field}: is missing; allowed: {_allowed(field)}"
    if problem["type"] == "value_error":
        return f"{field}: {given} {problem['msg'].removeprefix('Value error, ')}"
    return f"{field}: {given} is not allowed; allowed: {_allowed(field)}"


def _allowed(field: str) -> str:
    if field == "seed":
        return "a whole number from 0 to 2^63-1 less num_outputs; -1 or null for a random one"
    if field in ("width", "height"):
        return f"a multiple of {_MULTIPLE} from {_SHORTEST} to {_LONGEST}"
    return allowed_by(Request.model_fields[field])


def _to_multiple(pixels: float) -> int:
    return int(pixels + 1e-6) // _MULTIPLE * _MULTIPLE
