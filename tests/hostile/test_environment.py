"""Odd environments: a variable that makes no sense is refused in a sentence, and nothing else stops a worker.

What can be judged without a process is judged here in this one: the settings, and what the start makes of them. A
few go through the real start.
"""

import os
import subprocess
import sys
import threading
import types
import typing
from collections.abc import Callable, Container, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import HttpUrl, SecretStr

from sdworker.engine.model_files import ModelError
from sdworker.settings import Settings, SettingsError, load_settings
from sdworker.startup import build_worker

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret/that+must=not-be-seen"

OURS = {name.upper() for name in Settings.model_fields}

# What no setting of a type may be. Each is refused by the variable's name, without the value.
NEVER: dict[type, list[str]] = {
    bool: ["2", "maybe", "-1", "1.5", "tru e", "none", "null", "true;false", "\u0661", "9" * 5000],
    int: [
        "many",
        "1.5",
        "1e400",
        "0x10",
        "nan",
        "",
        "--1",
        "1,000",
        "\u2603",
        "9" * 5000,
        "[1]",
        "None",
        "12 34",
    ],
    float: [
        "many",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "0x10",
        "1,5",
        "\u2603",
        "9" * 5000,
        "[1]",
        "1 2",
        "-1e-9",
    ],
    Enum: ["evil", "cuda:0", "0", "auto,cpu", "\u2603", "x" * 5000, "__class__", "Device.CPU"],
    HttpUrl: [
        "evil",
        "ftp://a.example",
        "//a.example",
        "http://",
        "file:///etc/passwd",
        "x" * 5000,
    ],
}


def type_of(name: str) -> type:
    """A setting's type, without `| None`; any of the choices is an Enum."""
    annotation: Any = Settings.model_fields[name.lower()].annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return Enum
    annotation = typing.get_origin(annotation) or annotation
    assert isinstance(annotation, type)
    return Enum if issubclass(annotation, Enum) else annotation


def cases() -> Iterator[tuple[str, str]]:
    for name in sorted(OURS):
        for value in NEVER.get(type_of(name), []):
            if value.strip():
                yield name, value


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without this machine's own settings."""
    for name in [name for name in os.environ if name.upper() in OURS]:
        monkeypatch.delenv(name)
    return monkeypatch


def judge(message: str, *, naming: str, hiding: str) -> None:
    """One short sentence that names the variable and keeps its value to itself."""
    assert "\n" not in message
    assert len(message) < 400
    assert naming in message
    assert len(hiding) < 5 or hiding not in message


