"""Every environment variable the worker reads: its type, its default, what it means.

This is the only place that reads the environment for the worker's own behaviour; the table in docs/settings.md
is generated from it. A variable that is set but empty counts as unset, because consoles like to send empty
strings; white space around a value, which comes with pasting, is dropped.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, HttpUrl, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sdworker.errors import DeploymentError
from sdworker.reading import MOST_SKIPPED, MOST_TOKENS, Emphasis, PromptSyntax
from sdworker.samplers import find_sampler, find_schedule

__all__ = [
    "Answer",
    "Attention",
    "BucketAddressing",
    "BucketFallback",
    "Device",
    "Precision",
    "Resize",
    "Safety",
    "Settings",
    "SettingsError",
    "load_settings",
]


class SettingsError(DeploymentError):
    """The environment does not make sense; the message names each variable and what it should be."""


class _Choice(StrEnum):
    """One of a few words; their case does not matter."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return next((choice for choice in cls if choice.value == str(value).lower()), None)


Resize = Literal["stretch", "crop", "fill", "keep"]
"""How a picture comes to the size a job asks for; `keep`: not at all."""


class Device(_Choice):
    """Where the networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(_Choice):
    """The floating-point type of the networks' weights and activations."""

    AUTO = "auto"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


class Attention(_Choice):
    """Who computes attention in the UNet and the VAE."""

    SDPA = "sdpa"
    XFORMERS = "xformers"


class Safety(_Choice):
    """What becomes of a picture that the safety checker flags; `off`: none is judged."""

    OFF = "off"
    FLAG = "flag"
    BLUR = "blur"
    BLACK = "black"


class Answer(_Choice):
    """The shape of a job's output (`answers.py`)."""

    IMAGES = "images"
    SDXL = "sdxl"
    SDXL_TURBO = "sdxl_turbo"


class BucketFallback(_Choice):
    """What becomes of an image whose upload failed for good."""

    ERROR = "error"
    BASE64 = "base64"


