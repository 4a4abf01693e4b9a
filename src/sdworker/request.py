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

from sdworker.samplers import SAMPLERS, UnknownSampler, find_sampler
from sdworker.settings import Settings, SettingsError
from sdworker.wording import allowed_by, show

__all__ = ["Contract", "InputError", "OutputFormat", "Request", "aliases_of"]

OutputFormat = Literal["png", "jpeg", "webp"]

_LARGEST_SEED = 2**63 - 1
_SHORTEST, _LONGEST, _MULTIPLE = 64, 2048, 8
_V1_STRENGTH = 0.8
_MOST_UNKNOWN = 5  # of an input's unknown fields are named; a wrong document must not give a page of errors
_LONGEST_NAME = 60


class InputError(Exception):
    """A job's input is not acceptable; the message lists every problem of it."""


def _whole(value: object) -> object:
    """25.0 is a whole number: JSON has one kind of number, and some clients send all of them as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _format_name(value: object) -> object:
    """Case does not matter, and a JPEG goes by the name of its files too."""
    if not isinstance(value, str):
        return value
    return {"jpg": "jpeg"}.get(value.lower(), value.lower())


def _aliases(*names: str) -> dict[str, Any]:
    return {"aliases": list(names)}


# JSON Schema's word for a field that no new job should send; forms leave it out.
_NOT_YET: dict[str, Any] = {"deprecated": True}


# The limits stand beside `int`, where pydantic writes them into the JSON Schema of an optional field too.
_Int = Annotated[int, BeforeValidator(_whole)]
_Side = Annotated[int, Field(ge=_SHORTEST, le=_LONGEST, multiple_of=_MULTIPLE), BeforeValidator(_whole)]
_Seed = Annotated[int, Field(ge=-1, le=_LARGEST_SEED), BeforeValidator(_whole)]


class Request(BaseModel):
    """A job's input, checked, with its defaults filled in. Immutable.

    `width` and `height` stay None only where an `init_image` will say them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    prompt: str = Field(
        min_length=1, max_length=4096, description="What to draw.", json_schema_extra={"pattern": r"\S"}
    )
    negative_prompt: str = Field("", max_length=4096, description="What to keep out of the picture.")
    width: _Side | None = Field(
        None, description="Width in pixels. With an `init_image`, left out means the picture's own."
    )
    height: _Side | None = Field(
        None, description="Height in pixels. With an `init_image`, left out means the picture's own."
    )
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
    seed: _Seed | None = Field(None, description="Seed of the first image; null and -1 mean random.")
    output_format: Annotated[OutputFormat, BeforeValidator(_format_name)] = Field(
        "png", description="Format of the images."
    )
    output_quality: _Int = Field(95, ge=1, le=100, description="Quality of jpeg and webp.")
    nsfw: bool | None = Field(
        None,
        description="Accepted for worker-stable_diffusion_v1's sake; there is no safety checker yet.",
        json_schema_extra=_NOT_YET,
    )
    lora: str | None = Field(
        None,
        description="Not supported yet: leave it out.",
        json_schema_extra={"maxLength": 0, **_NOT_YET},
    )
    lora_scale: float = Field(1.0, ge=0, le=1, description="Not supported yet.", json_schema_extra=_NOT_YET)

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


def aliases_of(field: str) -> tuple[str, ...]:
    """The other names a field goes by."""
    extra: Any = Request.model_fields[field].json_schema_extra or {}
    return tuple(extra.get("aliases", ()))


_NAMES = {name: field for field in Request.model_fields for name in (field, *aliases_of(field))}
"""Every name a field goes by → the field."""

# What the types and limits of a field do not say of it.
_IN_WORDS = {
    "width": f"a multiple of {_MULTIPLE} from {_SHORTEST} to {_LONGEST}",
    "height": f"a multiple of {_MULTIPLE} from {_SHORTEST} to {_LONGEST}",
    "init_image": "a URL, a data URI or base64",
    "mask": "a URL, a data URI or base64",
    "scheduler": "the name of a sampler",
    "seed": "a whole number from 0 to 2^63-1 less num_outputs; -1 or null for a random one",
    "lora": "nothing yet",
}
_NEVER_QUOTED = {"prompt", "negative_prompt", "init_image", "mask"}


