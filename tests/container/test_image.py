"""The image, really built and run: the embedded model baked in, the handler's job done inside, on a CPU.

Takes minutes. Needs root, buildah and debootstrap, and is skipped where they are not.
"""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builder.lock import pins_of
from PIL import Image

from builder import manifest
from tests.container.buildah import Buildah, base_tarball, host_pip_configuration, image_configuration

_MISSING = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
if os.geteuid() != 0:
    _MISSING.append("root")

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(bool(_MISSING), reason=f"building the image needs {', '.join(_MISSING)}"),
]

ROOT = Path(__file__).parents[2]
BASE = "localhost/sdworker-base"
IMAGE = "localhost/sdworker"
SECRET = "hf_a_token_that_must_not_be_found_again"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    storage = tmp_path_factory.mktemp("storage")
    buildah = Buildah(storage)
    yield buildah
    buildah("rm", "--all")
    shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the freshly built image, its file system still as built."""
    secrets = tmp_path_factory.mktemp("secrets")
    configuration, paths = host_pip_configuration()
    (secrets / "pip.conf").write_text(configuration + f"# {SECRET}\n")
    (secrets / "token").write_text(SECRET)
    arguments = {
        "BASE_IMAGE": BASE,
        "MODEL_ID": "models/emoji",
        "TORCH_BUILD": "cpu",
        "TORCH_INDEX": "",  # where this machine's pip finds it
        "DEVICE": "cpu",
    }
    buildah.make_base(base_tarball(), BASE)
    buildah.build(
        ROOT,
        IMAGE,
        arguments=arguments,
        secrets={"pip_conf": secrets / "pip.conf", "hf_token": secrets / "token"},
        volumes=paths,
    )
    return buildah.output("from", IMAGE)


@pytest.fixture(scope="module")
def files(buildah: Buildah, container: str) -> Path:
    """The container's file system, seen from outside."""
    return Path(buildah.output("mount", container))


@pytest.fixture(scope="module")
def configuration(buildah: Buildah) -> dict[str, Any]:
    return image_configuration(json.loads(buildah.output("inspect", "--type", "image", IMAGE)))


_DRAW = """
import asyncio, json, sys
from sdworker.settings import load_settings
from sdworker.startup import build_worker
worker = build_worker(load_settings())
print(json.dumps(asyncio.run(worker.run(json.loads(sys.argv[1])))))
worker.engine.close()
"""


class TestRuns:
    def test_its_command_does_the_job_of_test_input_json(
        self, buildah: Buildah, container: str, configuration: dict[str, Any]
    ) -> None:
        done = buildah.run(container, *configuration["Cmd"])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Job local_test completed successfully" in done.stdout

    def test_a_job_gives_an_image_that_can_be_seen(self, buildah: Buildah, container: str) -> None:
        job = {
            "prompt": "a cat",
            "seed": 7,
            "num_inference_steps": 4,
            "width": 64,
            "height": 64,
            "output_format": "jpeg",
            "output_quality": 50,
        }
        # Not by its log, which leaves pictures out.
        done = buildah.run(container, "python", "-c", _DRAW, json.dumps({"id": "a", "input": job}))
        assert done.returncode == 0, done.stdout + done.stderr
        (result,) = json.loads(done.stdout.splitlines()[-1])
        assert result["seed"] == 7
        image = Image.open(io.BytesIO(base64.b64decode(result["image"])))
        image.load()
        assert (image.format, image.size) == ("JPEG", (64, 64))
        extrema = image.convert("L").getextrema()
        assert extrema[0] != extrema[1], "the image is of one colour"

    def test_without_its_gpu_an_image_for_cuda_does_not_start(self, buildah: Buildah, container: str) -> None:
        done = buildah.run(container, "env", "DEVICE=cuda", "python", "handler.py")
        assert done.returncode == 1
        assert "The worker cannot start. DEVICE: is cuda, but" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_job_that_is_wrong_fails_the_process(self, buildah: Buildah, container: str) -> None:
        done = buildah.run(container, "python", "handler.py", "--test_input", '{"input": {"prompt": ""}}')
        assert done.returncode == 1
        assert "prompt" in done.stdout


class TestIsMadeRight:
    def test_it_runs_as_another_user_than_root(self, buildah: Buildah, container: str) -> None:
        assert buildah.run(container, "id", "-u").stdout.strip() not in ("", "0")

    def test_the_user_cannot_change_the_worker(self, buildah: Buildah, container: str) -> None:
        for path in ("/app", "/opt/model", "/opt/sdworker", "/opt/venv"):
            assert buildah.run(container, "test", "-w", path).returncode != 0, path

    def test_signals_reach_the_worker(self, configuration: dict[str, Any]) -> None:
        """No shell in between, and the signal that the worker drains on."""
        assert configuration["Cmd"] == ["python", "-u", "handler.py"]
        assert not configuration.get("Entrypoint")
        assert configuration.get("StopSignal") == "SIGTERM"
        assert configuration["WorkingDir"] == "/app"

    def test_nothing_is_downloaded_or_logged_that_should_not_be(self, configuration: dict[str, Any]) -> None:
        environment = dict(entry.split("=", 1) for entry in configuration["Env"])
        expected = {
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_LOG_LEVEL": "INFO",
            "TOKENIZERS_PARALLELISM": "false",
            "DEVICE": "cpu",
        }
        assert environment.items() >= expected.items()

    def test_the_model_is_baked_in_whole(self, files: Path) -> None:
        made = manifest.read(files / "opt" / "model")
        assert made is not None
        assert made.source["name"] == "emoji"
        assert manifest.problems(files / "opt" / "model", made) == []

    def test_packages_are_the_locked_ones(self, buildah: Buildah, container: str) -> None:
        frozen = buildah.run(
            container, "python", "-m", "pip", "freeze", "--all", "--path", _site(buildah, container)
        )
        assert frozen.returncode == 0, frozen.stderr
        installed = {_normal(line) for line in frozen.stdout.splitlines()}
        pins = [
            pin
            for name in ("requirements.lock", "requirements-torch-cpu.lock", "requirements-xformers.lock")
            for pin in pins_of((ROOT / name).read_text())
        ]
        assert {f"{pin.name}=={pin.version}" for pin in pins if pin.applies} <= installed

    def test_xformers_is_there_to_be_selected(self, buildah: Buildah, container: str) -> None:
        code = "import importlib.metadata as m; print(m.version('xformers'))"
        assert buildah.run(container, "python", "-c", code).returncode == 0

    def test_only_what_runs_is_shipped(self, files: Path) -> None:
        assert sorted(path.name for path in (files / "app").iterdir()) == ["handler.py", "test_input.json"]
        assert not (files / "build").exists()
        assert not list((files / "root").rglob("*pip*"))

    def test_no_secret_is_left(self, buildah: Buildah, files: Path) -> None:
        assert SECRET not in buildah.output("inspect", "--type", "image", IMAGE)
        assert not (files / "run" / "secrets").exists() or not list((files / "run" / "secrets").iterdir())
        for folder in ("app", "etc", "home", "opt/model", "opt/sdworker", "root", "tmp", "var"):
            for path in (files / folder).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert SECRET.encode() not in path.read_bytes(), path


def _site(buildah: Buildah, container: str) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return buildah.run(container, "python", "-c", code).stdout.strip()


def _normal(requirement: str) -> str:
    """A pinned requirement as packaging compares it."""
    name, _, version = requirement.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version.strip()}"
