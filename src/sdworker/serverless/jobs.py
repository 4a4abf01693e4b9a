"""Judging what the platform hands over, before anything is made of it.

The body of a job-take is read here into jobs that can be run, ids that can be answered with an error, and what can
only be dropped. One job that is broken, or that breaks the reading itself (too deep for the parser, cut off),
takes no other with it.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NotJobs", "Taken", "read_jobs"]

_LONGEST_ID = 512
_DEEPEST = 64
_MOST_DIGITS = 30

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},:]', re.DOTALL)
_NO_PLACES = {".", ".."}  # as the last part of an address they lead elsewhere


class NotJobs(ValueError):
    """The platform's answer is nothing that jobs could be in."""


@dataclass(slots=True)
class Taken:
    """What one answer of the platform brought.

    Attributes:
        jobs: dicts with an `id` that is text and can stand in an address and in a log.
        refused: (id, why) of what cannot be run but can be answered.
        dropped: why, of what cannot even be answered.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.refused)


def read_jobs(body: bytes) -> Taken:
    """What the body of a job-take holds: one job, or a list of them; an empty list or null is no job.

    Raises:
        NotJobs: it is neither, saying what it is.
    """
    text = _decode(body)
    taken = Taken()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        _read_one_by_one(text, error, taken)
        return taken
    if value is None:
        return taken
    if not isinstance(value, (dict, list)):
        raise NotJobs(f"JSON, but {_kind(value)}")
    for job in value if isinstance(value, list) else [value]:
        _judge(job, taken)
    return taken


def _decode(body: bytes) -> str:
    """JSON is UTF-8, whatever a header says; UTF-16 and 32 are told from it. A stray byte spoils one character."""
    return body.decode(json.detect_encoding(body), "replace").removeprefix("\ufeff").strip()


def _judge(job: object, taken: Taken) -> None:
    if not isinstance(job, dict):
        taken.dropped.append(f"{_kind(job)} in a job's place")
        return
    if "id" not in job:
        taken.dropped.append("a job without an id")
        return
    job_id = job["id"]
    if isinstance(job_id, int) and not isinstance(job_id, bool) and abs(job_id) < 10**_MOST_DIGITS:
        taken.refused.append((str(job_id), f"id: {job_id} is a number; a job's id is text"))
        return
    why_not = _unusable(job_id)
    if why_not is not None:
        taken.dropped.append(f"a job whose id is {why_not}")
        return
    if not job_id.isprintable() or job_id != job_id.strip():
        taken.refused.append((job_id, "id: has characters in it that cannot be printed, or spaces around it"))
    elif _is_deeper_than(job, _DEEPEST):
        taken.refused.append((job_id, f"input: is nested deeper than {_DEEPEST} levels"))
    else:
        taken.jobs.append(job)


def _unusable(job_id: object) -> str | None:
    """Why a job with this id cannot even be answered, None if it can."""
    if not isinstance(job_id, str):
        return _kind(job_id)
    if not job_id.strip():
        return "blank"
    if len(job_id) > _LONGEST_ID:
        return f"{len(job_id)} characters long; allowed: {_LONGEST_ID}"
    if job_id in _NO_PLACES or any(unicodedata.category(character) == "Cs" for character in job_id):
        return f"{job_id!a}, which no address can name"
    return None


def _is_deeper_than(value: object, most: int) -> bool:
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")


# What the parser would not read as a whole.


def _read_one_by_one(text: str, error: Exception, taken: Taken) -> None:
    """Each job by itself, so that only the one at fault is lost.

    Raises:
        NotJobs: the text is neither a list nor an object.
    """
    if not text.startswith(("[", "{")):
        raise NotJobs(f"no JSON: {len(text)} characters" if text else "empty")
    for element in _elements(text):
        try:
            _judge(json.loads(element), taken)
        except (ValueError, RecursionError):
            job_id = _id_of(element)
            if job_id is None or _unusable(job_id) is not None:
                taken.dropped.append(f"a job that could not be read ({type(error).__name__})")
            else:
                taken.refused.append((job_id, "input: is not whole, or nested too deeply to be read"))


def _elements(text: str) -> Iterator[str]:
    """The elements of a list as they are written, without looking into them; an object is its own."""
    is_list = text.startswith("[")
    start = end = 1 if is_list else 0
    depth = 0
    for token in _TOKEN.finditer(text, start):
        end = token.start()
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
                if depth < 0:  # the list's own end
                    break
            case "," if is_list and depth == 0:
                yield text[start:end]
                start = token.end()
            case '"':  # never closed: all that follows is in it
                end = len(text)
                break
    else:
        end = len(text)
    if text[start:end].strip():
        yield text[start:end]


def _id_of(element: str) -> str | None:
    """The text under `id` of an object that cannot be read as a whole."""
    depth, before = 0, ""
    tokens = _TOKEN.finditer(element)
    for token in tokens:
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case '"id"' if depth == 1 and before in ("{", ","):
                colon, value = next(tokens, None), next(tokens, None)
                if colon is None or value is None or colon[0] != ":" or len(value[0]) < 2:
                    return None
                try:
                    return str(json.loads(value[0], strict=False))
                except ValueError:
                    return None
        before = token[0]
    return None