@dataclass(frozen=True)
class Contract:
    """The input contract of one deployment.

    Attributes:
        settings: its limits and defaults.
        model_size: width and height the model was trained for, in pixels.

    Raises:
        SettingsError: a job that names no size would be refused for its size.
    """

    settings: Settings
    model_size: tuple[int, int]

    def __post_init__(self) -> None:
        width, height = self.default_size
        if not self.fits(width, height):
            raise SettingsError(
                f"MAX_PIXELS: {self.settings.max_pixels} is less than the {width}x{height} of a job that names "
                "no size; raise it, or set DEFAULT_WIDTH and DEFAULT_HEIGHT"
            )

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
                f"input: {show(given, quote=False)} is not an object; allowed: an object with at least `prompt`"
            )
        named = _Named.of(given)
        request, wrong, problems = _check_fields({**self._defaults(), **named.values}, named)
        problems = [*named.problems, *problems, *self._check_together(request, named, wrong)]
        if problems:
            raise InputError("; ".join(problems))
        return self._complete(request)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of a job's `input`, with this deployment's limits and defaults.

        Everything it accepts is accepted, but for what needs two fields or a list of samplers to judge. An
        alias is a property that refers to its field's, whose `aliases` names it; null means the default.
        """
        schema = Request.model_json_schema()
        properties = {field: _or_null(part) for field, part in schema["properties"].items()}
        properties["prompt"] = schema["properties"]["prompt"]
        for field, default in self._defaults().items():
            properties[field]["default"] = default
        properties["num_outputs"]["maximum"] = self.settings.max_outputs
        width, height = self.default_size
        properties["width"]["default"], properties["height"]["default"] = width, height
        properties["scheduler"]["examples"] = list(SAMPLERS)
        references = {
            name: {"$ref": f"#/properties/{field}"} for name, field in _NAMES.items() if name != field
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "title": "Stable Diffusion job input",
            "description": "What a job may ask for. Null means the default.",
            "properties": properties | references,
        }

    def allowed(self, field: str) -> str:
        """In words, what a field accepts in this deployment."""
        if field == "num_outputs":
            return f"a whole number from 1 to {self.settings.max_outputs} (MAX_OUTPUTS)"
        if field in ("width", "height"):
            return f"{_allowed(field)}, width x height at most {self.settings.max_pixels} (MAX_PIXELS)"
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

    def _check_together(self, request: Request, named: "_Named", wrong: set[str]) -> Iterator[str]:
        """What only shows when fields are seen together or against this deployment.

        Args:
            request: what is right of the input, with defaults for what is not.
            wrong: the fields already found wrong; nothing more is said of them.
        """
        if request.num_outputs > self.settings.max_outputs:
            yield self._refuse(named, "num_outputs", request.num_outputs)
        elif request.seed is not None and request.seed > _LARGEST_SEED - request.num_outputs:
            yield self._refuse(named, "seed", request.seed)
        if request.lora:
            yield f"lora: {show(request.lora)} cannot be loaded: LoRA is not supported yet; leave it out"
        has_picture = "init_image" in named.values
        if not has_picture and "mask" in named.values:
            yield f"{named.label('mask')}: needs an init_image to repaint"
        if not has_picture and request.prompt_strength != _V1_STRENGTH:
            yield f"{named.label('prompt_strength')}: needs an init_image to start from"
        if not {"width", "height"} & wrong:
            yield from self._check_size(request, has_picture)

    def _check_size(self, request: Request, has_picture: bool) -> Iterator[str]:
        if has_picture and not (request.width and request.height):
            return  # `size_for` judges it, once the picture is there
        default_width, default_height = self.default_size
        width, height = request.width or default_width, request.height or default_height
        if not self.fits(width, height):
            yield (
                f"width, height: {width}x{height} is {width * height} pixels; allowed: at most "
                f"{self.settings.max_pixels} (MAX_PIXELS)"
            )

    def _refuse(self, named: "_Named", field: str, value: object) -> str:
        return f"{named.label(field)}: {show(value)} is out of range; allowed: {self.allowed(field)}"

    def _complete(self, request: Request) -> Request:
        update: dict[str, Any] = {}
        if request.seed in (None, -1):
            update["seed"] = secrets.randbelow(2**32)
        if request.init_image is None:
            width, height = self.default_size
            update |= {"width": request.width or width, "height": request.height or height}
        return request.model_copy(update=update)


def _join_noise_levels(given: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """AUTOMATIC1111's web UI, since 1.9, says `sampler_name: DPM++ 2M` and `scheduler: Karras` apart."""
    name, levels = given.get("sampler_name"), given.get("scheduler")
    if not (isinstance(name, str) and isinstance(levels, str)):
        return given
    if levels.lower() not in ("automatic", "karras", "exponential"):
        return given
    joined = name if levels.lower() == "automatic" else f"{name} {levels}"
    return {**given, "sampler_name": joined, "scheduler": None}


