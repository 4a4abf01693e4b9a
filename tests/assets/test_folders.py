"""Names of files in folders."""

from pathlib import Path

import pytest

from sdworker.assets import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in (
        "baked/pencil.safetensors",
        "baked/styles/Ink.safetensors",
        "baked/notes.txt",
        "baked/.hidden.safetensors",
        "volume/pencil.safetensors",
        "volume/pixels.safetensors",
        "secret.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return Folders([tmp_path / "baked", tmp_path / "volume", tmp_path / "missing"])


def test_every_file_of_every_folder_has_a_name(folders: Folders) -> None:
    assert folders.names() == ["pencil", "pixels", "styles/Ink"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pencil", "baked/pencil.safetensors"),
        ("pencil.safetensors", "baked/pencil.safetensors"),
        ("PENCIL", "baked/pencil.safetensors"),
        ("styles/ink", "baked/styles/Ink.safetensors"),
        ("pixels", "volume/pixels.safetensors"),
        ("ink", "baked/styles/Ink.safetensors"),
        ("tyles/ink", None),
        ("", None),
        (".hidden", None),
        ("notes.txt", None),
        ("../secret", None),
        ("styles/../pencil", None),
        ("/etc/passwd", None),
        ("./pencil", None),
        ("pencil\0", None),
        ("styles", None),
        ("pencil/", None),
        ("..", None),
        ("styles\\ink", None),
        ("x" * 5000, None),
    ],
)
def test_a_name_finds_what_lies_in_a_folder_and_nothing_else(
    name: str, found: str | None, folders: Folders
) -> None:
    path = folders.find(name)
    assert (path and path.read_text()) == found


def test_an_unknown_names_error_offers_the_nearest_or_tells_what_there_is(folders: Folders) -> None:
    assert "did you mean 'pencil'?" in str(folders.unknown("pensil", "LoRA"))
    assert "there are pencil, pixels, styles/Ink" in str(folders.unknown("anime", "LoRA"))
    assert "nor any other" in str(Folders([]).unknown("anime", "LoRA"))


def test_files_that_come_and_go_are_seen_at_once(tmp_path: Path) -> None:
    folders = Folders([tmp_path / "loras"])
    assert folders.names() == []
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "new.safetensors").touch()
    assert folders.names() == ["new"]
    (tmp_path / "loras" / "new.safetensors").unlink()
    assert folders.find("new") is None


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "a.safetensors").touch()
    assert "a" in Folders([tmp_path]).names()
