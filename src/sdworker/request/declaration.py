"""`Request`: what a job may ask for. Its fields are the contract; all else about a field is derived from here."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from sdworker.image_formats import EXTENSIONS, ImageFormat
from sdworker.reading import MOST_SKIPPED, Emphasis, PromptSyntax
from sdworker.request.controls import Control
from sdworker.request.marks import (
    OUTDATED,
    AddOnName,
    Also,
    AtMost,
    DefaultFrom,
    EmptyIsNull,
    Int,
    InWords,
    Many,
    Part,
    Private,
    also_called,
    whole,
)
from sdworker.samplers import (
    PAIRS,
    SAMPLERS,
    SCHEDULES,
    UnknownSampler,
    UnknownSchedule,
    find_sampler,
    find_schedule,
)
from sdworker.settings import Resize

__all__ = [
    "ENLARGED_BY",
    "LARGEST_SCALE",
    "LARGEST_SEED",
    "LONGEST",
    "MULTIPLE",
    "PICTURE",
    "SHORTEST",
    "Hires",
    "Lora",
    "Request",
    "Resize",
    "Upscale",
    "aliases_of",
]

# What enlarges for a second pass without a network, by the names that docs/larger-pictures.md explains.
ENLARGED_BY = (
    "latent",
    "latent (antialiased)",
    "latent (bicubic)",
    "latent (bicubic antialiased)",
    "latent (nearest)",
    "latent (nearest-exact)",
    "lanczos",
    "nearest",
)
LARGEST_SCALE = 10.0  # of a LoRA
LARGEST_SEED = 2**63 - 1
SHORTEST, LONGEST, MULTIPLE = 64, 2048, 8  # of an image's sides, in pixels


def _format_name(value: object) -> object:
    """Case does not matter, and a JPEG goes by the name of its files too."""
    if not isinstance(value, str):
        return value
    by_file = {extension: format for format, extension in EXTENSIONS.items()}
    return by_file.get(value.lower(), value.lower())


_Side = Annotated[int, Field(ge=SHORTEST, le=LONGEST, multiple_of=MULTIPLE), BeforeValidator(whole)]
_Seed = Annotated[int, Field(ge=-1, le=LARGEST_SEED), BeforeValidator(whole)]
_SIDE = InWords(f"a multiple of {MULTIPLE} from {SHORTEST} to {LONGEST}")
_PICTURE = InWords("a URL, a data URI or base64")
PICTURE: dict[str, Any] = {"contentMediaType": "image/*"}
"""`json_schema_extra` of a field whose text is a picture: forms take files for it."""


class Hires(Part):
    """A second pass in a larger size. What is left out is the job's own."""

    scale: float = Field(
        2.0, title="Times as large", gt=1, le=4, description="Times the size of the first pass."
    )
    width: Annotated[_Side | None, _SIDE] = Field(
        None, title="Width", description="In pixels, instead of `scale`; the height follows."
    )
    height: Annotated[_Side | None, _SIDE] = Field(
        None, title="Height", description="In pixels, instead of `scale`; the width follows."
    )
    steps: Int = Field(
        0,
        title="Steps",
        ge=0,
        le=500,
        description="Sampling steps of the second pass, of which `strength` are run; 0: the job's own.",
    )
    strength: Annotated[float, Also("denoising_strength")] = Field(
        0.6, title="Strength", gt=0, le=1, description="How much of the enlarged picture may change."
    )
    upscaler: Annotated[str, AddOnName("upscalers", beside=ENLARGED_BY)] = Field(
        "latent",
        title="Enlarged by",
        min_length=1,
        max_length=200,
        description="`latent` and its kin (docs/larger-pictures.md), `lanczos`, `nearest`, or an upscaler's name.",
    )


class Upscale(Part):
    """What is done to the finished images."""

    model: Annotated[str, AddOnName("upscalers")] = Field(
        title="Upscaler",
        min_length=1,
        max_length=2048,
        description="Its name (docs/larger-pictures.md).",
    )
    scale: float = Field(2.0, title="Times as large", gt=1, le=8, description="Times the size.")


Sha256 = Annotated[
    str | None,
    InWords("64 hexadecimal digits"),
    Private(),
    Field(title="SHA-256", pattern=r"^[0-9a-fA-F]{64}$", description="What a fetched file must hash to."),
]


class Lora(Part):
    """A LoRA that a job asks for."""

    name: Annotated[str, AddOnName("loras"), Private()] = Field(
        title="LoRA",
        min_length=1,
        max_length=2048,
        description="A file of the deployment's folders; where it allows the host, a URL, the hub's "
        "`owner/name[:file][@revision]` or `civitai:VERSION_ID` (docs/addons.md).",
    )
    scale: float = Field(
        1.0, title="Scale", ge=-LARGEST_SCALE, le=LARGEST_SCALE, description="How strongly; 1 is as trained."
    )
    text_scale: float | None = Field(
        None,
        title="Text scale",
        ge=-LARGEST_SCALE,
        le=LARGEST_SCALE,
        description="How strongly it changes the text encoder; left out: as `scale`.",
    )
    sha256: Sha256 = None

    @property
    def strength_of_text(self) -> float:
        return self.scale if self.text_scale is None else self.text_scale


