"""A store that was damaged in every way: what can be read is kept, and the old file is never lost."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from local_endpoint.config import Config
from local_endpoint.core import Core
from local_endpoint.jobs import Job, Status
from local_endpoint.ledger import FILE_NAME, Ledger
from local_endpoint.salvage import Salvaged, is_sound, salvage
from local_endpoint.sqlite_pages import rows_of
from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import Endpoint, eventually

JOBS = 60
PAGE = 4096
TABLES = ("jobs", "inputs", "results", "chunks", "webhooks", "counters")
FAR_MS = 10**13


def open_ledger(folder: Path) -> Ledger:
    return Ledger.open(folder, retention_ms=FAR_MS, sync_retention_ms=FAR_MS)


def payload(n: int) -> bytes:
    """Data that tells jobs apart, of all the sizes that are stored in different ways."""
    size = (10, 3000, 4100, 50_000)[n % 4]
    return json.dumps({"prompt": f"picture {n}", "pad": "x" * size}).encode()


def fill(ledger: Ledger) -> None:
    """A third done, a third in progress, a third waiting."""
    for n in range(JOBS):
        job = Job(
            id=f"job-{n}",
            sync=False,
            low_priority=False,
            execution_timeout_ms=FAR_MS,
            ttl_ms=FAR_MS,
            created_ms=n,
            queued_ms=n,
        )
        ledger.submit(job, payload(n), b"{}", "http://127.0.0.1:9/hook" if n % 5 == 0 else None)
    for _ in range(2 * JOBS // 3):
        ledger.take("w", "24", 1, 0, 1000)
    for n in range(JOBS // 3):
        ledger.add_chunk(f"job-{n}", "w", b"1", 1001)
        ledger.finish(f"job-{n}", "w", Status.COMPLETED, payload(n), None, 1002)


@pytest.fixture
def sound(quick_path: Path) -> Path:
    folder = quick_path / "data"
    ledger = open_ledger(folder)
    fill(ledger)
    ledger.empty_log()
    ledger.close()
    return folder


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES}


def damage_head(data: bytearray) -> None:
    data[:100] = bytes(100)


def damage_first_page(data: bytearray) -> None:
    data[:PAGE] = random.Random(1).randbytes(PAGE)


def cut_in_half(data: bytearray) -> None:
    del data[len(data) // 2 :]


def cut_amid_a_page(data: bytearray) -> None:
    del data[len(data) // 2 + 1000 :]


def overwrite_pages(data: bytearray) -> None:
    """Every fifth page, with noise."""
    noise = random.Random(2)
    for at in range(4 * PAGE, len(data) - PAGE, 5 * PAGE):
        data[at : at + PAGE] = noise.randbytes(PAGE)


def zero_pages(data: bytearray) -> None:
    for at in range(PAGE, len(data) - PAGE, 7 * PAGE):
        data[at : at + PAGE] = bytes(PAGE)


def flip_bits(data: bytearray) -> None:
    noise = random.Random(3)
    for _ in range(200):
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)


def text(data: bytearray) -> None:
    data[:] = b"these are my notes, not a database\n" * 1000


def half_a_line(data: bytearray) -> None:
    data[:] = b"x"


def somebody_elses(data: bytearray) -> None:
    """A database of another program, of which no row looks like ours."""
    with sqlite3.connect(":memory:") as db:
        db.executescript(
            "CREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT); "
            "INSERT INTO notes VALUES (1, 'mine'), (2, NULL); PRAGMA user_version = 1"
        )
        data[:] = db.serialize()


DAMAGES = [
    damage_head,
    damage_first_page,
    cut_in_half,
    cut_amid_a_page,
    overwrite_pages,
    zero_pages,
    flip_bits,
    text,
    half_a_line,
    somebody_elses,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_can_be_read_is_kept_and_the_old_file_put_aside_as_it_was(
    sound: Path, damage: Callable[[bytearray], None]
) -> None:
    before = contents(sound / FILE_NAME)
    path = sound / FILE_NAME
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    kept = salvage(sound, FAR_MS)
    assert kept is not None
    assert kept.aside.read_bytes() == bytes(data)
    assert kept.aside.name.startswith("jobs-damaged-2")
    assert is_sound(path)
    left = {each.name for each in sound.iterdir() if not each.name.endswith(("-wal", "-shm"))}
    assert left == {FILE_NAME, kept.aside.name}
    after = contents(path)
    assert kept.jobs == len(after["jobs"])
    old, given_up = {row[0]: row for row in before["jobs"]}, 0
    for row in after["jobs"]:
        if row[8] == old[row[0]][8]:
            assert row == old[row[0]] or damage is flip_bits
        else:
            given_up += 1
            assert row[8] == "FAILED"
    assert given_up == kept.lost_data
    if damage is not flip_bits:
        for table in ("inputs", "results", "chunks", "webhooks"):
            true = set(before[table])
            wrong = [
                row for row in after[table] if row not in true and b"{}" not in row and "lost" not in str(row)
            ]
            assert wrong == []
    assert {None} == {salvage(sound, FAR_MS)}, "it is whole now"
    if damage in (damage_head, damage_first_page):
        assert after == before
    if damage in (cut_in_half, cut_amid_a_page, overwrite_pages, zero_pages, flip_bits):
        assert kept.jobs >= JOBS // 3
    if damage in (text, half_a_line, somebody_elses):
        assert (kept.jobs, kept.results) == (0, 0)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_start_without_salvage_names_the_file_and_the_remedy_or_goes_on(
    sound: Path, damage: Callable[[bytearray], None]
) -> None:
    path = sound / FILE_NAME
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    try:
        core = Core(Config(folder=sound, keys=("k",), worker_key="w"))
    except sqlite3.DatabaseError as error:
        said = str(error)
    else:
        core.close()
        assert damage in (overwrite_pages, zero_pages, flip_bits, cut_in_half, cut_amid_a_page)
        return
    assert said.startswith(f"{path}: ")
    assert "--salvage keeps what can be read" in said


def test_all_rows_of_a_sound_file_are_found(sound: Path) -> None:
    rows = contents(sound / FILE_NAME)
    found = [tuple(values) for _, values in rows_of(sound / FILE_NAME)]
    for table in ("inputs", "results", "jobs", "webhooks", "chunks"):
        assert [(None, *row[1:]) in found for row in rows[table]] == [True] * len(rows[table])


@pytest.fixture
def killed(quick_path: Path) -> Path:
    """As a kill leaves it: the newest commits, takes of waiting jobs, are in the log only."""
    folder, killed = quick_path / "living", quick_path / "killed"
    ledger = open_ledger(folder)
    fill(ledger)
    ledger.empty_log()
    ledger.db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    ledger.take("late", "24", 5, 0, 2000)
    killed.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(folder / name, killed / name)
    ledger.close()
    assert (killed / f"{FILE_NAME}-wal").stat().st_size > PAGE
    return killed


def late_jobs(path: Path) -> int:
    return sum(row[9] == "late" for row in contents(path)["jobs"])


def test_what_is_in_the_log_alone_is_found_too(killed: Path) -> None:
    log = (killed / f"{FILE_NAME}-wal").read_bytes()
    with (killed / FILE_NAME).open("r+b") as file:
        file.write(bytes(100))
    kept = salvage(killed, FAR_MS)
    assert kept is not None
    assert late_jobs(killed / FILE_NAME) == 5
    assert kept.aside.with_name(f"{kept.aside.name}-wal").read_bytes() == log


def test_what_was_not_committed_is_not(killed: Path) -> None:
    with (killed / f"{FILE_NAME}-wal").open("r+b") as file:
        file.truncate(PAGE)
    rows = [values for _, values in rows_of(killed / FILE_NAME) if len(values) == 16]
    assert (len(rows), [row for row in rows if row[9] == "late"]) == (JOBS, [])


def test_a_sound_store_or_none_is_left_alone(sound: Path, quick_path: Path) -> None:
    before = (sound / FILE_NAME).read_bytes()
    assert salvage(sound, FAR_MS) is None
    assert (sound / FILE_NAME).read_bytes() == before
    assert salvage(quick_path, FAR_MS) is None


def test_a_second_time_in_the_same_second_overwrites_nothing(sound: Path) -> None:
    asides = []
    for _ in range(3):
        (sound / FILE_NAME).write_text("notes")
        kept = salvage(sound, FAR_MS)
        assert isinstance(kept, Salvaged)
        asides.append(kept.aside)
    assert len(set(asides)) == 3
    assert {aside.read_text() for aside in asides} == {"notes"}


def test_a_store_that_cannot_be_rebuilt_is_where_it_was(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sound / FILE_NAME).write_text("notes")

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Ledger, "open", full)
    with pytest.raises(OSError, match="no room for what can be salvaged"):
        salvage(sound, FAR_MS)
    assert not list(sound.glob("*salvage*"))
    assert (sound / FILE_NAME).read_text() == "notes"


def test_the_endpoint_says_what_to_do_does_it_and_goes_on(make_endpoint: MakeEndpoint) -> None:
    first = make_endpoint(process=True)
    done, waits = first.run({"seed": 1}), first.run({"seed": 2})
    assert first.take()["id"] == done
    first.done(done, output="the result")
    first.close()
    path = first.folder / FILE_NAME
    path.write_bytes(bytes(100) + path.read_bytes()[100:])

    refused = Endpoint(first.folder)
    with pytest.raises(AssertionError) as failed:
        refused.start()
    assert str(path) in str(failed.value)
    assert "--salvage" in str(failed.value)
    assert "Traceback" not in str(failed.value)

    again = make_endpoint("--salvage", folder=first.folder, process=True)
    assert "Salvaged: 2 jobs, 1 of them waiting, and 1 results" in again.log.read_text()
    assert again.status(done)["output"] == "the result"
    assert again.take()["input"] == {"seed": 2}
    again.done(waits, output="too")
    eventually(lambda: again.status(waits)["status"] == "COMPLETED")
