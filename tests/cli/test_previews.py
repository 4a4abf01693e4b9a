"""Previews in a terminal that shows pictures, and in a file where none does."""

import base64
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from sdworker.cli import previews
from sdworker.cli.previews import PreviewScreen, escape_for


@pytest.fixture
def preview() -> str:
    file = BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("environment", "escape"),
    [
        ({"KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_terminals_are_known_by_their_variables(environment: dict[str, str], escape: str | None) -> None:
    assert escape_for(environment) == escape


def test_without_such_a_terminal_the_last_one_is_in_a_file(
    tmp_path: Path, preview: str, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = PreviewScreen(tmp_path / "out")
    screen.show(preview)
    screen.show(preview)
    assert (tmp_path / "out" / "preview.jpg").read_bytes() == base64.b64decode(preview)
    assert capsys.readouterr().err.count("preview.jpg") == 1


def test_kitty_gets_a_png_in_chunks_it_takes(preview: str) -> None:
    parts = previews._kitty(preview).split("\x1b\\")[:-1]
    assert len(parts) > 1
    assert parts[0].startswith("\x1b_Ga=T,f=100,m=1;")
    assert all(part.startswith("\x1b_Gm=1;") for part in parts[1:-1])
    assert parts[-1].startswith("\x1b_Gm=0;")
    data = [part.partition(";")[2] for part in parts]
    assert max(map(len, data)) <= 4096
    assert Image.open(BytesIO(base64.b64decode("".join(data)))).format == "PNG"


def test_iterm_gets_the_file_as_it_is(preview: str) -> None:
    assert previews._iterm(preview) == f"\x1b]1337;File=inline=1:{preview}\a"
