"""The SDK's own variables, mended before it is imported.

The SDK reads them while it is imported or started, and an unusable value ends in a traceback or, worse, in a
worker that pings without a pause. None of them is worth not starting for: one sentence says what was wrong with it
and what is used instead.
"""

import math
import os
import sys
from collections.abc import Callable, MutableMapping

__all__ = ["DEFAULT_PING_INTERVAL_MS", "mend"]

DEFAULT_PING_INTERVAL_MS = 10_000
_PING_INTERVAL_MS = (100, 300_000)
_LEVELS = ("NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR")
_LEVELS_BY_OTHER_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR", "FATAL": "ERROR", "OFF": "NOTSET"}
_LONGEST_SHOWN = 40


def mend(
    environment: MutableMapping[str, str] = os.environ, say: Callable[[str], None] | None = None
) -> None:
    """Make the environment one that the SDK starts with; what is unusable is told, once, and replaced."""
    say = say or _say
    for name in ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"):
        _mend_level(name, environment, say)
    _mend_ping_interval(environment, say)
    for name, least, most in (("RUNPOD_REALTIME_PORT", 0, 65535), ("RUNPOD_REALTIME_CONCURRENCY", 1, 10_000)):
        _mend_count(name, least, most, environment, say)
    key = environment.get("RUNPOD_AI_API_KEY")
    if key is not None and key != key.strip():  # comes with pasting, and no header may hold it
        environment["RUNPOD_AI_API_KEY"] = key.strip()


def _mend_level(name: str, environment: MutableMapping[str, str], say: Callable[[str], None]) -> None:
    given = environment.get(name)
    if given is None:
        return
    level = given.strip().upper()
    level = _LEVELS_BY_OTHER_NAMES.get(level, level)
    if level in _LEVELS:
        environment[name] = level
        return
    if level:
        say(f"{name}: {_shown(given)} is not a level; allowed: {', '.join(_LEVELS)}; using INFO")
        environment[name] = "INFO"
    else:
        del environment[name]


def _mend_ping_interval(environment: MutableMapping[str, str], say: Callable[[str], None]) -> None:
    name = "RUNPOD_PING_INTERVAL"
    given = environment.get(name)
    if given is None:
        return
    least, most = _PING_INTERVAL_MS
    interval_ms = _number(given)
    if interval_ms is not None and least <= interval_ms <= most:
        environment[name] = str(int(interval_ms))
        return
    if given.strip():
        say(
            f"{name}: {_shown(given)} is not a number of milliseconds between {least} and {most}; "
            f"using {DEFAULT_PING_INTERVAL_MS}"
        )
    environment[name] = str(DEFAULT_PING_INTERVAL_MS)


def _mend_count(
    name: str, least: int, most: int, environment: MutableMapping[str, str], say: Callable[[str], None]
) -> None:
    given = environment.get(name)
    if given is None:
        return
    number = _number(given)
    if number is not None and number.is_integer() and least <= number <= most:
        environment[name] = str(int(number))
        return
    if given.strip():
        say(f"{name}: {_shown(given)} is not a whole number between {least} and {most}; left out")
    del environment[name]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: str) -> str:
    return ascii(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
