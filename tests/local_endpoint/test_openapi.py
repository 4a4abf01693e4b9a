"""The API document tells the truth: schemathesis asks everything that it promises."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local_endpoint.conftest import MakeEndpoint
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


@pytest.mark.slow
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


def test_the_times_it_tells_are_the_endpoints_own(make_endpoint: MakeEndpoint, shared: Endpoint) -> None:
    def policy(endpoint: Endpoint) -> dict[str, dict[str, int]]:
        document = endpoint.http.get(f"{endpoint.base}/openapi.json").json()
        operation = document["paths"]["/v2/stable-diffusion-v1/run"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return dict(schema["properties"]["policy"]["properties"])

    other = make_endpoint("--no-strict", "--execution-timeout", "7", "--ttl", "70")
    times = policy(other)
    assert (times["executionTimeout"]["minimum"], times["executionTimeout"]["default"]) == (1, 7000)
    assert (times["ttl"]["minimum"], times["ttl"]["default"]) == (1, 70_000)
    assert other.http.post(f"{other.url}/run", json={"input": {}, "policy": {"ttl": 1}}).status_code == 200
    times = policy(shared)
    assert (times["executionTimeout"]["minimum"], times["ttl"]["minimum"]) == (5000, 10_000)
    assert "lowPriority" in times


def test_what_it_says_of_null_and_of_retries_is_so(shared: Endpoint) -> None:
    nulls = {"webhook": None, "policy": {"executionTimeout": None, "ttl": None, "lowPriority": None}}
    job_id = shared.run(s3Config=None, **nulls)
    shared.run(policy=None)
    assert shared.http.post(f"{shared.url}/cancel/{job_id}").json()["status"] == "CANCELLED"
    refused = shared.http.post(f"{shared.url}/retry/{job_id}")
    assert refused.status_code == 400
    assert "only FAILED and TIMED_OUT jobs can be retried" in refused.json()["error"]
    document = shared.http.get(f"{shared.base}/openapi.json").json()
    assert "400" in document["paths"]["/v2/stable-diffusion-v1/retry/{job_id}"]["post"]["responses"]
    assert "507" in document["paths"]["/v2/stable-diffusion-v1/run"]["post"]["responses"]
