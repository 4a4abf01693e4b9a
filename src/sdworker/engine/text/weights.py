"""A text with attention weights, as AUTOMATIC1111's web UI reads it. Pure: no tokens, no tensors.

    (x)      x times 1.1              \\( \\) \\[ \\] \\: \\| \\\\    the character itself
    [x]      x divided by 1.1         BREAK                  a new chunk begins here
    (x:1.3)  x times 1.3

Brackets multiply where they nest. Round and square ones close independently; one that is never closed runs to the
end, one that closes nothing is text, and so is a weight that is no number or stands in square brackets. Neighbours
of equal weight are one fragment. Work grows with the text's length alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["NUMBER", "Fragment", "read_weights"]

NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"

_MORE, _LESS = 1.1, 1 / 1.1
_MARK = re.compile(
    rf"(?P<escape>\\[()\[\]\\:|])|(?P<weight>:\s*({NUMBER})\s*\))|(?P<break>\bBREAK\b)|[()\[\]]"
)


@dataclass(frozen=True)
class Fragment:
    """A piece of a text, tokenised alone.

    Attributes:
        text: as it is meant: without brackets, weights and escapes.
        weight: how many times what it says counts; 1 is as usual.
        breaks: a `BREAK` stands before it: it begins a chunk.
    """

    text: str
    weight: float = 1.0
    breaks: bool = False


@dataclass
class _Bracket:
    """An opening bracket; `factor` is known once it is closed."""

    sign: str
    factor: float


class _Break:
    pass


_BREAK = _Break()
_Item = str | _Bracket | _Break


def read_weights(text: str) -> list[Fragment]:
    """A text's fragments, in order; none is empty but for a `BREAK` with nothing behind it."""
    fragments: list[Fragment] = []
    pieces: list[str] = []
    weight, breaks = 1.0, False

    def finish() -> None:
        joined = "".join(pieces)
        if joined or breaks:
            fragments.append(Fragment(joined, weight, breaks))
        pieces.clear()

    for piece, piece_weight in _weighted(_read_brackets(text)):
        if isinstance(piece, _Break):
            finish()
            breaks = True
            weight = piece_weight
        elif piece:
            if piece_weight != weight:
                if pieces:
                    finish()
                    breaks = False
                weight = piece_weight
            pieces.append(piece)
    finish()
    return fragments


def _read_brackets(text: str) -> list[_Item]:
    """Text, opening and closing brackets in order. A closing one is the same object as the one it closes."""
    items: list[_Item] = []
    round_: list[_Bracket] = []
    square: list[_Bracket] = []
    position = 0
    after_break = False
    for mark in _MARK.finditer(text):
        plain = text[position : mark.start()]
        position = mark.end()
        if after_break:
            plain = plain.lstrip()
        after_break = mark["break"] is not None
        items.append(plain.rstrip() if after_break else plain)
        sign = mark[0]
        if after_break:
            items.append(_BREAK)
        elif mark["escape"]:
            items.append(sign[1])
        elif sign in ("(", "["):
            opened = _Bracket(sign, _MORE if sign == "(" else _LESS)
            (round_ if sign == "(" else square).append(opened)
            items.append(opened)
        elif sign == "]":
            items.append(square.pop() if square else sign)
        elif round_:
            closed = round_.pop()
            if mark["weight"]:
                closed.factor = float(mark[3])
            items.append(closed)
        else:
            items.append(sign)
    rest = text[position:]
    items.append(rest.lstrip() if after_break else rest)
    return items


def _weighted(items: list[_Item]) -> Iterator[tuple[str | _Break, float]]:
    """Each text, and each break, with the product of the brackets around it."""
    products = {"(": [1.0], "[": [1.0]}
    opened: set[int] = set()
    for item in items:
        if isinstance(item, _Bracket):
            stack = products[item.sign]
            if id(item) in opened:
                stack.pop()
            else:
                opened.add(id(item))
                stack.append(stack[-1] * item.factor)
        else:
            yield item, products["("][-1] * products["["][-1]
