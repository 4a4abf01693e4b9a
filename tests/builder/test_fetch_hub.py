"""Downloads from a hub that behaves, and from one that does not. The server is local, the client real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from builder.errors import FetchError
from builder.hub import Hub

from tests.builder.hub_server import COMMIT, TOKEN, FakeHub, Repo, serve_hub

ID = "someone/a-model"
BIG = "unet/big.safetensors"
SMALL = "model_index.json"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one repository of a big and a small file."""
    folder = tmp_path / "repo"
    (folder / "unet").mkdir(parents=True)
    (folder / BIG).write_bytes(bytes(i * 7 % 251 for i in range(300_000)))
    (folder / SMALL).write_text('{"small": true}')
    with serve_hub() as hub:
        hub.repos[ID] = Repo(folder)
        yield hub


def make_hub(server: FakeHub, token: str | None = None, tries: int = 3) -> Hub:
    return Hub(token=token, endpoint=server.address, tries=tries, wait_s=0.01)


def fetch(server: FakeHub, out: Path, *names: str, token: str | None = None) -> None:
    hub = make_hub(server, token)
    hub.download(hub.look_up(ID, COMMIT), names or (SMALL, BIG), out)


def same(server: FakeHub, out: Path, name: str) -> bool:
    return (out / name).read_bytes() == (server.repos[ID].folder / name).read_bytes()


class TestLookUp:
    def test_a_commit_is_pinned(self, server: FakeHub) -> None:
        found = make_hub(server).look_up(ID, COMMIT)
        assert (found.commit, found.pinned, found.licence) == (COMMIT, True, "creativeml-openrail-m")

    def test_a_branch_is_resolved_and_not_pinned(self, server: FakeHub) -> None:
        found = make_hub(server).look_up(ID, "main")
        assert (found.commit, found.pinned) == (COMMIT, False)

    def test_no_licence_is_none(self, server: FakeHub) -> None:
        server.repos[ID].licence = None
        assert make_hub(server).look_up(ID, COMMIT).licence is None

    def test_server_errors_are_retried(self, server: FakeHub) -> None:
        server.failures["/api/"] = [500, 503]
        assert make_hub(server).look_up(ID, COMMIT).commit == COMMIT


class TestDownload:
    def test_files_arrive_whole(self, server: FakeHub, tmp_path: Path) -> None:
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)
        assert same(server, tmp_path / "out", SMALL)
        assert not list((tmp_path / "out").rglob("*.part"))

    def test_a_cut_connection_is_resumed_where_it_broke(self, server: FakeHub, tmp_path: Path) -> None:
        server.cuts[BIG] = [100_000, 50_000]
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)
        ranges = [headers.get("range") for headers in server.asked_for(f"/bucket/{ID}/{BIG}")]
        assert ranges == [None, "bytes=100000-", "bytes=150000-"]

    def test_progress_makes_the_tries_count_again(self, server: FakeHub, tmp_path: Path) -> None:
        server.cuts[BIG] = [20_000] * 10
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)

    def test_the_next_run_goes_on_where_the_last_one_stopped(self, server: FakeHub, tmp_path: Path) -> None:
        server.cuts[BIG] = [100_000, 0, 0, 0]
        with pytest.raises(FetchError, match="cannot be reached"):
            fetch(server, tmp_path / "out")
        server.cuts.clear()
        server.requests.clear()
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)
        assert [headers["range"] for headers in server.asked_for(f"/bucket/{ID}/{BIG}")] == ["bytes=100000-"]
        assert not server.asked_for(f"resolve/{COMMIT}/{SMALL}"), "what is whole is kept"

    def test_a_server_without_ranges_starts_again(self, server: FakeHub, tmp_path: Path) -> None:
        server.cuts[BIG] = [100_000]
        server.ignores_ranges = True
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)

    def test_server_errors_in_a_file_are_retried(self, server: FakeHub, tmp_path: Path) -> None:
        server.failures["/bucket/"] = [502, 429]
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", BIG)

    @pytest.mark.parametrize("name", [BIG, SMALL])
    def test_bytes_that_changed_on_the_way_are_fetched_again(
        self, server: FakeHub, tmp_path: Path, name: str
    ) -> None:
        server.garbled[name] = 1
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", name)

    @pytest.mark.parametrize("name", [BIG, SMALL])
    def test_a_wrong_hash_is_refused(self, server: FakeHub, tmp_path: Path, name: str) -> None:
        server.garbled[name] = 2
        with pytest.raises(FetchError, match=f"{name} does not have the hash"):
            fetch(server, tmp_path / "out")
        assert not (tmp_path / "out" / name).exists()

    def test_a_file_that_has_changed_on_disk_is_fetched_again(self, server: FakeHub, tmp_path: Path) -> None:
        fetch(server, tmp_path / "out")
        (tmp_path / "out" / SMALL).write_text('{"small": fals}')
        fetch(server, tmp_path / "out")
        assert same(server, tmp_path / "out", SMALL)

    def test_a_disk_that_is_too_small_is_told_before_the_download(
        self, server: FakeHub, tmp_path: Path
    ) -> None:
        server.repos[ID].sizes[BIG] = 10**18
        with pytest.raises(OSError, match=r"needs 1000000000.0 GB and the disk has"):
            fetch(server, tmp_path / "out")
        assert not server.asked_for("resolve")


