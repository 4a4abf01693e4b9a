"""Endpoints for tests: one that serves with SDK workers for many tests, and fresh ones."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.local_endpoint.harness import Endpoint

MakeEndpoint = Callable[..., Endpoint]


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An endpoint with one SDK worker, shared: leave it as it was."""
    endpoint = Endpoint(tmp_path_factory.mktemp("served") / "data", "--no-rate-limits", "--gpu", "24").start()
    endpoint.sdk_worker()
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make_endpoint(tmp_path: Path) -> Iterator[MakeEndpoint]:
    """Start endpoints with the options a test wants; they end with it."""
    made: list[Endpoint] = []

    def make(*options: str, start: bool = True) -> Endpoint:
        endpoint = Endpoint(tmp_path / f"data-{len(made)}", *options)
        made.append(endpoint)
        return endpoint.start() if start else endpoint

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def endpoint(make_endpoint: MakeEndpoint) -> Endpoint:
    """A fresh endpoint without workers."""
    return make_endpoint()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A workerless endpoint for all tests of a module that do not mind each other's jobs."""
    endpoint = Endpoint(tmp_path_factory.mktemp("shared") / "data").start()
    yield endpoint
    endpoint.close()
