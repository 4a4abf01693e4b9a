"""Add-ons for the image, from this machine and from elsewhere."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from builder.fetch_addon import main


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "ink.safetensors").write_bytes(b"ink")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_each_is_put_where_the_worker_finds_it_by_its_name(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "1")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    out = tmp_path / "addons"
    items = [f"loras/styles/ink={address}/ink.safetensors", f"upscalers/mine={tmp_path / 'mine.safetensors'}"]
    assert main(["--out", str(out), *items]) == 0
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"loras/styles/ink.safetensors": b"ink", "upscalers/mine.safetensors": b"mine"}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("loras/a", "should be KIND/NAME=SOURCE"),
        ("styles/a=b", "KIND one of loras, embeddings, controlnets, upscalers"),
        ("loras/../a=b", "should be KIND/NAME=SOURCE"),
        ("loras/a=missing", "there is no LoRA named 'missing'"),
        ("loras/a={address}/ink.safetensors#" + "0" * 64, "not the one the job names"),
        ("loras/a={address}/none", "there is no such file"),
    ],
)
def test_what_cannot_be_put_there_stops_the_build_and_says_why(
    tmp_path: Path,
    address: str,
    item: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "1")
    assert main(["--out", str(tmp_path / "addons"), item.format(address=address)]) == 1
    assert told in capsys.readouterr().err
    assert not [path for path in (tmp_path / "addons").rglob("*") if path.is_file()]


def test_none_makes_an_empty_folder(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "addons")]) == 0
    assert list((tmp_path / "addons").iterdir()) == []
