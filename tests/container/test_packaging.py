"""What the platform and the build read about this repository, kept true to the code."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from builder.lock import BUILDS, TORCH, Pin, pins_of
from packaging.requirements import Requirement

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
    def test_the_base_image_is_named_by_its_digest(self) -> None:
        assert re.search(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)

    def test_the_image_stops_where_its_gpu_cannot_be_used(self) -> None:
        """As it is built by default; the variant without CUDA says otherwise."""
        assert re.search(r"^ARG DEVICE=cuda$", DOCKERFILE, re.MULTILINE)
        assert "DEVICE=${DEVICE}" in DOCKERFILE

    def test_the_hub_allows_what_the_default_build_runs_on(self) -> None:
        """Drivers run what was built for an older CUDA."""
        default = re.search(r"^ARG TORCH_BUILD=cu(\d+)(\d)$", DOCKERFILE, re.MULTILINE)
        assert default
        built_for = (int(default[1]), int(default[2]))
        allowed = [tuple(map(int, v.split("."))) for v in read("hub.json")["config"]["allowedCudaVersions"]]
        assert allowed == sorted(allowed)
        assert allowed[0] == built_for
        assert (13, 0) in allowed

    def test_the_variants_take_builds_that_are_locked(self) -> None:
        taken = set(
            re.findall(r'TORCH_BUILD\s*=\s*"?(\w+)', DOCKERFILE + (ROOT / "docker-bake.hcl").read_text())
        )
        assert taken == BUILDS.keys()

    def test_the_workflow_names_actions_by_commit(self) -> None:
        workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
        used = re.findall(r"uses: (\S+)", workflow)
        assert used
        for action in used:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action

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


LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


def locked(name: str) -> list[Pin]:
    return pins_of((ROOT / name).read_text())


class TestLocks:
    @pytest.mark.parametrize("name", LOCKS)
    def test_every_package_is_pinned_with_the_hashes_of_its_files(self, name: str) -> None:
        pins = locked(name)
        assert pins
        for pin in pins:
            assert pin.is_hashed, pin.name
        # Nothing but pins and their hashes: no option, no link, no range.
        rest = [line for line in _lines(name) if not re.match(r"[a-z0-9-]+==\S+( ; .+)?( \\)?$", line)]
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest)

    def test_there_is_one_for_each_build_of_torch(self) -> None:
        for build in BUILDS:
            pins = locked(f"requirements-torch-{build}.lock")
            versions = {pin.version.partition("+")[0] for pin in pins if pin.name == "torch"}
            assert versions == {TORCH.removeprefix("torch==")}
            assert all(pin.is_of_a_build for pin in pins)

    def test_what_differs_by_build_is_in_no_other(self) -> None:
        assert [pin.name for pin in locked("requirements.lock") if pin.is_of_a_build] == []

    @pytest.mark.parametrize(
        ("extra", "locks"),
        [(None, ["requirements.lock"]), ("dev", ["requirements.lock", "requirements-dev.lock"])],
    )
    def test_they_have_what_the_project_needs_in_versions_that_it_allows(
        self, extra: str | None, locks: list[str]
    ) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needed = project["optional-dependencies"][extra] if extra else project["dependencies"]
        versions = {pin.name: pin.version for name in locks for pin in locked(name)}
        versions["torch"] = TORCH.removeprefix("torch==")
        for requirement in map(Requirement, needed):
            assert requirement.name in versions, "run `make lock`"
            assert requirement.specifier.contains(versions[requirement.name]), (
                f"{requirement}: run `make lock`"
            )

    def test_each_dependency_has_its_reason(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        reasons = (ROOT / "docs" / "dependencies.md").read_text()
        for requirement in map(
            Requirement, project["dependencies"] + project["optional-dependencies"]["dev"]
        ):
            assert re.search(rf"\b{re.escape(requirement.name)}\b", reasons), requirement.name


def _lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
