"""What the platform and the build read about this repository, kept true to the code."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sdworker.request import Contract
from sdworker.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def read(name: str) -> dict[str, Any]:
    content = json.loads((ROOT / ".runpod" / name).read_text())
    assert isinstance(content, dict)
    return content


class TestHub:
    @pytest.mark.parametrize("entry", read("hub.json")["config"]["env"], ids=lambda entry: entry["key"])
    def test_a_variable_offered_is_a_setting_with_its_default(self, entry: dict[str, Any]) -> None:
        field = Settings.model_fields[entry["key"].lower()]
        assert entry["input"]["default"] == ("" if field.default is None else field.default)

    @pytest.mark.parametrize("test", read("tests.json")["tests"], ids=lambda test: test["name"])
    def test_a_test_s_input_is_accepted(self, test: dict[str, Any]) -> None:
        Contract(Settings(_env_file=None), (512, 512)).parse(test["input"])
        assert test["timeout"] >= 10_000, "milliseconds"

    def test_both_files_ask_for_the_same_drivers(self) -> None:
        hub, tests = read("hub.json")["config"], read("tests.json")["config"]
        assert hub["allowedCudaVersions"] == tests["allowedCudaVersions"]


class TestBuild:
    def test_the_image_s_torch_is_the_locked_one(self) -> None:
        locked = re.search(r"^torch==.*$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
        default = re.search(r'^ARG TORCH="(.*)"$', DOCKERFILE, re.MULTILINE)
        assert locked
        assert default
        assert default[1] == locked[0]
        assert f"whl/cpu {locked[0]}" in (ROOT / "docker-bake.hcl").read_text()

    def test_what_the_dockerfile_copies_passes_the_ignore_file(self) -> None:
        passed = {line[1:] for line in _lines(".dockerignore") if line.startswith("!")}
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        names = {source.split("/")[0] for sources in copied for source in sources.split()}
        assert names == passed

    def test_every_argument_of_a_variant_is_the_dockerfile_s(self) -> None:
        known = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
        variants = (ROOT / "docker-bake.hcl").read_text()
        blocks = re.findall(r"args\s*= \{(.*?)\}", variants, re.DOTALL)
        used = {name for block in blocks for name in re.findall(r"\b([A-Z_]+)\s*=(?!=)", block)}
        assert used
        assert used <= known


def _lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
