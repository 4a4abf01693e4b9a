"""Fetching, keeping and finding again, over real HTTP."""

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sdworker.assets import AddOnError, AddOnStore, Folders
from sdworker.assets.cache import FileCache
from sdworker.assets.download import Limits
from tests.assets.conftest import Server

BODY = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(BODY).hexdigest()
FILE = "/owner/repo/resolve/main/a.safetensors"
NAME = "owner/repo:a.safetensors"
NOWHERE = Folders([])


def store(
    tmp_path: Path,
    hub: Server,
    *,
    most_bytes: int = 10**7,
    keep_bytes: int = 10**8,
    timeout_s: float = 20,
    public_only: bool = False,
    tokens: dict[str, str] | None = None,
) -> AddOnStore:
    return AddOnStore(
        FileCache(tmp_path / "cache", most_bytes=keep_bytes),
        Limits(most_bytes, timeout_s, public_only, tokens or {}),
        hosts=["huggingface.co", "civitai.com", "127.0.0.1"],
        endpoints={"huggingface.co": hub.base, "civitai.com": hub.base},
    )


async def test_a_file_is_fetched_once_and_then_found_on_disk(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    first = await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")
    again = await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")
    assert first == again
    assert first.read_bytes() == BODY
    assert first.name == SHA256
    assert len(hub.requests) == 1
    assert not list((tmp_path / "cache" / "parts").iterdir())


async def test_jobs_that_want_the_same_file_share_one_download(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.hold[FILE] = asyncio.Event()
    shared = store(tmp_path, hub)
    finds = [asyncio.create_task(shared.find(NAME, NOWHERE, "LoRA")) for _ in range(8)]
    await hub.reached[FILE].wait()
    hub.hold[FILE].set()
    paths = await asyncio.gather(*finds)
    assert len(set(paths)) == 1
    assert len(hub.requests) == 1


async def test_a_job_that_no_longer_waits_does_not_end_anothers_download(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.hold[FILE] = asyncio.Event()
    shared = store(tmp_path, hub)
    gone, stays = (asyncio.create_task(shared.find(NAME, NOWHERE, "LoRA")) for _ in range(2))
    await hub.reached[FILE].wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    hub.hold[FILE].set()
    assert (await stays).read_bytes() == BODY


@pytest.mark.parametrize("cuts", [[1000], [200_000, 100_000]])
async def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    cuts: list[int], tmp_path: Path, hub: Server
) -> None:
    hub.files[FILE] = BODY
    hub.cut[FILE] = list(cuts)
    path = await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")
    assert path.read_bytes() == BODY
    ranges = [headers.get("Range") for _, headers in hub.requests]
    assert ranges[0] is None
    assert all(ranges[1:])


async def test_without_a_validator_it_begins_anew(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.without_etag.add(FILE)
    hub.cut[FILE] = [1000]
    path = await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")
    assert path.read_bytes() == BODY
    assert [headers.get("Range") for _, headers in hub.requests] == [None, None]


async def test_a_file_that_changed_meanwhile_is_never_mixed_with_what_it_was(
    tmp_path: Path, hub: Server
) -> None:
    hub.files[FILE] = BODY
    hub.cut[FILE] = [100_000]
    hub.hold[FILE] = asyncio.Event()
    finding = asyncio.create_task(store(tmp_path, hub).find(NAME, NOWHERE, "LoRA"))
    await hub.reached[FILE].wait()
    hub.files[FILE] = BODY[::-1]
    hub.hold[FILE].set()
    assert (await finding).read_bytes() == BODY[::-1]


async def test_what_may_pass_is_tried_again(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.statuses[FILE] = [503, 429]
    assert (await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")).read_bytes() == BODY


async def test_a_hubs_repository_with_one_file_needs_no_file_named(tmp_path: Path, hub: Server) -> None:
    hub.listings["/api/models/owner/repo/revision/main"] = {
        "siblings": [{"rfilename": "README.md"}, {"rfilename": "a.safetensors"}]
    }
    hub.files[FILE] = BODY
    assert (await store(tmp_path, hub).find("owner/repo", NOWHERE, "LoRA")).read_bytes() == BODY


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["a.safetensors", "b.safetensors"], "has several: a.safetensors, b.safetensors"),
        (["a.ckpt"], "has none"),
    ],
)
async def test_a_repository_that_leaves_a_choice_says_so(
    files: list[str], reason: str, tmp_path: Path, hub: Server
) -> None:
    hub.listings["/api/models/owner/repo/revision/main"] = {"siblings": [{"rfilename": f} for f in files]}
    with pytest.raises(AddOnError, match=reason):
        await store(tmp_path, hub).find("owner/repo", NOWHERE, "LoRA")


async def test_a_token_goes_to_its_host_and_to_no_other(tmp_path: Path, hub: Server, storage: Server) -> None:
    hub.redirects[FILE] = storage.url("/signed")
    storage.files["/signed"] = BODY
    tokens = {"huggingface.co": "hf_secret", "civitai.com": "other"}
    path = await store(tmp_path, hub, tokens=tokens).find(NAME, NOWHERE, "LoRA")
    assert path.read_bytes() == BODY
    assert hub.requests[0][1]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in storage.requests[0][1]


async def test_a_file_of_another_hash_than_the_jobs_is_refused_and_not_kept(
    tmp_path: Path, hub: Server
) -> None:
    hub.files[FILE] = BODY
    with pytest.raises(AddOnError, match=f"has the SHA-256 {SHA256}"):
        await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA", sha256="0" * 64)
    assert (
        await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA", sha256=SHA256.upper())
    ).read_bytes() == BODY


async def test_a_hash_that_is_kept_needs_no_fetching(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")
    await store(tmp_path, hub).find("owner/other:b.safetensors", NOWHERE, "LoRA", sha256=SHA256)
    assert len(hub.requests) == 1


async def test_a_file_in_a_folder_goes_before_a_repository_of_that_name(tmp_path: Path, hub: Server) -> None:
    (tmp_path / "loras" / "owner").mkdir(parents=True)
    local = tmp_path / "loras" / "owner" / "repo.safetensors"
    local.touch()
    assert await store(tmp_path, hub).find("owner/repo", Folders([tmp_path / "loras"]), "LoRA") == local


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such file": ({}, NAME, "there is no such file"),
    "private file": ({"statuses": {FILE: [401]}}, NAME, r"refuses it \(401\); it needs a token"),
    "gated file": ({"statuses": {FILE: [403]}}, NAME, r"refuses it \(403\)"),
    "a web page": ({"pages": {FILE}}, NAME, "answered a web page"),
    "too large, and says so": ({"files": {FILE: b"x" * 2000}}, NAME, "larger than 1000 bytes"),
    "endless": ({"endless": {FILE}}, NAME, "larger than 1000 bytes"),
    "redirects in a circle": ({"redirects": {FILE: FILE}}, NAME, "redirects more than"),
    "redirects to a file": ({"redirects": {FILE: "file:///etc/passwd"}}, NAME, "other than http"),
    "an unknown name": ({}, "pencil", "there is no LoRA named 'pencil'"),
    "a listing of nonsense": ({"listings": {"/api/models/o/r/revision/main": [1]}}, "o/r", "gave no listing"),
    "a wrong sha256": ({}, NAME, "64 hexadecimal digits"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_had_is_an_error_that_says_why(case: str, tmp_path: Path, hub: Server) -> None:
    told, name, reason = REFUSED[case]
    for attribute, value in told.items():
        setattr(hub, attribute, value)
    with pytest.raises(AddOnError, match=reason) as refused:
        await store(tmp_path, hub, most_bytes=1000).find(
            name, NOWHERE, "LoRA", sha256="short" if "sha256" in case else None
        )
    assert str(tmp_path) not in str(refused.value)
    if (tmp_path / "cache" / "blobs").exists():
        assert not list((tmp_path / "cache" / "blobs").iterdir())


async def test_a_private_address_is_not_dialled(tmp_path: Path, hub: Server) -> None:
    hub.files["/a"] = BODY
    with pytest.raises(AddOnError, match="cannot be resolved or is not public"):
        await store(tmp_path, hub, public_only=True).find(hub.url("/a"), NOWHERE, "LoRA")
    assert not hub.requests


async def test_a_server_that_stops_sending_is_given_up(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.hold[FILE] = asyncio.Event()
    with pytest.raises(AddOnError, match=r"did not arrive within 1 s \(ADDON_TIMEOUT_S\)"):
        await store(tmp_path, hub, timeout_s=1).find(NAME, NOWHERE, "LoRA")
    hub.hold[FILE].set()
    assert (await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")).read_bytes() == BODY


async def test_the_least_recently_used_file_makes_room(tmp_path: Path, hub: Server) -> None:
    kept = store(tmp_path, hub, keep_bytes=250_000)
    now = time.time()
    for i, name in enumerate("abc"):
        hub.files[f"/{name}"] = bytes([i]) * 100_000
        path = await kept.find(hub.url(f"/{name}"), NOWHERE, "LoRA")
        os.utime(path, (now - 100 + i, now - 100 + i))
        if name == "b":
            used = await kept.find(hub.url("/a"), NOWHERE, "LoRA")
            os.utime(used, (now, now))
    sizes = {path.read_bytes()[:1] for path in (tmp_path / "cache" / "blobs").iterdir()}
    assert sizes == {b"\0", b"\2"}


async def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_setting(
    tmp_path: Path, hub: Server
) -> None:
    (tmp_path / "cache").write_text("a file")
    hub.files[FILE] = BODY
    with pytest.raises(AddOnError, match="ADDON_CACHE_DIR"):
        await store(tmp_path, hub).find(NAME, NOWHERE, "LoRA")


async def until_something_is_in(folder: Path) -> None:
    async with asyncio.timeout(180):
        while not any(path.stat().st_size > 1000 for path in folder.iterdir()):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)


CHILD = """
import asyncio, sys
from pathlib import Path
from typing import Any
from sdworker.assets import AddOnStore, Folders
from sdworker.assets.cache import FileCache
from sdworker.assets.download import Limits
store = AddOnStore(FileCache(Path(sys.argv[1]), most_bytes=10**8), Limits(10**7, 60, False, {}),
                   hosts=["127.0.0.1"])
asyncio.run(store.find(sys.argv[2], Folders([]), "LoRA"))
"""


async def test_a_worker_killed_in_the_middle_leaves_nothing_half_written_and_the_next_goes_on(
    tmp_path: Path, hub: Server
) -> None:
    hub.files["/a"] = BODY
    hub.hold["/a"] = asyncio.Event()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path / "cache"), hub.url("/a")
    )
    await hub.reached["/a"].wait()
    await until_something_is_in(tmp_path / "cache" / "parts")
    child.kill()
    await child.wait()
    assert not list((tmp_path / "cache" / "blobs").iterdir())
    hub.hold["/a"].set()

    path = await store(tmp_path, hub).find(hub.url("/a"), NOWHERE, "LoRA")

    assert path.read_bytes() == BODY
    assert hub.requests[-1][1]["Range"].startswith("bytes=")


async def test_two_workers_on_one_volume_fetch_a_file_once(tmp_path: Path, hub: Server) -> None:
    hub.files[FILE] = BODY
    hub.hold[FILE] = asyncio.Event()
    one, other = store(tmp_path, hub), store(tmp_path, hub)
    first = asyncio.create_task(one.find(NAME, NOWHERE, "LoRA"))
    await hub.reached[FILE].wait()
    second = asyncio.create_task(other.find(NAME, NOWHERE, "LoRA"))
    await asyncio.sleep(0.05)
    hub.hold[FILE].set()
    assert await first == await second
    assert len(hub.requests) == 1
