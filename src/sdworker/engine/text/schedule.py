"""Which text counts at which evaluation, as AUTOMATIC1111's web UI reads a prompt. Pure: no tokens, no tensors.

    [from:to:when]   `from` until then, `to` afterwards
    [to:when]        nothing until then, `to` afterwards
    [from::when]     `from` until then, nothing afterwards
    [a|b|c]          one after the other, a new one each evaluation
    a AND b :0.5     two prompts composed, the second by half

`when` with a dot is a fraction of the steps, else a step; the change comes at the first evaluation, counted from
0, that is greater than it. What is not whole (an unbalanced bracket, a `when` that is no number) is left as text,
for `weights.py` to read. Nesting is free; work grows with the text's length
times the evaluations at which it changes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.weights import NUMBER

__all__ = ["MOST_PARTS", "MOST_TEXTS", "Part", "Span", "read_parts", "read_schedule"]

MOST_PARTS = 16
"""Prompts that `AND` may join: each is a row of its own for every image."""
MOST_TEXTS = 100
"""Texts that one prompt may stand for: all are encoded before the first step."""

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(NUMBER)
_MARK = re.compile(r"\\.|[()\[\]:|]", re.DOTALL)
_PAIRS = {")": "(", "]": "["}


@dataclass(frozen=True)
class Span:
    """`text` counts at the evaluations before `until`, counted from 0, that no earlier span has."""

    until: int
    text: str


@dataclass(frozen=True)
class Part:
    """One of the prompts that `AND` joins.

    Attributes:
        weight: its share of the guidance; 1 is as usual.
        spans: what it says when; the last one's `until` is the number of evaluations.
    """

    weight: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class _Group:
    """A bracket that chooses one of its segments.

    Attributes:
        end: position behind its closing bracket.
        segments: begin and end of what it chooses from.
        last: the last evaluation at which the first of two segments counts; None: they alternate.
    """

    end: int
    segments: tuple[tuple[int, int], ...]
    last: int | None

    def choose(self, evaluation: int) -> tuple[int, int]:
        if self.last is None:
            return self.segments[evaluation % len(self.segments)]
        return self.segments[evaluation > self.last]


def read_parts(prompt: str, evaluations: int) -> tuple[Part, ...]:
    """The prompts that `AND` joins, each with its weight and schedule.

    Args:
        evaluations: the sampler's steps, twice as many for one of second order.

    Raises:
        PromptError: too many parts, or too many texts.
    """
    texts = _AND.split(prompt)
    if len(texts) == 1:
        return (Part(1.0, read_schedule(prompt, evaluations)),)
    if len(texts) > MOST_PARTS:
        raise PromptError(f"AND joins {len(texts)} prompts; allowed: at most {MOST_PARTS}")
    return tuple(Part(weight, read_schedule(text, evaluations)) for weight, text in map(_split_weight, texts))


def read_schedule(text: str, evaluations: int) -> tuple[Span, ...]:
    """What a text says at each evaluation; neighbouring spans differ.

    Raises:
        PromptError: it stands for too many texts.
    """
    groups = _find_groups(text, evaluations)
    positions = sorted(groups)
    spans: list[Span] = []
    texts: set[str] = set()
    starts = _changes(groups, evaluations)
    for start, end in zip(starts, [*starts[1:], evaluations], strict=True):
        said = _say(text, groups, positions, start)
        texts.add(said)
        if len(texts) > MOST_TEXTS:
            raise PromptError(
                f"its [ | ] and [ : : ] make more than {MOST_TEXTS} different texts; allowed: at most as many; "
                "leave some of them out, or ask for fewer steps"
            )
        if spans and spans[-1].text == said:
            spans.pop()
        spans.append(Span(end, said))
    return tuple(spans)


def _split_weight(part: str) -> tuple[float, str]:
    """A part's weight, `:0.5` at its end, and its text."""
    text, colon, number = part.rpartition(":")
    if colon and _NUMBER.fullmatch(number.strip()):
        return float(number), text.strip()
    return 1.0, part.strip()


def _changes(groups: dict[int, _Group], evaluations: int) -> Sequence[int]:
    """The evaluations at which a text may be another than before, 0 among them."""
    if any(group.last is None for group in groups.values()):
        return range(evaluations)
    after = (group.last + 1 for group in groups.values() if group.last is not None)
    return sorted({0, *(start for start in after if 0 < start < evaluations)})


def _say(text: str, groups: dict[int, _Group], positions: list[int], evaluation: int) -> str:
    """The text with every group replaced by what it chooses at an evaluation."""
    pieces: list[str] = []
    position, end = 0, len(text)
    after: list[tuple[int, int]] = []  # where to go on behind the segments that are being read
    while True:
        index = bisect_left(positions, position)
        if index < len(positions) and positions[index] < end:
            opened = positions[index]
            pieces.append(text[position:opened])
            after.append((groups[opened].end, end))
            position, end = groups[opened].choose(evaluation)
            continue
        pieces.append(text[position:end])
        if not after:
            return "".join(pieces)
        position, end = after.pop()


def _find_groups(text: str, evaluations: int) -> dict[int, _Group]:
    """Position of the opening bracket → the group."""
    groups: dict[int, _Group] = {}
    for start, end, separators in _square_brackets(text):
        group = _make_group(text, start, end, separators, evaluations)
        if group is not None:
            groups[start] = group
    return groups


def _square_brackets(text: str) -> Iterator[tuple[int, int, list[int]]]:
    """Positions of `[`, its `]`, and the colons and bars between that stand in no bracket within.

    Only what is balanced within counts: a bracket that closes nothing makes text of all that is open around it.
    """
    opened: list[tuple[int, list[int]]] = []
    for mark in _MARK.finditer(text):
        position, sign = mark.start(), mark[0]
        if sign in "([":
            opened.append((position, []))
        elif sign in ":|":
            if opened:
                opened[-1][1].append(position)
        elif sign in ")]":
            if not opened or text[opened[-1][0]] != _PAIRS[sign]:
                opened.clear()
                continue
            start, separators = opened.pop()
            if sign == "]":
                yield start, position, separators


def _make_group(text: str, start: int, end: int, separators: list[int], evaluations: int) -> _Group | None:
    signs = {text[position] for position in separators}
    if signs == {"|"}:
        edges = [start, *separators, end]
        segments = [(before + 1, after) for before, after in pairwise(edges)]
        return _Group(end + 1, tuple(segments), None)
    if signs != {":"} or len(separators) > 2:
        return None
    when = text[separators[-1] + 1 : end].strip()
    if not _NUMBER.fullmatch(when):
        return None
    after = (separators[-2] + 1 if len(separators) == 2 else start + 1, separators[-1])
    before = (start + 1, separators[0]) if len(separators) == 2 else (start, start)
    change = float(when) * evaluations if "." in when else float(when)
    return _Group(end + 1, (before, after), int(min(max(change, -1.0), evaluations)))
