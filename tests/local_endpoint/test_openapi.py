"""The API document tells the truth: schemathesis asks everything that it promises."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local_endpoint.harness import KEY, Endpoint

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)


def test_what_it_promises_holds(served: Endpoint, tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("schemathesis")
    if not tool.exists() and not shutil.which("schemathesis"):
        pytest.skip("needs schemathesis")
    ran = subprocess.run(
        [
            str(tool if tool.exists() else "schemathesis"),
            *("run", f"{served.base}/openapi.json"),
            *("-H", f"Authorization: Bearer {KEY}"),
            *("--checks", ",".join(CHECKS)),
            # One worker: Python 3.11's ast.parse, which hypothesis uses, now and then fails when several threads
            # are in it ("recursion depth mismatch", https://github.com/malthe/chameleon/issues/361).
            *("--phases", "examples,coverage", "--workers", "1"),
            *("--generation-deterministic", "--continue-on-failure", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]


def test_every_route_has_an_example_of_its_answer(shared: Endpoint) -> None:
    document = shared.http.get(f"{shared.base}/openapi.json").json()
    assert len(document["paths"]) == 10
    for path, item in document["paths"].items():
        assert path.startswith("/v2/stable-diffusion-v1/")
        for operation in item.values():
            assert operation["responses"]["200"]["content"]["application/json"]["examples"], path
            assert "422" not in operation["responses"]
    assert "HTTPValidationError" not in json.dumps(document)
