"""Endpoints for tests: one that serves with SDK workers for many tests, and fresh ones."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.local_endpoint.harness import Endpoint, ThreadEndpoint

# Tests must not wait for a busy disk; what a commit costs there is the bench's affair.
MEMORY_DISK = Path("/dev/shm")
NPM_PACKAGES = {"runpod-sdk": "1.1.2", "axe-core": "4.14.1"}
MakeEndpoint = Callable[..., Endpoint]


@pytest.fixture(scope="session")
def quick_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one."""
    if not os.access(MEMORY_DISK, os.W_OK):
        yield tmp_path_factory.mktemp("endpoints")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)


@pytest.fixture
def quick_path(quick_disk: Path) -> Path:
    """A fresh folder there for one test."""
    return Path(tempfile.mkdtemp(dir=quick_disk))


@pytest.fixture(scope="package")
def served(quick_disk: Path) -> Iterator[Endpoint]:
    """An endpoint with one SDK worker, shared: leave it as it was."""
    endpoint = Endpoint(
        quick_disk / "served" / "data", "--no-rate-limits", "--no-strict", "--gpu", "24"
    ).start()
    endpoint.sdk_worker()
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make_endpoint(quick_path: Path) -> Iterator[MakeEndpoint]:
    """Start endpoints with the options a test wants, in a process where it must be killed or restarted."""
    made: list[Endpoint] = []

    def make(*options: str, folder: Path | None = None, process: bool = False) -> Endpoint:
        kind = Endpoint if process else ThreadEndpoint
        endpoint = kind(folder or quick_path / f"data-{len(made)}", *options)
        made.append(endpoint)
        return endpoint.start()

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def endpoint(make_endpoint: MakeEndpoint) -> Endpoint:
    """A fresh endpoint without workers."""
    return make_endpoint()


@pytest.fixture(scope="module")
def shared(quick_disk: Path) -> Iterator[Endpoint]:
    """A workerless endpoint for all tests of a module that do not mind each other's jobs."""
    endpoint = ThreadEndpoint(Path(tempfile.mkdtemp(dir=quick_disk)) / "data").start()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    """A folder with the npm packages that tests use, kept outside the repository."""
    if not shutil.which("npm"):
        pytest.skip("needs Node and npm")
    folder = Path(os.environ.get("SDWORKER_JS_CACHE", "~/.cache/sdworker-js")).expanduser()
    if not all((folder / "node_modules" / name).is_dir() for name in NPM_PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}@{version}" for name, version in NPM_PACKAGES.items()]
        subprocess.run(
            ["npm", "install", "--silent", "--prefix", str(folder), *wanted], check=True, timeout=120
        )
    return folder