@dataclass(frozen=True)
class _Named:
    """An input by field: aliases resolved, nulls left out (they mean the default).

    Attributes:
        values: field → its value.
        written: field → the name it was given by.
        problems: with names: unknown fields, and fields given twice.
    """

    values: dict[str, Any]
    written: dict[str, str]
    problems: list[str]

    @classmethod
    def of(cls, given: Mapping[Any, Any]) -> "_Named":
        given = _join_noise_levels(given)
        named = cls({}, {}, [])
        unknown = [key for key in given if key not in _NAMES]
        named.problems.extend(_unknown(key) for key in unknown[:_MOST_UNKNOWN])
        if len(unknown) > _MOST_UNKNOWN:
            named.problems.append(f"and {len(unknown) - _MOST_UNKNOWN} more that are no fields")
        for key, value in given.items():
            if key in _NAMES and value is not None:
                named._add(key, _NAMES[key], value)
        if named.values.get("lora") == "":
            del named.values["lora"]
        return named

    def label(self, field: str) -> str:
        """How an error names a field: as it was written, with the field's own name where that is another."""
        name = self.written.get(field, field)
        return field if name == field else f"{name} ({field})"

    def _add(self, name: str, field: str, value: object) -> None:
        if field in self.values and not _same(self.values[field], value):
            self.problems.append(
                f"{field}: is given twice, as {self.written[field]} and as {name}, with different values"
            )
        else:
            self.values[field], self.written[field] = value, name


def _same(one: object, other: object) -> bool:
    """Whether two plain values are equal. Lists and objects never are: no field takes one."""
    plain = isinstance(one, (str, int, float)) and isinstance(other, (str, int, float))
    return plain and isinstance(one, bool) is isinstance(other, bool) and one == other


def _unknown(key: object) -> str:
    name = key[:_LONGEST_NAME].lower() if isinstance(key, str) else ""
    nearest = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)
    return f"{show(key)}: there is no such field; the nearest is {nearest[0]}"


def _check_fields(values: dict[str, Any], named: _Named) -> tuple[Request, set[str], list[str]]:
    """Check field by field: a request of what is right, the names that are wrong, and the problems."""
    try:
        return Request.model_validate(values), set(), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    wrong = {str(problem["loc"][0]) for problem in found}
    right = {field: value for field, value in values.items() if field not in wrong}
    return Request.model_validate({"prompt": "-", **right}), wrong, [_describe(p, named) for p in found]


def _describe(problem: Mapping[str, Any], named: _Named) -> str:
    """One of pydantic's problems as a user should read it."""
    field, value = str(problem["loc"][0]), problem["input"]
    label, given = named.label(field), show(value, quote=field not in _NEVER_QUOTED)
    match problem["type"]:
        case "missing":
            return f"{label}: is missing; allowed: {_allowed(field)}"
        case "value_error":
            return f"{label}: {given} {problem['msg'].removeprefix('Value error, ')}"
        case "string_unicode":
            return f"{label}: {given} is not valid Unicode: it holds half of a surrogate pair"
        case "int_type" | "float_type" | "bool_type" if isinstance(value, str):
            return f"{label}: {given} is not allowed; allowed, without quotes: {_allowed(field)}"
    return f"{label}: {given} is not allowed; allowed: {_allowed(field)}"


def _allowed(field: str) -> str:
    return _IN_WORDS.get(field) or allowed_by(Request.model_fields[field])


def _or_null(part: Mapping[str, Any]) -> dict[str, Any]:
    """A property's JSON Schema that takes null too, in one level, which forms and tables read best."""
    value: dict[str, Any] = next((kind for kind in part.get("anyOf", ()) if kind["type"] != "null"), {})
    flat = {key: word for key, word in part.items() if key != "anyOf"} | value
    flat["type"] = [flat["type"], "null"]
    if "enum" in flat:
        flat["enum"] = [*flat["enum"], None]
    return flat


def _to_multiple(pixels: float) -> int:
    return int(pixels + 1e-6) // _MULTIPLE * _MULTIPLE
