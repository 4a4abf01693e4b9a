"""What a model's configuration files must say for the worker to rely on them, declared as a schema.

The libraries take a configuration as it comes: a wrong value shows as a traceback while loading, or only in the
first job, when the worker has told everybody that it is ready. So each value that something depends on is
declared here, with what it should be in words, and a file is held against it before anything is loaded. Values
that are not declared pass: configurations carry many that mean nothing to us.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from sdworker.errors import DeploymentError

__all__ = [
    "SIZE_NUMBERS",
    "ModelError",
    "SchedulerConfig",
    "TextConfig",
    "TokenizerConfig",
    "UnetConfig",
    "VaeConfig",
    "check_added",
    "check_config",
    "check_fit",
    "shown",
]

SIZE_NUMBERS = 6
"""Of a picture, that a UNet of Stable Diffusion XL is told: its own size, where it was cut, the size wanted."""

_LONGEST_SHOWN = 60
_LONGEST_PATH = 300


class ModelError(DeploymentError):
    """The model folder cannot be used; the message names the file and what is wrong with it."""


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=1024)]
Pair = Annotated[list[Side], Field(min_length=2, max_length=2)]
Levels = Annotated[list[Count], Field(min_length=1, max_length=8)]
Names = Annotated[list[str], Field(min_length=1, max_length=8)]

_COUNT = "a whole number from 1"
_NUMBER = "a number"
_SWITCH = "true or false"
_BETA = "a number between 0 and 1"


class _Config(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class UnetConfig(_Config):
    """`unet/config.json`. What is left out is Stable Diffusion 1.x's."""

    kind: Literal["UNet2DConditionModel"] = Field(
        "UNet2DConditionModel", alias="_class_name", description="UNet2DConditionModel"
    )
    sample_size: Side | Pair = Field(description="a number of latents from 1 to 1024, or [height, width]")
    in_channels: Count = Field(4, description=_COUNT)
    out_channels: Count = Field(4, description=_COUNT)
    block_out_channels: Levels = Field([320, 640, 1280, 1280], description="a list of channels")
    down_block_types: Names | None = Field(None, description="a list of names")
    up_block_types: Names | None = Field(None, description="a list of names")
    layers_per_block: Count | Levels = Field(2, description=f"{_COUNT}, or a list of such")
    attention_head_dim: Count | Levels = Field(8, description=f"{_COUNT}, or a list of such")
    num_attention_heads: None = Field(None, description="null: attention_head_dim says it")
    cross_attention_dim: Count | Levels = Field(1280, description=f"{_COUNT}, or a list of such")
    norm_num_groups: Count | None = Field(32, description=_COUNT)
    norm_eps: Number = Field(1e-5, gt=0, description="a number above 0")
    freq_shift: Number = Field(0, description=_NUMBER)
    flip_sin_to_cos: bool = Field(True, description=_SWITCH)
    center_input_sample: bool = Field(False, description=_SWITCH)
    use_linear_projection: bool | None = Field(False, description=_SWITCH)
    upcast_attention: bool | None = Field(False, description=_SWITCH)
    addition_embed_type: str | None = Field(None, description="a name, or null")
    class_embed_type: str | None = Field(None, description="a name, or null")
    time_cond_proj_dim: Count | None = Field(None, description=f"{_COUNT}, or null")
    addition_time_embed_dim: Count | None = Field(None, description=f"{_COUNT}, or null")
    projection_class_embeddings_input_dim: Count | None = Field(None, description=f"{_COUNT}, or null")

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        heads = self.attention_head_dim
        heads = heads if isinstance(heads, list) else [heads] * len(self.block_out_channels)
        for channels, count in zip(self.block_out_channels, heads, strict=False):
            if channels % count:
                raise _wrong("attention_head_dim", f"is {count}, which does not divide {channels} channels")
        _check_levels(self)
        return self


class VaeConfig(_Config):
    """`vae/config.json`."""

    kind: Literal["AutoencoderKL"] = Field("AutoencoderKL", alias="_class_name", description="AutoencoderKL")
    scaling_factor: Number = Field(0.18215, gt=0, le=1000, description="a number above 0")
    shift_factor: Number | None = Field(None, description=f"{_NUMBER}, or null")
    in_channels: Literal[3] = Field(3, description="3")
    out_channels: Literal[3] = Field(3, description="3")
    latent_channels: Count = Field(4, description=_COUNT)
    block_out_channels: Levels = Field([64], description="a list of channels")
    down_block_types: Names | None = Field(None, description="a list of names")
    up_block_types: Names | None = Field(None, description="a list of names")
    layers_per_block: Count = Field(1, description=_COUNT)
    norm_num_groups: Count = Field(32, description=_COUNT)
    force_upcast: bool | None = Field(True, description=_SWITCH)
    latents_mean: None = Field(None, description="null: latents with a mean of their own are not served")
    latents_std: None = Field(None, description="null: latents with a deviation of their own are not served")

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        _check_levels(self)
        return self