@pytest.mark.parametrize(("name", "value"), list(cases()), ids=lambda text: ascii(text)[:24])
def test_a_value_of_the_wrong_type_is_refused_by_its_name(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    judge(str(refusal.value), naming=name, hiding=value)


def test_everything_wrong_at_once_is_one_line_without_a_secret(environment: pytest.MonkeyPatch) -> None:
    for name in OURS:
        environment.setenv(name, SECRET)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    message = str(refusal.value)
    assert SECRET not in message
    assert "\n" not in message
    wrong = {name for name in OURS if issubclass(type_of(name), bool | int | float | Enum | HttpUrl)}
    assert {part.split(":")[0] for part in message.split("; ")} >= wrong


@pytest.mark.parametrize("name", sorted(name for name in OURS if type_of(name) is SecretStr))
def test_a_secret_is_in_no_message(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, SECRET)
    environment.setenv("MAX_PIXELS", "x")
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("value", ["", " ", "\t\n", "\u00a0"])
def test_all_variables_empty_are_all_defaults(environment: pytest.MonkeyPatch, value: str) -> None:
    for name in OURS:
        environment.setenv(name, value)
    assert load_settings() == Settings.model_construct()


@pytest.mark.parametrize("name", ["max_pixels", "Max_Pixels", "MAX_PIXELS"])
def test_a_variables_case_does_not_matter(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "x")
    with pytest.raises(SettingsError, match="MAX_PIXELS"):
        load_settings()


# ---- what the start makes of settings that are of the right type


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A start reserves the process's cores for its engine."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start() -> None:
    build_worker(load_settings()).engine.close(finish=False)


Place = Callable[[Path], str]

PLACES: dict[str, Place] = {
    "a file": lambda tmp: str(_file(tmp / "file")),
    "below a file": lambda tmp: str(_file(tmp / "file") / "folder"),
    "a device": lambda tmp: "/dev/null",
    "a file system that is read-only": lambda tmp: "/proc/sys/kernel",
    "an endless name": lambda tmp: "x" * 5000,
    "endless depth": lambda tmp: "/tmp" + "/x" * 3000,
    "a link to itself": lambda tmp: str(_loop(tmp / "loop")),
    "nothing": lambda tmp: str(tmp / "nothing"),
    "an empty folder": lambda tmp: str(tmp),
    "line breaks and colours": lambda tmp: "/no\nwhere\x1b[31m",
    "a user's home that is none": lambda tmp: "~nobody-at-all/model",
    "a variable": lambda tmp: "$HOME/model",
    "an address": lambda tmp: "https://example.com/model",
}


def _file(path: Path) -> Path:
    path.write_text("x")
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


@pytest.mark.parametrize("place", PLACES)
def test_a_model_where_there_is_none_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    environment.setenv("MODEL_DIR", PLACES[place](tmp_path))
    environment.setenv("DEVICE", "cpu")
    with pytest.raises(ModelError) as refusal:
        start()
    message = str(refusal.value)
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("place", PLACES)
def test_a_cache_that_cannot_be_kept_is_a_warning(
    environment: pytest.MonkeyPatch, model: Path, tmp_path: Path, place: str
) -> None:
    # A file system that is read-only to root too; a place that can be made, is.
    environment.chdir(tmp_path)
    environment.setenv("MODEL_DIR", str(model))
    environment.setenv("COMPILE_CACHE_DIR", PLACES[place](tmp_path))
    environment.setenv("COMPILE", "1")
    environment.setenv("DEVICE", "cpu")
    environment.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # put back afterwards
    start()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"DEVICE": "cuda"}, "DEVICE"),
        ({"MAX_PIXELS": "4096"}, "MAX_PIXELS"),
        ({"DEFAULT_WIDTH": "2048", "DEFAULT_HEIGHT": "2048", "MAX_PIXELS": "1048576"}, "MAX_PIXELS"),
        ({"ATTENTION": "xformers"}, "ATTENTION=xformers"),
        ({"DEFAULT_SCHEDULER": "DPM++ 3M SDE Exponential", "DEFAULT_STEPS": "1"}, "DEFAULT_S"),
        ({"BUCKET_NAME": "a"}, "BUCKET_ENDPOINT_URL"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_work_together_are_refused_by_name(
    environment: pytest.MonkeyPatch, model: Path, variables: dict[str, str], named: str
) -> None:
    if variables.get("DEVICE") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    environment.setenv("MODEL_DIR", str(model))
    environment.setenv("DEVICE", "cpu")
    for name, value in variables.items():
        environment.setenv(name, value)
    running = threading.active_count()
    try:
        start()
    except (SettingsError, ModelError) as refusal:
        judge(str(refusal), naming=named, hiding="")
        assert threading.active_count() <= running, "a thread was left behind"
    else:
        # One step is enough for some samplers, and xformers may be installed.
        assert variables.keys() & {"ATTENTION", "DEFAULT_SCHEDULER"}


# ---- the real start


def run(variables: dict[str, str], *, drop: Container[str] = ()) -> "subprocess.CompletedProcess[str]":
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in drop and name.upper() not in OURS and not name.startswith("RUNPOD_")
    }
    job = '{"input": {"prompt": "x", "width": 64, "height": 64, "steps": 1}}'
    return subprocess.run(
        [sys.executable, "handler.py", "--test_input", job],
        cwd=ROOT,
        env={**kept, "DEVICE": "cpu", **variables},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


# Nothing of this concerns a worker that draws on a CPU and uploads nothing.
HARMLESS: dict[str, dict[str, str]] = {
    "a home and temporary folders that are not there": {
        "HOME": "/nowhere/at/all",
        "TMPDIR": "/nowhere/at/all",
        "XDG_CACHE_HOME": "/dev/null",
        "HF_HOME": "/dev/null/x",
        "TORCH_HOME": "/dev/null",
        "MPLCONFIGDIR": "/dev/null",
    },
    "proxies that are none": {
        "HTTP_PROXY": "evil://:::",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "socks9://x",
        "NO_PROXY": "*",
        "SSL_CERT_FILE": "/nowhere",
        "REQUESTS_CA_BUNDLE": "/nowhere",
    },
    "a language of seven bits": {
        "LANG": "C",
        "LC_ALL": "C",
        "LANGUAGE": "",
        "PYTHONUTF8": "0",
        "TZ": "Evil/Zone",
    },
    "libraries' own settings, all nonsense": {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "evil",
        "DIFFUSERS_VERBOSITY": "evil",
        "TRANSFORMERS_VERBOSITY": "evil",
        "HF_HUB_OFFLINE": "evil",
        "TOKENIZERS_PARALLELISM": "evil",
        "CUDA_VISIBLE_DEVICES": "evil,-1",
        "PYTORCH_ALLOC_CONF": "",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_does_not_concern_it_does_not_stop_it(kind: str) -> None:
    done = run(HARMLESS[kind])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "completed successfully" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_a_home_and_with_next_to_no_environment_it_draws() -> None:
    done = run({}, drop=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MAX_PIXELS": "4096"}, "MAX_PIXELS"),
        ({"MODEL_DIR": "x" * 5000}, "model folder"),
        ({"COMPILE": "perhaps", "BUCKET_SECRET_ACCESS_KEY": SECRET}, "COMPILE"),
        ({"QUICK_START": "perhaps", "DEVICE": "tpu", "PRECISION": "fp4"}, "PRECISION"),
    ],
    ids=["too few pixels", "endless name", "secret", "several"],
)
def test_the_process_ends_with_one_sentence_and_no_secret(variables: dict[str, str], named: str) -> None:
    done = run(variables)
    assert done.returncode == 1, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if "cannot start" in line]
    assert named in line
    assert len(line) < 700
    assert "Traceback" not in done.stderr + done.stdout
    assert SECRET not in done.stderr + done.stdout
