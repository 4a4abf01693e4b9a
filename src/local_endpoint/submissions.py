"""What a caller may send to /run and /runsync, checked field by field."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from local_endpoint.bodies import dump_json, parse_json
from local_endpoint.config import Config
from local_endpoint.core import Submission
from local_endpoint.errors import ApiError

__all__ = ["parse_submission"]

_LONGEST_MS = 7 * 86_400_000
_S3_FIELDS = ("accessId", "accessSecret", "bucketName", "endpointUrl")


def parse_submission(body: bytes, *, sync: bool, config: Config) -> Submission:
    """The checked request. Raises `ApiError` 400 that names the field, what it was and what it may be."""
    request = parse_json(body)
    if not isinstance(request, dict):
        raise _bad("the body", request, "a JSON object")
    if not isinstance(request.get("input"), dict):
        raise _bad("input", request.get("input"), 'a JSON object, as in {"input": {"prompt": "…"}}')
    webhook = _webhook(request.get("webhook"))
    policy = _policy(request.get("policy"))
    extras = {"webhook": webhook, "policy": policy, "s3Config": _s3_config(request.get("s3Config"))}
    return Submission(
        sync=sync,
        input=dump_json(request["input"]),
        extras=dump_json({name: value for name, value in extras.items() if value is not None}),
        webhook=webhook,
        execution_timeout_ms=_time_ms(
            policy,
            "executionTimeout",
            config.execution_timeout_ms,
            config.least_execution_timeout_ms if config.strict else 1,
        ),
        ttl_ms=_time_ms(policy, "ttl", config.ttl_ms, config.least_ttl_ms if config.strict else 1),
        low_priority=_low_priority(policy),
    )


def _bad(name: str, value: Any, allowed: str) -> ApiError:
    given = "missing" if value is None else f"{str(value)[:60]!r}"
    return ApiError(400, f"{name} must be {allowed}; it is {given}")


def _policy(policy: Any) -> Mapping[str, Any] | None:
    if policy is not None and not isinstance(policy, dict):
        raise _bad("policy", policy, "a JSON object")
    return policy


def _time_ms(policy: Mapping[str, Any] | None, name: str, default: int, least: int) -> int:
    value = (policy or {}).get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise _bad(f"policy.{name}", value, "a whole number of milliseconds")
    if not least <= value <= _LONGEST_MS:
        raise _bad(f"policy.{name}", value, f"between {least} and {_LONGEST_MS} ms (seven days)")
    return int(value)


def _low_priority(policy: Mapping[str, Any] | None) -> bool:
    value = (policy or {}).get("lowPriority")
    if value is not None and not isinstance(value, bool):
        raise _bad("policy.lowPriority", value, "true or false")
    return bool(value)


def _webhook(url: Any) -> str | None:
    if url is None:
        return None
    allowed = "an http or https URL of at most 2048 characters"
    if not isinstance(url, str) or len(url) > 2048:
        raise _bad("webhook", url, allowed)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise _bad("webhook", url, allowed)
    return url


def _s3_config(config: Any) -> Mapping[str, Any] | None:
    if config is None:
        return None
    if not isinstance(config, dict):
        raise ApiError(400, f"s3Config must be a JSON object with {', '.join(_S3_FIELDS)}")
    for name in _S3_FIELDS:
        # The value is a secret, or next to one: it is not repeated in the answer.
        if name in config and not isinstance(config[name], str):
            raise ApiError(400, f"s3Config.{name} must be a string")
    return config