class TestRefusals:
    def test_unknown_repository(self, server: FakeHub) -> None:
        with pytest.raises(FetchError, match="there is no model someone/else on the hub"):
            make_hub(server).look_up("someone/else", None)

    def test_unknown_revision(self, server: FakeHub) -> None:
        with pytest.raises(FetchError, match=f"{ID} has no revision {'f' * 40}"):
            make_hub(server).look_up(ID, "f" * 40)

    def test_gated_without_a_token(self, server: FakeHub, tmp_path: Path) -> None:
        server.repos[ID].gated = True
        with pytest.raises(FetchError, match=r"is gated; give a token .*--token-file"):
            fetch(server, tmp_path / "out")

    def test_gated_with_another_account_s_token(self, server: FakeHub, tmp_path: Path) -> None:
        server.repos[ID].gated = True
        with pytest.raises(FetchError, match="has not been granted access"):
            fetch(server, tmp_path / "out", token="hf_other")

    @pytest.mark.parametrize("kind", ["gated", "private"])
    def test_the_right_token_opens(self, server: FakeHub, tmp_path: Path, kind: str) -> None:
        setattr(server.repos[ID], kind, True)
        fetch(server, tmp_path / "out", token=TOKEN)
        assert same(server, tmp_path / "out", BIG)

    def test_the_token_stays_with_the_hub(self, server: FakeHub, tmp_path: Path) -> None:
        fetch(server, tmp_path / "out", token=TOKEN)
        assert all("authorization" in headers for headers in server.asked_for("/resolve/"))
        assert not any("authorization" in headers for headers in server.asked_for("/bucket/"))

    def test_without_a_token_none_is_sent(
        self, server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
        fetch(server, tmp_path / "out")
        assert not any("authorization" in headers for _, headers in server.requests)

    def test_a_file_that_is_listed_but_gone(self, server: FakeHub, tmp_path: Path) -> None:
        hub = make_hub(server)
        found = hub.look_up(ID, COMMIT)
        (server.repos[ID].folder / SMALL).unlink()
        with pytest.raises(FetchError, match="lists a file that it does not have"):
            hub.download(found, [SMALL], tmp_path / "out")

    def test_no_hub_at_the_address(self) -> None:
        hub = Hub(endpoint="http://127.0.0.1:1", tries=2, wait_s=0.01)
        with pytest.raises(FetchError, match=r"cannot be reached.*give a local folder"):
            hub.look_up(ID, None)

    def test_a_hub_that_stays_broken(self, server: FakeHub) -> None:
        server.failures["/api/"] = [503] * 9
        with pytest.raises(FetchError, match="the hub answers 503"):
            make_hub(server).look_up(ID, None)
