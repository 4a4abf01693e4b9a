"""The environment: every variable, what it may hold, and what its user reads when it may not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from sdworker.samplers import SAMPLERS
from sdworker.settings import (
    Answer,
    Attention,
    BucketAddressing,
    BucketFallback,
    Device,
    Precision,
    Safety,
    Settings,
    SettingsError,
    load_settings,
)

BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com/images",
    "BUCKET_ACCESS_KEY_ID": "AKIA-visible",
    "BUCKET_SECRET_ACCESS_KEY": "s3cret-visible",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def load(environment: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        environment.setenv(name, value)
    return load_settings()


def refusal(environment: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(SettingsError) as error:
        load(environment, **variables)
    return str(error.value)


# Variable → what is written, what is read.
ACCEPTED: dict[str, list[tuple[str, Any]]] = {
    "MODEL_DIR": [("/models/a", Path("/models/a"))],
    "MODEL_ID": [("owner/name", "owner/name")],
    "MODELS": [("a=b, c", ("a=b", "c")), ("owner/name", ("owner/name",))],
    "MODELS_DIR": [("/m", Path("/m"))],
    "CONVERTED_DIR": [("/volume/c", Path("/volume/c"))],
    "MODEL_MEMORY_GB": [("7.5", 7.5)],
    "DEVICE": [("cpu", Device.CPU), ("CUDA", Device.CUDA), ("auto", Device.AUTO)],
    "PRECISION": [("FP16", Precision.FP16), ("bf16", Precision.BF16), ("fp32", Precision.FP32)],
    "ATTENTION": [("sdpa", Attention.SDPA), ("xFormers", Attention.XFORMERS)],
    "CHANNELS_LAST": [("0", False), ("true", True)],
    "CUDA_GRAPHS": [("1", True), ("off", False)],
    "COMPILE": [("true", True), ("0", False)],
    "COMPILE_CACHE_DIR": [("/runpod-volume/made", Path("/runpod-volume/made"))],
    "FP16_ACCUMULATION": [("yes", True), ("0", False)],
    "MAX_PIXELS": [("4096", 4096), ("589824", 589824)],
    "MAX_UPSCALED_PIXELS": [("4096", 4096)],
    "MAX_OUTPUTS": [("1", 1), ("64", 64)],
    "DEFAULT_WIDTH": [("64", 64), ("2048", 2048)],
    "DEFAULT_HEIGHT": [("64", 64), ("2048", 2048)],
    "DEFAULT_STEPS": [("1", 1), ("500", 500)],
    "DEFAULT_GUIDANCE": [("0", 0.0), ("30", 30.0), ("4.5", 4.5)],
    "DEFAULT_SCHEDULER": [("K_EULER", "Euler"), ("dpm++ 2m karras", "DPM++ 2M Karras")],
    "DEFAULT_SCHEDULE": [("Automatic", "automatic"), ("SGM Uniform", "sgm_uniform")],
    "DEFAULT_STRENGTH": [("0", 0.0), ("0.3", 0.3), ("1", 1.0)],
    "DEFAULT_RESIZE": [("crop", "crop"), ("keep", "keep")],
    "DEFAULT_PROMPT_SYNTAX": [("weights", "weights"), ("plain", "plain")],
    "DEFAULT_EMPHASIS": [("original", "original"), ("no_norm", "no_norm")],
    "DEFAULT_CLIP_SKIP": [("0", 0), ("31", 31)],
    "MAX_PROMPT_TOKENS": [("75", 75), ("7500", 7500)],
    "V1_DEFAULTS": [("1", True), ("0", False)],
    "SDXL_DEFAULTS": [("1", True), ("0", False)],
    "MAX_ROWS": [("2", 2), ("64", 64)],
    "DRAWING_MEMORY_MB": [("16", 16), ("4096", 4096)],
    "CONCURRENCY": [("2", 2), ("100", 100)],
    "SAFETY": [("flag", Safety.FLAG), ("Black", Safety.BLACK), ("off", Safety.OFF)],
    "SAFETY_CHECKER": [("/checker", Path("/checker"))],
    "NSFW_OVERRIDE": [("1", True), ("false", False)],
    "MAX_IMAGE_MB": [("0.5", 0.5), ("20", 20.0)],
    "MAX_IMAGE_MEGAPIXELS": [("178", 178.0)],
    "IMAGE_TIMEOUT_S": [("0.5", 0.5)],
    "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": [("true", True), ("0", False)],
    "LORA_DIR": [("/loras", Path("/loras"))],
    "EMBEDDING_DIR": [("/embeddings", Path("/embeddings"))],
    "CONTROLNET_DIR": [("/nets", Path("/nets"))],
    "UPSCALER_DIR": [("/upscalers", Path("/upscalers"))],
    "MAX_LORAS": [("0", 0), ("64", 64)],
    "CONTROLNET_MEMORY_MB": [("1", 1), ("4096", 4096)],
    "MAX_CONTROLS": [("0", 0), ("16", 16)],
    "LORA_MEMORY_MB": [("1", 1)],
    "FUSED_LORAS": [("ink:0.8, soft", ("ink:0.8", "soft"))],
    "ADDON_HOSTS": [
        ("huggingface.co", ("huggingface.co",)),
        (" HuggingFace.co. , civitai.com,", ("huggingface.co", "civitai.com")),
    ],
    "ADDON_CACHE_DIR": [("/cache", Path("/cache"))],
    "ADDON_CACHE_GB": [("0.5", 0.5)],
    "ADDON_MAX_MB": [("300", 300.0)],
    "ADDON_TIMEOUT_S": [("60", 60.0)],
    "HF_TOKEN": [],
    "CIVITAI_TOKEN": [],
    "HF_ENDPOINT": [],
    "ANSWER": [("images", Answer.IMAGES), ("SDXL", Answer.SDXL), ("sdxl_turbo", Answer.SDXL_TURBO)],
    "MAX_RESULT_MB": [("7.5", 7.5)],
    "BUCKET_ENDPOINT_URL": [],
    "BUCKET_ACCESS_KEY_ID": [],
    "BUCKET_SECRET_ACCESS_KEY": [],
    "BUCKET_SESSION_TOKEN": [],
    "BUCKET_NAME": [],
    "BUCKET_PREFIX": [("renders/", "renders/")],
    "BUCKET_REGION": [("eu-west-1", "eu-west-1")],
    "BUCKET_ADDRESSING": [("path", BucketAddressing.PATH), ("VIRTUAL", BucketAddressing.VIRTUAL)],
    "BUCKET_LINK_EXPIRY_S": [("1", 1), ("604800", 604800)],
    "BUCKET_PUBLIC_URL": [],
    "BUCKET_TIMEOUT_S": [("60", 60), ("0.5", 0.5)],
    "BUCKET_FALLBACK": [("base64", BucketFallback.BASE64), ("error", BucketFallback.ERROR)],
    "PROGRESS_INTERVAL_MS": [("0", 0), ("250", 250)],
    "PREVIEWS": [("1", True), ("false", False)],
    "KEEP_RESULTS_S": [("60", 60)],
    "KEEP_RESULTS_MB": [("512", 512)],
    "SHUTDOWN_GRACE_S": [("30", 30)],
    "QUICK_START": [
        ("0", False),
        ("1", True),
        ("false", False),
        ("no", False),
        ("OFF", False),
        ("yes", True),
    ],
    "WARM_UP": [("0", False), ("1", True), ("false", False), ("no", False), ("OFF", False), ("yes", True)],
    "FEWER_THREADS": [("0", False), ("1", True)],
    "KEEP_MEMORY": [("0", False), ("1", True)],
}
REFUSED: dict[str, list[str]] = {
    "DEVICE": ["gpu", "cuda:0"],
    "PRECISION": ["half"],
    "ATTENTION": ["flash"],
    "CHANNELS_LAST": ["nhwc"],
    "CUDA_GRAPHS": ["auto"],
    "COMPILE": ["max-autotune"],
    "FP16_ACCUMULATION": ["fp16"],
    "MAX_PIXELS": ["4095", "-1", "1e6", "many", "9" * 5000],
    "MAX_UPSCALED_PIXELS": ["0", "100"],
    "MAX_OUTPUTS": ["0", "65", "1.5"],
    "DEFAULT_WIDTH": ["63", "100", "2056"],
    "DEFAULT_HEIGHT": ["63", "100", "2056"],
    "DEFAULT_STEPS": ["0", "501"],
    "DEFAULT_GUIDANCE": ["-1", "31", "nan", "inf"],
    "DEFAULT_SCHEDULER": ["DPM fast", "none"],
    "DEFAULT_SCHEDULE": ["karas", "DPM++ 2M"],
    "DEFAULT_STRENGTH": ["-0.1", "1.1", "much"],
    "DEFAULT_RESIZE": ["just resize", "2"],
    "DEFAULT_PROMPT_SYNTAX": ["a1111", "1"],
    "DEFAULT_EMPHASIS": ["none", "1"],
    "DEFAULT_CLIP_SKIP": ["-1", "32", "1.5"],
    "MAX_PROMPT_TOKENS": ["74", "7501", "many"],
    "V1_DEFAULTS": ["v1", "2"],
    "MAX_ROWS": ["1"],
    "CONCURRENCY": ["0", "1"],
    "SAFETY": ["on", "1"],
    "NSFW_OVERRIDE": ["maybe"],
    "MAX_IMAGE_MB": ["0", "-1", "inf", "nan"],
    "MAX_IMAGE_MEGAPIXELS": ["0", "179", "nan"],
    "IMAGE_TIMEOUT_S": ["0", "inf"],
    "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": ["maybe", "2"],
    "MAX_LORAS": ["-1", "65", "some"],
    "CONTROLNET_MEMORY_MB": ["0", "0.5", "much"],
    "MAX_CONTROLS": ["-1", "17", "some"],
    "LORA_MEMORY_MB": ["0", "1.5"],
    "ADDON_HOSTS": ["https://huggingface.co", "huggingface.co/owner", "a b", "*"],
    "ADDON_CACHE_GB": ["0", "nan"],
    "ADDON_MAX_MB": ["0", "inf"],
    "ADDON_TIMEOUT_S": ["0", "inf"],
    "HF_ENDPOINT": ["mirror.example.com"],
    "MAX_RESULT_MB": ["0", "inf"],
    "BUCKET_ADDRESSING": ["host"],
    "BUCKET_LINK_EXPIRY_S": ["0", "604801"],
    "BUCKET_TIMEOUT_S": ["0", "inf", "a minute"],
    "BUCKET_FALLBACK": ["nothing"],
    "BUCKET_PUBLIC_URL": ["cdn.example.com", "ftp://a.example"],
    "PROGRESS_INTERVAL_MS": ["-1", "0.5"],
    "PREVIEWS": ["2", "often"],
    "QUICK_START": ["maybe", "-1"],
    "WARM_UP": ["maybe", "-1"],
    "FEWER_THREADS": ["two"],
    "KEEP_MEMORY": ["some"],
}


def test_v1_defaults_are_those_of_worker_stable_diffusion_v1(environment: pytest.MonkeyPatch) -> None:
    settings = load(environment, V1_DEFAULTS="1")
    assert (settings.default_width, settings.default_height) == (512, 512)
    assert (settings.default_steps, settings.default_guidance) == (50, 7.5)
    assert (settings.default_scheduler, settings.default_resize) == ("LMS", "keep")
    assert settings.default_prompt_syntax == "plain"  # it read no weights


def test_sdxl_defaults_are_those_of_worker_sdxl(environment: pytest.MonkeyPatch) -> None:
    settings = load(environment, SDXL_DEFAULTS="1", DEFAULT_HEIGHT="768")
    assert (settings.default_width, settings.default_height) == (1024, 768)
    assert (settings.default_steps, settings.default_guidance, settings.default_strength) == (25, 7.5, 0.3)
    assert (settings.default_scheduler, settings.default_resize) == ("DDIM", "keep")
    assert settings.answer is Answer.SDXL


def test_one_workers_defaults_can_be_had(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="V1_DEFAULTS, SDXL_DEFAULTS: both are set"):
        load(environment, SDXL_DEFAULTS="1", V1_DEFAULTS="1")


def test_a_default_that_is_set_counts_more_than_v1s(environment: pytest.MonkeyPatch) -> None:
    settings = load(environment, V1_DEFAULTS="true", DEFAULT_STEPS="9", DEFAULT_WIDTH="")
    assert (settings.default_steps, settings.default_width, settings.default_scheduler) == (9, 512, "LMS")


def test_no_variable_is_left_untested() -> None:
    assert list(ACCEPTED) == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize(
    ("variable", "written", "read"),
    [(variable, written, read) for variable, cases in ACCEPTED.items() for written, read in cases],
)
def test_a_variable_is_read(
    environment: pytest.MonkeyPatch, variable: str, written: str, read: object
) -> None:
    more = {"MAX_PIXELS": "4194304"} if variable.startswith("DEFAULT_") else {}
    assert getattr(load(environment, **{**more, variable: written}), variable.lower()) == read


@pytest.mark.parametrize(
    ("variable", "written"),
    [(variable, written) for variable, cases in REFUSED.items() for written in cases],
    ids=lambda value: value[:20],
)
def test_what_a_variable_may_not_hold_is_refused_by_its_name_and_not_repeated(
    environment: pytest.MonkeyPatch, variable: str, written: str
) -> None:
    message = refusal(environment, **{variable: written})
    assert message.startswith(f"{variable}: ")
    assert len(message) < 300


@pytest.mark.parametrize("variable", ACCEPTED)
@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_variable_counts_as_unset(
    environment: pytest.MonkeyPatch, variable: str, empty: str
) -> None:
    assert load(environment, **{variable: empty}) == Settings.model_construct()


def test_white_space_around_a_value_is_dropped(environment: pytest.MonkeyPatch) -> None:
    padded = {name: f" {value}\n" for name, value in BUCKET.items()}
    settings = load(environment, **padded, MODEL_DIR="/models/a\n", MAX_OUTPUTS=" 3 ")
    assert settings.bucket_secret_access_key == SecretStr("s3cret-visible")
    assert (settings.model_dir, settings.max_outputs) == (Path("/models/a"), 3)


def test_every_wrong_variable_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    message = refusal(environment, MAX_PIXELS="x", DEVICE="gpu", WARM_UP="maybe")
    assert [part.split(":")[0] for part in message.split("; ")] == ["DEVICE", "MAX_PIXELS", "WARM_UP"]


def test_a_default_sampler_that_is_none_is_refused_with_near_names(environment: pytest.MonkeyPatch) -> None:
    message = refusal(environment, DEFAULT_SCHEDULER="Eular a")
    assert message.startswith("DEFAULT_SCHEDULER: is not a sampler; the nearest are Euler a")


def test_the_default_sampler_has_its_canonical_name(environment: pytest.MonkeyPatch) -> None:
    assert load(environment).default_scheduler in SAMPLERS
    assert load(environment, DEFAULT_SCHEDULER="k_lms").default_scheduler == "LMS"


def test_a_default_size_beyond_the_largest_is_refused(environment: pytest.MonkeyPatch) -> None:
    size = {"DEFAULT_WIDTH": "1024", "DEFAULT_HEIGHT": "1032"}
    load(environment, **size)
    assert refusal(environment, **size, MAX_PIXELS="1048576") == (
        "DEFAULT_WIDTH x DEFAULT_HEIGHT: 1056768 pixels are more than MAX_PIXELS, 1048576"
    )
    load(environment, **size, MAX_PIXELS="1056768")


class TestBucket:
    def test_a_whole_one_is_read(self, environment: pytest.MonkeyPatch) -> None:
        settings = load(environment, **BUCKET)
        assert str(settings.bucket_endpoint_url) == "https://s3.example.com/images"
        assert settings.bucket_access_key_id == SecretStr("AKIA-visible")

    @pytest.mark.parametrize("missing", BUCKET)
    def test_half_of_one_names_what_is_missing(self, environment: pytest.MonkeyPatch, missing: str) -> None:
        half = {name: value for name, value in BUCKET.items() if name != missing}
        message = refusal(environment, **half)
        assert message == f"the bucket's configuration is incomplete: set {missing} too"

    def test_a_name_alone_is_half_of_one(self, environment: pytest.MonkeyPatch) -> None:
        message = refusal(environment, BUCKET_NAME="images")
        assert all(name in message for name in BUCKET)

    def test_secrets_are_in_no_error_and_no_repr(self, environment: pytest.MonkeyPatch) -> None:
        message = refusal(environment, **BUCKET, MAX_PIXELS="x")
        settings = load(environment, MAX_PIXELS="")
        for text in (message, repr(settings), str(settings), repr(settings.model_dump())):
            assert "visible" not in text
        environment.delenv("BUCKET_ENDPOINT_URL")
        with pytest.raises(ValidationError) as error:
            Settings()
        assert "visible" not in str(error.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().max_pixels = 1  # type: ignore[misc]


def test_reading_them_loads_nothing_heavy() -> None:
    script = (
        "import sys, sdworker.request; sys.exit(bool({'torch', 'diffusers', 'runpod'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
