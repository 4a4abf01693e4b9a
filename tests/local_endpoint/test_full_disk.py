"""A data folder whose disk fills up: refused in time, nothing lost, and it goes on by itself."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_endpoint.config import MB
from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import Endpoint, eventually

DISK_MB = 100
PICTURE = "x" * 500_000
QUICK = ("--no-rate-limits", "--retention", "3", "--worker-timeout", "600")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free_mb(folder: Path) -> float:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize / MB


def fill(folder: Path) -> Path:
    """Somebody else's file, as large as the disk lets it be."""
    path = folder / "somebody-elses"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return path


def run(endpoint: Endpoint, **job: Any) -> Any:
    return endpoint.http.post(f"{endpoint.url}/run", json={"input": {"picture": PICTURE, **job}})


def finish_all(endpoint: Endpoint) -> None:
    """Do what waits, with results as large as what was sent."""
    while endpoint.health()["jobs"]["inQueue"]:
        job = endpoint.take()
        done = endpoint.worker_http.post(
            f"{endpoint.url}/job-done/w/{job['id']}?gpu=x&isStream=false", json={"output": PICTURE}
        )
        assert done.status_code == 200, done.text


def without_traceback(endpoint: Endpoint) -> str:
    log = endpoint.log.read_text()
    assert "Traceback" not in log
    return log


def test_work_is_refused_in_words_before_the_disk_is_full_and_what_was_taken_is_finished(
    small_disk: Path, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(*QUICK, folder=small_disk / "data", process=True)
    taken = []
    for n in range(2 * DISK_MB):
        answer = run(endpoint, n=n)
        if answer.status_code != 200:
            break
        taken.append(answer.json()["id"])
    assert answer.status_code == 507
    assert "nearly full" in answer.json()["error"]
    assert int(answer.headers["Retry-After"]) > 0
    assert len(taken) > 20
    finish_all(endpoint)
    for job_id in taken[-5:]:
        assert endpoint.status(job_id)["status"] == "COMPLETED"

    # Results expire, and it goes on by itself.
    eventually(lambda: run(endpoint).status_code == 200, timeout_s=180, pause_s=0.2)
    without_traceback(endpoint)


def test_expired_jobs_are_deleted_from_a_disk_that_somebody_else_has_filled(
    small_disk: Path, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(*QUICK, folder=small_disk / "data", process=True)
    ids = [run(endpoint, n=n).json()["id"] for n in range(20)]
    finish_all(endpoint)
    fill(small_disk)
    assert run(endpoint).status_code in (503, 507)

    eventually(lambda: free_mb(small_disk) > 10, timeout_s=180, pause_s=0.2)
    assert endpoint.http.get(f"{endpoint.url}/status/{ids[0]}").status_code == 404
    assert endpoint.health()["jobs"]["completed"] == 20
    (small_disk / "somebody-elses").unlink()
    eventually(lambda: run(endpoint).status_code == 200, timeout_s=180, pause_s=0.2)
    without_traceback(endpoint)


def test_an_answer_that_finds_no_room_changes_nothing_and_is_taken_later(
    small_disk: Path, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint("--no-rate-limits", folder=small_disk / "data", process=True)
    job_id = run(endpoint).json()["id"]
    job = endpoint.take()
    filler = fill(small_disk)

    def done() -> int:
        return endpoint.worker_http.post(
            f"{endpoint.url}/job-done/w/{job['id']}?gpu=x&isStream=false", json={"output": PICTURE * 20}
        ).status_code

    assert done() in (503, 507)  # which the SDK tries again
    assert endpoint.status(job_id)["status"] == "IN_PROGRESS"
    filler.unlink()
    eventually(lambda: done() == 200, timeout_s=180, pause_s=0.5)
    assert endpoint.status(job_id)["status"] == "COMPLETED"
    without_traceback(endpoint)


def test_a_restart_on_a_full_disk_works_with_what_was_held_in_reserve(
    small_disk: Path, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(*QUICK, folder=small_disk / "data", process=True)
    job_id = run(endpoint).json()["id"]
    endpoint.kill()
    fill(small_disk)
    endpoint.start()
    assert endpoint.status(job_id)["status"] == "IN_QUEUE"
    without_traceback(endpoint)


def test_a_start_that_finds_no_room_names_the_folder_and_the_remedy(small_disk: Path) -> None:
    fill(small_disk)
    endpoint = Endpoint(small_disk / "data")
    endpoint.log = small_disk.parent / "start.log"
    with pytest.raises(AssertionError) as failed:
        endpoint.start()
    assert "cannot start" in str(failed.value)
    assert str(small_disk / "data") in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_more_than_may_wait_is_refused_until_some_is_done(make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint("--no-rate-limits", "--max-queue-mb", "3")
    answers = [run(endpoint) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [507] * 2
    assert "--max-queue-mb" in answers[-1].json()["error"]
    endpoint.take()
    eventually(lambda: run(endpoint).status_code == 200)
