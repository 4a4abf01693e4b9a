"""The command as a build runs it: a process, its exit status, its one line of complaint, its secret."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder.hub_server import COMMIT, TOKEN, FakeHub, Repo, serve_hub
from tests.builder.tiny_model import make_diffusers_folder, save_ldm

ROOT = Path(__file__).parents[2]
ID = "someone/a-model"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    make_diffusers_folder(tmp_path / "tiny")
    with serve_hub() as hub:
        hub.repos[ID] = Repo(tmp_path / "tiny")
        yield hub


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "builder.fetch_model", *map(str, arguments)]


def environment(server: FakeHub | None = None, /, **extra: str) -> dict[str, str]:
    """A build's environment: the hub's address, nothing of the machine's own settings for it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**clean, "HF_ENDPOINT": server.address if server else "http://127.0.0.1:1", **extra}


def run(*arguments: object, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("how", ["file", "environment"])
def test_a_model_from_the_hub_and_the_token_that_opens_it_is_not_seen_again(
    server: FakeHub, tmp_path: Path, how: str
) -> None:
    server.repos[ID].gated = True
    secret = tmp_path / "secret"
    secret.write_text(TOKEN + "\n")
    arguments = [ID, "--revision", COMMIT, "--out", tmp_path / "out"]
    if how == "file":
        done = run(*arguments, "--token-file", secret, env=environment(server))
    else:
        done = run(*arguments, env=environment(server, HF_TOKEN=TOKEN))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert done.stderr.splitlines()[-1].endswith("12 files, 0.00 GB")
    assert TOKEN not in done.stdout + done.stderr
    written = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_refused_token_is_not_printed(server: FakeHub, tmp_path: Path) -> None:
    server.repos[ID].gated = True
    done = run(
        ID, "--revision", COMMIT, "--out", tmp_path / "out", env=environment(server, HF_TOKEN="hf_wrong")
    )
    assert done.returncode == 1
    assert "hf_wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra", "message"),
    [
        (["./nowhere"], {}, "there is no folder or file ./nowhere"),
        (["someone/else", "--tries", "1"], {}, "the hub cannot be reached"),
        (["someone/else"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_complaint_is_one_line(
    tmp_path: Path, arguments: list[str], extra: dict[str, str], message: str
) -> None:
    done = run(*arguments, "--out", tmp_path / "out", env=environment(**extra))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"fetch_model: error: {message}" in done.stderr


def test_a_killed_download_is_resumed(server: FakeHub, tmp_path: Path) -> None:
    server.stalls[UNET] = [500_000]
    arguments = [ID, "--revision", COMMIT, "--out", tmp_path / "out"]
    part = tmp_path / "out.partial"
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(server), stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size == 500_000 for path in part.rglob("*.part")):
            assert time.monotonic() < deadline, "the download did not get to where it stalls"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.stalled.set()
    done = run(*arguments, env=environment(server))
    assert done.returncode == 0, done.stderr
    assert server.asked_for(f"/bucket/{ID}/{UNET}")[-1]["range"] == "bytes=500000-"


@pytest.mark.parametrize("source", ["folder", pytest.param("file", marks=pytest.mark.slow)])
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, source: str) -> None:
    make_diffusers_folder(tmp_path / "tiny")
    save_ldm(tmp_path / "tiny", tmp_path / "one.safetensors")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs to mount a small file system")
    name = {"folder": "tiny", "file": "one.safetensors"}[source]
    try:
        done = run(
            tmp_path / name, "--config-from", tmp_path / "tiny", "--out", small / "out", env=environment()
        )
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("fetch_model: error: the disk is full"), done.stderr