class TextConfig(_Config):
    """A text encoder's `config.json`. What is left out is transformers' default."""

    hidden_size: Count = Field(512, description=_COUNT)
    intermediate_size: Count = Field(2048, description=_COUNT)
    num_hidden_layers: Annotated[int, Field(ge=1, le=200)] = Field(
        12, description="a whole number from 1 to 200"
    )
    num_attention_heads: Count = Field(8, description=_COUNT)
    max_position_embeddings: Annotated[int, Field(ge=3, le=10_000)] = Field(
        77, description="a whole number from 3 to 10000"
    )
    vocab_size: Count = Field(49408, description=_COUNT)
    hidden_act: str = Field("quick_gelu", description="an activation's name")
    layer_norm_eps: Number = Field(1e-5, gt=0, description="a number above 0")
    projection_dim: Count | None = Field(512, description=_COUNT)

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise _wrong(
                "num_attention_heads",
                f"is {self.num_attention_heads}, which does not divide hidden_size, {self.hidden_size}",
            )
        return self


class SchedulerConfig(_Config):
    """`scheduler/scheduler_config.json`: the model's noise schedule, and what any sampler may read beside it."""

    beta_start: Number = Field(0.00085, gt=0, lt=1, description=_BETA)
    beta_end: Number = Field(0.012, gt=0, lt=1, description=_BETA)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "linear", description="linear, scaled_linear or squaredcos_cap_v2"
    )
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = Field(
        1000, description="a whole number from 2 to 100000"
    )
    trained_betas: Annotated[list[Number], Field(min_length=2)] | None = Field(
        None, description="a list of numbers, or null"
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = Field(
        "epsilon", description="epsilon, v_prediction or sample"
    )
    timestep_spacing: Literal["leading", "linspace", "trailing"] = Field(
        "leading", description="leading, linspace or trailing"
    )
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = Field(0, description="a whole number from 0 to 1000")
    original_inference_steps: Count = Field(50, description=_COUNT)
    timestep_scaling: Number = Field(10, gt=0, description="a number above 0")
    timestep_type: Literal["continuous", "discrete"] = Field("discrete", description="continuous or discrete")
    solver_order: Annotated[int, Field(ge=1, le=3)] = Field(2, description="1, 2 or 3")
    solver_type: str | None = Field(None, description="a name")
    algorithm_type: str | None = Field(None, description="a name")
    final_sigmas_type: Literal["sigma_min", "zero"] | None = Field(None, description="sigma_min or zero")
    interpolation_type: Literal["linear", "log_linear"] | None = Field(
        None, description="linear or log_linear"
    )
    variance_type: str | None = Field(None, description="a name, or null")
    sigma_min: Number | None = Field(None, description=f"{_NUMBER}, or null")
    sigma_max: Number | None = Field(None, description=f"{_NUMBER}, or null")
    lambda_min_clipped: float | None = Field(None, description=_NUMBER)
    clip_sample_range: Number | None = Field(None, description=_NUMBER)
    sample_max_value: Number | None = Field(None, description=_NUMBER)
    dynamic_thresholding_ratio: Number | None = Field(None, description=_NUMBER)
    flow_shift: Number | None = Field(None, description=_NUMBER)
    disable_corrector: list[int] | None = Field(None, description="a list of whole numbers")
    clip_sample: bool | None = Field(None, description=_SWITCH)
    euler_at_final: bool | None = Field(None, description=_SWITCH)
    lower_order_final: bool | None = Field(None, description=_SWITCH)
    predict_x0: bool | None = Field(None, description=_SWITCH)
    rescale_betas_zero_snr: bool | None = Field(None, description=_SWITCH)
    set_alpha_to_one: bool | None = Field(None, description=_SWITCH)
    skip_prk_steps: bool | None = Field(None, description=_SWITCH)
    thresholding: bool | None = Field(None, description=_SWITCH)
    use_beta_sigmas: bool | None = Field(None, description=_SWITCH)
    use_exponential_sigmas: bool | None = Field(None, description=_SWITCH)
    use_flow_sigmas: bool | None = Field(None, description=_SWITCH)
    use_karras_sigmas: bool | None = Field(None, description=_SWITCH)
    use_lu_lambdas: bool | None = Field(None, description=_SWITCH)

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if self.beta_end < self.beta_start:
            raise _wrong("beta_end", f"is {self.beta_end}, less than beta_start, {self.beta_start}")
        betas = self.trained_betas
        if betas is not None and len(betas) != self.num_train_timesteps:
            raise _wrong(
                "trained_betas",
                f"has {len(betas)} numbers for {self.num_train_timesteps} num_train_timesteps",
            )
        if betas is not None and not all(0 < beta < 1 for beta in betas):
            raise _wrong("trained_betas", "has numbers that are not between 0 and 1")
        if self.use_flow_sigmas:
            raise _wrong("use_flow_sigmas", "is true, as in models of flow matching, which are not served")
        return self


class TokenizerConfig(_Config):
    """`tokenizer/tokenizer_config.json`."""

    # Where there is no limit, transformers writes 10^30.
    model_max_length: Annotated[int, Field(ge=3)] | Annotated[float, Field(ge=3)] | None = Field(
        None, description="a whole number from 3"
    )


_C = TypeVar("_C", bound=_Config)


def check_config(schema: type[_C], content: Mapping[str, Any], file: Path) -> _C:
    """A configuration file's content, held against its schema.

    Raises:
        ModelError: naming the file, the key, what it is and what it should be.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{shown(file)} is damaged: {_describe(schema, error.errors()[0])}") from None


def check_fit(folder: Path, *, unet: UnetConfig, vae: VaeConfig, text_width: int) -> None:
    """Networks that do not belong together would load, and fail at the first job.

    Args:
        text_width: of the embeddings that the text encoder makes for the UNet.

    Raises:
        ModelError: naming the file whose value does not fit.
    """
    file = shown(folder / "unet" / "config.json")
    dims = unet.cross_attention_dim
    if dims != text_width and dims != [text_width] * len(unet.block_out_channels):
        raise ModelError(
            f"{file} does not fit the text encoder: cross_attention_dim is {quoted(dims)}, the text encoder's "
            f"width {text_width}"
        )
    if unet.out_channels != vae.latent_channels:
        raise ModelError(
            f"{file} does not fit the VAE: out_channels is {unet.out_channels}, the VAE's latent_channels "
            f"{vae.latent_channels}"
        )


def check_added(folder: Path, *, unet: UnetConfig, pooled_width: int, numbers: int = SIZE_NUMBERS) -> None:
    """What a UNet is told beside the text has the width that it takes: the text as a whole, and six numbers.

    Args:
        pooled_width: of the text as a whole.
        numbers: that it is told of the picture.

    Raises:
        ModelError: naming the file whose value does not fit.
    """
    file = shown(folder / "unet" / "config.json")
    if unet.addition_embed_type != "text_time":
        raise ModelError(
            f"{file} is not that of Stable Diffusion XL: addition_embed_type is "
            f"{quoted(unet.addition_embed_type)}, and should be 'text_time'"
        )
    if unet.addition_time_embed_dim is None:
        raise ModelError(f"{file} is damaged: addition_time_embed_dim is null; it should be {_COUNT}")
    width = pooled_width + numbers * unet.addition_time_embed_dim
    if unet.projection_class_embeddings_input_dim != width:
        raise ModelError(
            f"{file} does not fit the second text encoder: projection_class_embeddings_input_dim is "
            f"{quoted(unet.projection_class_embeddings_input_dim)}; {pooled_width} of the text and {numbers} "
            f"sizes of {unet.addition_time_embed_dim} are {width}"
        )


def shown(path: Path) -> str:
    """A path in a message: one line, and not endless."""
    text = "".join(c if c.isprintable() else "?" for c in str(path))
    return text if len(text) <= _LONGEST_PATH else f"{text[:100]}… ({len(text)} characters)"


def quoted(value: object) -> str:
    """A configuration's value in a message: as JSON has it, and not endless."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else ascii(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _describe(schema: type[_Config], problem: ErrorDetails) -> str:
    if problem["type"] == _OUR_TYPE:
        return problem["msg"]
    if not problem["loc"]:
        return "it should hold a JSON object"
    key = str(problem["loc"][0])
    field = next(field for name, field in schema.model_fields.items() if key in (name, field.alias))
    if problem["type"] == "missing":
        return f"{key} is missing; it should be {field.description}"
    # A list's element is told as itself; a choice of types has the whole value as its input already.
    return f"{key} is {quoted(problem['input'])}; it should be {field.description}"


_OUR_TYPE = "does_not_fit"


def _wrong(key: str, what: str) -> PydanticCustomError:
    # The message is a template of pydantic's, in which braces would have a meaning.
    return PydanticCustomError(_OUR_TYPE, "{key} {what}", {"key": key, "what": what})


def _check_levels(config: UnetConfig | VaeConfig) -> None:
    """As many blocks down and up as there are levels, and channels in whole groups."""
    levels = len(config.block_out_channels)
    for key in ("down_block_types", "up_block_types"):
        names = getattr(config, key)
        if names is not None and len(names) != levels:
            raise _wrong(key, f"has {len(names)} names for the {levels} levels of block_out_channels")
    for key in ("layers_per_block", "attention_head_dim", "cross_attention_dim"):
        counts = getattr(config, key, None)
        if isinstance(counts, list) and len(counts) != levels:
            raise _wrong(key, f"has {len(counts)} numbers for the {levels} levels of block_out_channels")
    groups = config.norm_num_groups
    for channels in config.block_out_channels:
        if groups and channels % groups:
            raise _wrong("norm_num_groups", f"is {groups}, which does not divide {channels} channels")
