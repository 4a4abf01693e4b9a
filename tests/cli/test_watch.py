"""Previews in the terminal: over each other, and nothing but text where there is no terminal."""

import base64
import io
import re

from PIL import Image

from sdworker.cli.watch import Watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def preview(colour: str, size: tuple[int, int] = (8, 8)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_is_drawn_and_the_next_one_over_it() -> None:
    terminal = Terminal()
    watch = Watch(terminal)
    watch.show("step 1 of 2", preview("red"))
    first = terminal.getvalue()
    assert first.count("▀") == 8 * 4
    assert "38;2;255;0;0;48;2;255;0;0m" in first
    assert "step 1 of 2" in first
    watch.show("step 2 of 2", preview("blue"))
    assert terminal.getvalue()[len(first) :].startswith("\x1b[5A\r\x1b[38;2;0;0;255"), (
        "four lines and the text"
    )


def test_a_large_one_fits_the_terminal() -> None:
    terminal = Terminal()
    Watch(terminal).show("x", preview("red", (2000, 1000)))
    lines = re.sub(r"\x1b\[[\d;]*[a-zA-Z]", "", terminal.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= 64
    assert len(lines) <= 24


def test_the_last_picture_stays_when_there_is_no_new_one() -> None:
    terminal = Terminal()
    watch = Watch(terminal)
    watch.show("a", preview("red"))
    watch.show("b", "no picture at all")
    watch.show("c")
    assert terminal.getvalue().count("▀") == 3 * 32


def test_what_is_no_terminal_gets_each_line_once() -> None:
    file = io.StringIO()
    watch = Watch(file)
    for text in ("in the queue", "in the queue", "step 1 of 2"):
        watch.show(text, preview("red"))
    assert file.getvalue() == "in the queue\nstep 1 of 2\n"