class EmbeddingSource(Part):
    """An embedding (textual inversion) that a job brings."""

    name: str = Field(
        title="Name", min_length=1, max_length=100, description="What stands for it in the prompts."
    )
    source: Annotated[str, AddOnName("embeddings"), Private()] = Field(
        title="Source",
        min_length=1,
        max_length=2048,
        description="A file of the deployment's folders; where it allows the host, a URL, the hub's "
        "`owner/name[:file][@revision]` or `civitai:VERSION_ID`.",
    )
    sha256: Sha256 = None


class Request(Part):
    """A job's input, checked, with its defaults filled in. Immutable.

    `width` and `height` stay None only where an `init_image` will say them. `scheduler` is the canonical name of
    a sampler with its schedule (`sdworker.samplers.PAIRS`), `schedule` the schedule in it.
    """

    STAND_INS: ClassVar[dict[str, Any]] = {"prompt": "-"}
    """For required fields, while others are checked."""

    prompt: Annotated[str, Private()] = Field(
        title="Prompt",
        min_length=1,
        max_length=4096,
        description="What to draw.",
        json_schema_extra={"pattern": r"\S"},
    )
    model: Annotated[
        str | None, Also("model_id", "model_name"), EmptyIsNull(), InWords("the name of a model")
    ] = Field(
        None,
        title="Model",
        min_length=1,
        max_length=200,
        description="Which of the worker's models draws; left out: the first.",
    )
    negative_prompt: Annotated[str, Private()] = Field(
        "", title="Negative prompt", max_length=4096, description="What to keep out of the picture."
    )
    prompt_syntax: Annotated[PromptSyntax, DefaultFrom("default_prompt_syntax")] = Field(
        "weights",
        title="Prompt syntax",
        description="`weights`: prompts are read as AUTOMATIC1111's web UI reads them: `(x:1.3)`, `[a:b:0.5]`, "
        "`[a|b]`, `AND`, `BREAK` (docs/prompts.md). `plain`: every character is text.",
    )
    emphasis: Annotated[Emphasis, DefaultFrom("default_emphasis")] = Field(
        "original",
        title="Emphasis",
        description="What weights in prompts do: `original` keeps the mean of a text's embedding, `no_norm` does "
        "not.",
    )
    clip_skip: Annotated[Int, DefaultFrom("default_clip_skip")] = Field(
        0,
        title="Clip skip",
        ge=0,
        le=MOST_SKIPPED,
        description="Layers of the text encoder left out at its end; one less than the web UI's "
        "`CLIP_stop_at_last_layers`.",
    )
    width: Annotated[_Side | None, _SIDE] = Field(
        None,
        title="Width",
        description="Width in pixels. With an `init_image`, left out means the picture's own.",
    )
    height: Annotated[_Side | None, _SIDE] = Field(
        None,
        title="Height",
        description="Height in pixels. With an `init_image`, left out means the picture's own.",
    )
    init_image: Annotated[str | None, Also("image", "image_url"), EmptyIsNull(), _PICTURE, Private()] = Field(
        None,
        title="Start from a picture",
        min_length=1,
        description="A picture to start from: URL, data URI or base64. Sets the size when none is given.",
        json_schema_extra=PICTURE,
    )
    mask: Annotated[str | None, Also("mask_image"), EmptyIsNull(), _PICTURE, Private()] = Field(
        None,
        title="Mask",
        min_length=1,
        description="Where `init_image` is repainted: white is, black stays. URL, data URI or base64.",
        json_schema_extra=PICTURE,
    )
    resize: Annotated[Resize, DefaultFrom("default_resize")] = Field(
        "stretch",
        title="Resize",
        description="How `init_image` and `mask` come to `width` x `height`: `stretch` them, `crop` what is too "
        "much, `fill` what is missing with the edge's colours, or `keep` the picture's own size whatever the job "
        "says, as worker-stable_diffusion_v1 does.",
    )
    prompt_strength: Annotated[
        float, Also("strength", "denoising_strength"), DefaultFrom("default_strength")
    ] = Field(
        0.8,
        title="Strength",
        ge=0,
        le=1,
        description="How much of `init_image` may change; nothing without one.",
    )
    num_outputs: Annotated[Int, Also("num_images", "batch_size"), AtMost("max_outputs")] = Field(
        1, title="Pictures", ge=1, description="How many images; image i is drawn with `seed` + i."
    )
    num_inference_steps: Annotated[Int, Also("steps"), DefaultFrom("default_steps")] = Field(
        25,
        title="Steps",
        ge=0,
        le=500,
        description="Sampling steps: more take longer and refine; 0, with `upscale`, draws nothing.",
    )
    guidance_scale: Annotated[float, Also("cfg_scale"), DefaultFrom("default_guidance")] = Field(
        7.5,
        title="Guidance",
        ge=0,
        le=30,
        description="How closely to follow the prompt; at 1 and below it runs without guidance, twice as fast.",
    )
    scheduler: Annotated[
        str,
        Also("sampler", "sampler_name"),
        DefaultFrom("default_scheduler"),
        InWords("the name of a sampler"),
    ] = Field(
        "DPM++ 2M Karras",
        title="Sampler",
        description="The sampler, by its own name (docs/parameters.md), its diffusers class's, or that of "
        "worker-stable_diffusion_v1 or AUTOMATIC1111. Case and punctuation do not matter.",
        examples=list(SAMPLERS),
    )
    schedule: Annotated[str | None, InWords(f"automatic or a schedule: {', '.join(SCHEDULES)}")] = Field(
        None,
        title="Schedule",
        description="The noise levels the sampler steps through, by AUTOMATIC1111's names of schedule types. "
        "`automatic` is what goes with the sampler there; left out: what the sampler's name says, else the "
        "model's own levels.",
        examples=["automatic", *SCHEDULES],
    )
    seed: Annotated[
        _Seed | None,
        InWords("a whole number from 0 to 2^63-1 less num_outputs; -1 or null for a random one"),
    ] = Field(None, title="Seed", description="Seed of the first image; null and -1 mean random.")
    hires: Hires | None = Field(
        None,
        title="Hires",
        description="Draw small, enlarge, and draw again at the larger size, with the same seeds.",
    )
    upscale: Upscale | None = Field(
        None,
        title="Upscale",
        description="Enlarge the finished images. With `num_inference_steps: 0` and an `init_image`, nothing else "
        "is done, and no prompt is needed.",
    )
    output_format: Annotated[ImageFormat, BeforeValidator(_format_name)] = Field(
        "png", title="Format", description="Format of the images."
    )
    output_quality: Int = Field(95, title="Quality", ge=1, le=100, description="Quality of jpeg and webp.")
    embeddings: Annotated[Many[EmbeddingSource], Private()] = Field(
        (),
        title="Other embeddings",
        max_length=16,
        description="Embeddings from elsewhere; those of the deployment's folders need only be named in a prompt.",
    )
    loras: Annotated[Many[Lora], AtMost("max_loras"), Private()] = Field(
        (),
        title="LoRAs",
        description="What changes the model for this job; those of `<lora:name:0.8>` tags in the prompt come on "
        "top, and all of them add up.",
    )
    controls: Annotated[Many[Control], AtMost("max_controls"), Private()] = Field(
        (),
        title="ControlNets",
        max_length=16,
        description="What the drawing follows beside the prompt; several add up (docs/controlnet.md).",
    )
    return_control: bool = Field(
        False,
        title="Return the hints",
        description="Returns what the ControlNets were shown as well, behind the images: "
        '`{"image": …, "control": 0}` for each of `controls`.',
    )
    previews: Annotated[bool, DefaultFrom("previews")] = Field(
        False,
        title="Previews",
        description="Shows the first image on its way: progress updates carry a small JPEG as `preview`.",
    )
    nsfw: Annotated[bool, Also("disable_safety_checker")] = Field(
        False,
        title="Lift the safety check",
        description="True lifts the safety checker, where the deployment allows it (`NSFW_OVERRIDE`); elsewhere "
        "it does nothing.",
    )
    lora: Annotated[str | None, EmptyIsNull(), Private()] = Field(
        None,
        max_length=2048,
        description="One more of `loras`, by worker-stable_diffusion_v1's name.",
        json_schema_extra=OUTDATED,
    )
    lora_scale: float = Field(
        1.0,
        ge=-LARGEST_SCALE,
        le=LARGEST_SCALE,
        description="The scale of `lora`.",
        json_schema_extra=OUTDATED,
    )

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("is blank")
        return prompt

    @field_validator("scheduler")
    @classmethod
    def _sampler(cls, name: str) -> str:
        try:
            return find_sampler(name).name
        except UnknownSampler as error:
            raise ValueError(str(error)) from error

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, name: str | None) -> str | None:
        try:
            return None if name is None else find_schedule(name)
        except UnknownSchedule as error:
            raise ValueError(str(error)) from error

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each image."""
        assert self.seed is not None, "a parsed request has its seed"
        return tuple(self.seed + i for i in range(self.num_outputs))

    @property
    def only_enlarges(self) -> bool:
        """Nothing is drawn."""
        return self.num_inference_steps == 0

    @property
    def method(self) -> str:
        """The sampler's name without its schedule."""
        return PAIRS[self.scheduler].method


def aliases_of(field: str) -> tuple[str, ...]:
    """The other names a field goes by."""
    return also_called(Request.model_fields[field])