class BucketAddressing(_Choice):
    """Where a bucket's name goes in its objects' URLs."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

V1_DEFAULTS = {
    "default_width": "512",
    "default_height": "512",
    "default_steps": "50",
    "default_guidance": "7.5",
    "default_scheduler": "K-LMS",
    "default_resize": "keep",
    "default_prompt_syntax": "plain",
}
"""What a job gets that does not ask, from worker-stable_diffusion_v1 (docs/migrating.md)."""

SDXL_DEFAULTS = {
    "answer": "sdxl",
    "default_width": "1024",
    "default_height": "1024",
    "default_steps": "25",
    "default_guidance": "7.5",
    "default_scheduler": "DDIM",
    "default_strength": "0.3",
    "default_resize": "keep",
    "default_prompt_syntax": "plain",
}
"""The same from worker-sdxl, and the shape of its answers."""


class Settings(BaseSettings):
    """The worker's configuration, read once at start. Field names are the variables', in lower case."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True
    )

    # The model and where it runs.
    model_dir: Path | None = Field(
        None,
        description="Model folder in diffusers' layout, or a single `.safetensors` checkpoint. "
        "Unset, with the three below: the model baked into the image and those in `/runpod-volume/models`, else "
        "the embedded `models/emoji`.",
    )
    model_id: str | None = Field(
        None,
        description="`owner/name` of one of the platform's cached models, or of another that a hub's cache on "
        "this machine holds. Nothing is downloaded.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Several models, with commas between, of which jobs choose by `model`: `name=folder`, "
        "a folder, a `.safetensors` checkpoint or `owner/name` of a cached one. The first, or the one above, is "
        "drawn with where a job names none.",
    )
    models_dir: Path | None = Field(
        None,
        description="Folder of models and checkpoints that are served as well, each by its name: "
        "`/runpod-volume/models` say.",
    )
    converted_dir: Path | None = Field(
        None,
        description="Where single checkpoints are kept once they are converted; workers may share it. Unset: "
        "in `.converted` beside them, or where nothing can be written there, a temporary folder.",
    )
    model_memory_gb: float | None = Field(
        None,
        gt=0,
        description="GB that the weights of all loaded models may take; those used longest ago make room. "
        "Unset: six tenths of a card's memory, half of what a CPU has free.",
    )
    device: Device = Field(
        Device.AUTO,
        description="`auto` takes CUDA, and the CPU only where there is no NVIDIA driver. "
        "`cuda`, which the image sets, stops the start where there is no CUDA device that torch can use.",
    )
    precision: Precision = Field(Precision.AUTO, description="`auto` is fp16 on CUDA and fp32 on a CPU.")
    attention: Attention = Field(
        Attention.SDPA, description="`xformers` needs the xformers package (it is in the image)."
    )
    channels_last: bool = Field(
        True, description="Lay weights out as convolutions like them best; `0`: as they are stored."
    )
    cuda_graphs: bool = Field(
        False,
        description="On CUDA, launch the UNet's kernels as graphs where that is quicker (docs/tuning.md).",
    )
    compile: bool = Field(
        False,
        description="Compile the UNet for the numbers of rows tried at start, where that is quicker. "
        "Needs a C++ compiler, and minutes at the first start (docs/tuning.md).",
    )
    compile_cache_dir: Path | None = Field(
        None,
        description="Where `COMPILE` keeps what it made for the next start. "
        "Unset: `/runpod-volume/compiled` where there is a network volume, else a temporary folder.",
    )
    fp16_accumulation: bool = Field(
        False,
        description="On CUDA, sum fp16 products in fp16 where that is quicker and next to as exact "
        "(docs/tuning.md).",
    )

    # What a job may ask for, and what it gets when it does not ask.
    max_pixels: int | None = Field(
        None,
        ge=64 * 64,
        description="Largest width x height of an image. Unset: what the device's memory and the model's own size "
        "suggest (docs/larger-pictures.md).",
    )
    max_upscaled_pixels: int = Field(
        4096 * 4096, ge=64 * 64, description="Largest width x height of what `upscale` makes."
    )
    max_outputs: int = Field(16, ge=1, le=64, description="Largest `num_outputs`.")
    default_width: int | None = Field(
        None,
        ge=64,
        le=2048,
        multiple_of=8,
        description="Width when a job names none. Unset: the model's own.",
    )
    default_height: int | None = Field(
        None,
        ge=64,
        le=2048,
        multiple_of=8,
        description="Height when a job names none. Unset: the model's own.",
    )
    default_steps: int = Field(25, ge=1, le=500, description="`num_inference_steps` when a job names none.")
    default_guidance: float = Field(7.5, ge=0, le=30, description="`guidance_scale` when a job names none.")
    default_scheduler: str = Field("DPM++ 2M Karras", description="`scheduler` when a job names none.")
    default_schedule: str | None = Field(
        None,
        description="`schedule` when neither a job nor its sampler's name has one; `automatic` as in "
        "AUTOMATIC1111's web UI. Unset: the model's own noise levels.",
    )
    default_strength: float = Field(0.8, ge=0, le=1, description="`prompt_strength` when a job names none.")
    default_resize: Resize = Field("stretch", description="`resize` when a job names none.")
    default_prompt_syntax: PromptSyntax = Field(
        "weights", description="`prompt_syntax` when a job names none: `weights` or `plain`."
    )
    default_emphasis: Emphasis = Field(
        "original", description="`emphasis` when a job names none: `original` or `no_norm`."
    )
    default_clip_skip: int = Field(0, ge=0, le=MOST_SKIPPED, description="`clip_skip` when a job names none.")
    max_prompt_tokens: int = Field(
        MOST_TOKENS,
        ge=75,
        le=7500,
        description="Longest prompt, in tokens; the text encoder takes them in chunks of 75.",
    )
    v1_defaults: bool = Field(
        False,
        description="Gives jobs what worker-stable_diffusion_v1 gave them where they do not ask: "
        "K-LMS, 50 steps, 512x512, pictures in their own size, and prompts without syntax. "
        "Other `DEFAULT_`s count more.",
    )

    sdxl_defaults: bool = Field(
        False,
        description="The same for worker-sdxl: DDIM, 25 steps, 1024x1024, a strength of 0.3, pictures in their "
        "own size, prompts without syntax, and `ANSWER=sdxl`.",
    )

    # How many jobs share the hardware.
    max_rows: int | None = Field(
        None,
        ge=2,
        description="Most rows in one UNet forward (an image with guidance is two rows). "
        "Unset: measured soon after the start; as many as make a forward's rows at least a tenth cheaper than "
        "half as many.",
    )
    drawing_memory_mb: int | None = Field(
        None,
        ge=16,
        description="Memory, in MB, that drawings under way may hold between their steps: images x steps x size. "
        "Others wait until there is room; what alone needs more is refused. "
        "Unset: a third of what is free on the device once the model is loaded.",
    )
    concurrency: int | None = Field(
        None,
        ge=2,
        description="Jobs taken at once. Unset: what fills the largest batch, and a quarter more; at least 2 (the "
        "SDK idles a second after each job at 1).",
    )

    # What may be shown.
    safety: Safety | None = Field(
        None,
        description="What becomes of a picture that the safety checker flags: `flag` says so beside it, `blur` "
        "and `black` change it too; `off` has none judged. "
        "Unset: `flag` where there is a checker, `off` where there is none (docs/safety.md).",
    )
    safety_checker: Path | None = Field(
        None,
        description="Folder of the safety checker and its image processor. Unset: the model's own, where the "
        "builder was told to keep it.",
    )
    nsfw_override: bool = Field(False, description="Lets a job's `nsfw: true` lift the safety checker.")

    # Pictures in.
    max_image_mb: float = Field(20, gt=0, description="Largest input picture, in MB, as it is sent.")
    max_image_megapixels: float = Field(
        32, gt=0, le=178, description="Largest input picture, in megapixels (Pillow itself stops at 178)."
    )
    image_timeout_s: float = Field(
        20, gt=0, description="Seconds in which an input picture must have arrived."
    )
    runpod_allow_private_download_urls: bool = Field(
        False,
        description="Lets a job's URLs lead to loopback and private networks. The name is the SDK's own.",
    )

    # Add-ons: LoRAs, embeddings, ControlNets, upscalers.
    lora_dir: Path | None = Field(
        None,
        description="Folder of LoRAs that jobs may name, beside `/runpod-volume/loras` and the image's own.",
    )
    embedding_dir: Path | None = Field(
        None, description="The same for embeddings (textual inversion), beside `/runpod-volume/embeddings`."
    )
    controlnet_dir: Path | None = Field(
        None, description="The same for ControlNets, beside `/runpod-volume/controlnets`."
    )
    upscaler_dir: Path | None = Field(
        None, description="The same for upscalers, beside `/runpod-volume/upscalers`."
    )
    max_loras: int = Field(8, ge=0, le=64, description="Most LoRAs of one job.")
    controlnet_memory_mb: int | None = Field(
        None,
        ge=1,
        description="Memory, in MB, in which ControlNets are kept on the device, those of all models. Unset: a "
        "quarter of what is free once the model is loaded.",
    )
    max_controls: int = Field(3, ge=0, le=16, description="Most ControlNets of one job.")
    lora_memory_mb: int | None = Field(
        None,
        ge=1,
        description="Memory, in MB, of LoRAs on the device, of all models; the least recently used make room. "
        "Unset: an eighth of what is free beside the model.",
    )
    fused_loras: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="LoRAs of the folders that are merged into the model at start, for all jobs: `ink:0.8,soft`.",
    )
    addon_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts that jobs may have add-ons fetched from, with commas between: "
        "`huggingface.co,civitai.com`. Unset: none.",
    )
    addon_cache_dir: Path | None = Field(
        None,
        description="Where fetched add-ons are kept; workers may share it. "
        "Unset: `/runpod-volume/addons` where there is a network volume, else a temporary folder.",
    )
    addon_cache_gb: float = Field(
        20, gt=0, description="GB of fetched add-ons that are kept; the least recently used go first."
    )
    addon_max_mb: float = Field(1000, gt=0, description="Largest add-on that is fetched, in MB.")
    addon_timeout_s: float = Field(
        300, gt=0, description="Seconds in which an add-on must have arrived, repeated tries included."
    )
    hf_token: SecretStr | None = Field(
        None, description="Token for huggingface.co, sent to no other host. The name is the hub's own."
    )
    civitai_token: SecretStr | None = Field(None, description="Token for civitai.com, sent to no other host.")
    hf_endpoint: HttpUrl | None = Field(
        None, description="A mirror that stands for huggingface.co. The name is the hub's own."
    )

    # Images out.
    answer: Answer = Field(
        Answer.IMAGES,
        description="Shape of a job's output: `images`, or as `sdxl` and `sdxl_turbo` answer, worker-sdxl and "
        "worker-sdxl-turbo (docs/migrating.md).",
    )
    max_result_mb: float | None = Field(
        None,
        gt=0,
        description="Largest result, in MB of JSON. "
        "Unset: the platform's own, 20 for `/runsync` and 10 else.",
    )
    bucket_endpoint_url: HttpUrl | None = Field(
        None,
        description="S3-speaking endpoint. Set: images are uploaded and the job returns URLs. "
        "A path in it is the bucket's name when `BUCKET_NAME` is unset.",
    )
    bucket_access_key_id: SecretStr | None = Field(None, description="The bucket's access key.")
    bucket_secret_access_key: SecretStr | None = Field(None, description="The bucket's secret key.")
    bucket_session_token: SecretStr | None = Field(
        None, description="Of temporary keys. They expire, and presigned links with them."
    )
    bucket_name: str | None = Field(
        None, description="The bucket. Needed unless the endpoint's URL names it."
    )
    bucket_prefix: str = Field("", description="Put before every object's name, `renders/` say.")
    bucket_region: str | None = Field(
        None,
        description="Region to sign for. Unset: read off the endpoint's host where it names one, else us-east-1; "
        "a bucket that names its region is believed.",
    )
    bucket_addressing: BucketAddressing = Field(
        BucketAddressing.AUTO,
        description="Where the bucket's name goes in a URL: in its `path` or in the host (`virtual`). "
        "`auto` takes the host on AWS and others known to want it, else the path.",
    )
    bucket_link_expiry_s: int = Field(
        604800, ge=1, le=604800, description="Seconds a presigned link works (S3 allows 7 days)."
    )
    bucket_public_url: HttpUrl | None = Field(
        None, description="Base URL of a public bucket or CDN: links are made from it instead of presigned."
    )
    bucket_timeout_s: float = Field(
        60,
        gt=0,
        description="Seconds in which a job's images must have reached the bucket, repeated tries included.",
    )
    bucket_fallback: BucketFallback = Field(
        BucketFallback.ERROR, description="`base64` returns the images in the result when an upload fails."
    )

    # Talking to the platform.
    progress_interval_ms: int = Field(
        1000, ge=0, description="Least time between two progress updates of a job; 0 sends none."
    )
    previews: bool = Field(
        False,
        description="Shows jobs that do not say: progress updates carry a small picture (docs/endpoint.md).",
    )
    keep_results_s: float = Field(
        1800,
        gt=0,
        le=604800,
        description="Seconds, from when a job was taken, in which its result is offered to a platform that does "
        "not take it, where the job's `policy.executionTimeout` does not say (docs/reliability.md).",
    )
    keep_results_mb: float = Field(
        256,
        gt=0,
        description="MB of results kept for a platform that does not take them; with more than that no job is "
        "taken until some are gone.",
    )
    shutdown_grace_s: float = Field(
        60,
        ge=0,
        le=3600,
        description="After SIGTERM, and after the last job is drawn, results are offered so many seconds longer.",
    )
    quick_start: bool = Field(
        True,
        description="Import only what is needed, and read the weights meanwhile. `0` imports the plain way.",
    )
    warm_up: bool = Field(
        True,
        description="Draw one small image before taking jobs, and measure what steps cost when there are none.",
    )
    fewer_threads: bool = Field(
        True,
        description="On a CPU, take steps with fewer threads while other programs make that quicker "
        "(docs/tuning.md).",
    )
    keep_memory: bool = Field(
        True,
        description="On a CPU, keep freed memory for the next step; "
        "`0` gives it back to the system each time, which is slower.",
    )

    @model_validator(mode="before")
    @classmethod
    def _strip(cls, given: dict[str, Any]) -> dict[str, Any]:
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        kept = {name: value for name, value in stripped.items() if value != ""}
        of_peers = {"v1_defaults": V1_DEFAULTS, "sdxl_defaults": SDXL_DEFAULTS}
        wanted = [defaults for name, defaults in of_peers.items() if cls._is_on(kept.get(name))]
        if len(wanted) > 1:
            raise ValueError("V1_DEFAULTS, SDXL_DEFAULTS: both are set; one worker's defaults can be had")
        return {**wanted[0], **kept} if wanted else kept

    @staticmethod
    def _is_on(value: object) -> bool:
        try:
            return TypeAdapter(bool).validate_python(value)
        except ValidationError:
            return False

    @field_validator("fused_loras", mode="before")
    @classmethod
    def _split_loras(cls, loras: object) -> object:
        if not isinstance(loras, str):
            return loras
        return tuple(lora.strip() for lora in loras.split(",") if lora.strip())

    @field_validator("addon_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, hosts: object) -> object:
        if not isinstance(hosts, str):
            return hosts
        named = tuple(host.strip().rstrip(".").lower() for host in hosts.split(",") if host.strip())
        if any(not _HOST.fullmatch(host) for host in named):
            raise ValueError("should be names of hosts with commas between, without https:// and paths")
        return named

    @field_validator("model_id")
    @classmethod
    def _is_a_hub_id(cls, model_id: str | None) -> str | None:
        if model_id is not None and not _HUB_ID.fullmatch(model_id):
            raise ValueError("should be owner/name, as a hub calls the model; MODEL_DIR takes a folder")
        return model_id

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, models: object) -> object:
        if not isinstance(models, str):
            return models
        entries = tuple(entry.strip() for entry in models.split(",") if entry.strip())
        if any(entry.startswith("=") or entry.endswith("=") for entry in entries):
            raise ValueError("should be name=folder, a folder or owner/name, with commas between")
        names = [entry.partition("=")[0].strip().casefold() for entry in entries if "=" in entry]
        if len(names) != len(set(names)):
            raise ValueError("has one name twice")
        return entries

    @field_validator("default_scheduler")
    @classmethod
    def _is_a_sampler(cls, name: str) -> str:
        return find_sampler(name).name

    @field_validator("default_schedule")
    @classmethod
    def _is_a_schedule(cls, name: str | None) -> str | None:
        return None if name is None else find_schedule(name)

    @model_validator(mode="after")
    def _default_size_may_be_drawn(self) -> Self:
        """Where the model says one side, `Contract` checks it, once the model is known."""
        width, height = self.default_width, self.default_height
        if width and height and self.max_pixels and width * height > self.max_pixels:
            raise ValueError(
                f"DEFAULT_WIDTH x DEFAULT_HEIGHT: {width * height} pixels are more than MAX_PIXELS, "
                f"{self.max_pixels}"
            )
        return self

    @model_validator(mode="after")
    def _bucket_is_whole(self) -> Self:
        """Half a bucket configuration would fail at the first upload; say so at start instead."""
        needed = {
            "BUCKET_ENDPOINT_URL": self.bucket_endpoint_url,
            "BUCKET_ACCESS_KEY_ID": self.bucket_access_key_id,
            "BUCKET_SECRET_ACCESS_KEY": self.bucket_secret_access_key,
        }
        missing = [name for name, value in needed.items() if value is None]
        if missing and (len(missing) < len(needed) or self.bucket_name is not None):
            raise ValueError(f"the bucket's configuration is incomplete: set {', '.join(missing)} too")
        return self


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        SettingsError: naming every variable that is wrong, never with its value (it may be a secret).
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors())) from None


def _describe(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name}: {message}" if name else message
