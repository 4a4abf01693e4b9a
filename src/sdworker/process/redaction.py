"""What must not stand in a log: keys, signed links, and what is too long to be read.

One place for all who write there: the worker, the SDK, boto and its friends, tracebacks.
"""

import os
import re
import threading
from collections import OrderedDict

__all__ = ["redact", "remember"]

_GONE = "[redacted]"
# Shorter ones would be found in ordinary words.
_SHORTEST_SECRET = 8
_MOST_REMEMBERED = 512

_SECRET_VARIABLES = (
    "RUNPOD_AI_API_KEY",
    "RUNPOD_API_KEY",
    "BUCKET_ACCESS_KEY_ID",
    "BUCKET_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "CIVITAI_TOKEN",
)

# A name, however it is quoted or escaped, and what separates it from its value.
_NAMED = r"""(?P<name>\b(?:{names})[\\"']{{0,4}}\s{{0,4}}[:=]\s{{0,4}}[\\"']{{0,4}}(?:(?:Bearer|Basic)\s)?)"""
_SECRET_NAMES = "|".join(
    (
        r"access_?-?id",
        r"access_?-?secret",
        r"access_?key_?id",
        r"aws_?access_?key_?id",
        r"secret_?access_?key",
        r"secret_?key",
        r"aws_?secret_?access_?key",
        r"aws_?session_?token",
        r"session_?token",
        r"security_?token",
        r"hf_token",
        r"civitai_token",
        r"bucket_access_key_id",
        r"bucket_secret_access_key",
        r"runpod_(?:ai_)?api_key",
        r"api_?key",
        r"authorization",
        r"x-amz-security-token",
        r"password",
    )
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A query that signs a link, or otherwise lets whoever reads it in.
    (
        re.compile(
            r"(?P<name>(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|\bSignature|AWSAccessKeyId|"
            r"GoogleAccessId|[?&](?:sig|token|access_token|api_?key|key))(?:=|%3D))[^&\s\"'\\<>,]+",
            re.IGNORECASE,
        ),
        rf"\g<name>{_GONE}",
    ),
    # AWS4-HMAC-SHA256 Credential=…/…, SignedHeaders=…, Signature=…
    (re.compile(r"(?P<name>Credential=)[^,\s\"'\\]+", re.IGNORECASE), rf"\g<name>{_GONE}"),
    (
        re.compile(_NAMED.format(names=_SECRET_NAMES) + r"(?!\[redacted\])[^\s\"'\\,;}\])&]+", re.IGNORECASE),
        rf"\g<name>{_GONE}",
    ),
    # Key ids are known by their looks.
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{12,}\b"), _GONE),
    # https://user:password@host
    (re.compile(r"(?P<scheme>[a-z]://)[^/\s:@\"']+:[^/\s@\"']+@", re.IGNORECASE), rf"\g<scheme>{_GONE}@"),
)  # fmt: skip
# Pictures: nobody reads them, and they are somebody's.
_BASE64 = re.compile(r"[A-Za-z0-9+/]{512,}={0,2}")

_remembered: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()


def remember(secret: object) -> None:
    """Never let this text into a log again; of what jobs bring, the latest few hundred are known."""
    if not isinstance(secret, str) or not _SHORTEST_SECRET <= len(secret) <= 4096:
        return
    with _lock:
        _remembered[secret] = None
        _remembered.move_to_end(secret)
        if len(_remembered) > _MOST_REMEMBERED:
            _remembered.popitem(last=False)


def redact(text: str) -> str:
    """The text without secrets and without pictures."""
    for secret in _known_secrets():
        if secret in text:
            text = text.replace(secret, _GONE)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _BASE64.sub(lambda found: f"[{len(found[0])} characters]", text)


def _known_secrets() -> list[str]:
    with _lock:
        remembered = list(_remembered)
    variables = (os.environ.get(name, "").strip() for name in _SECRET_VARIABLES)
    return remembered + [value for value in variables if len(value) >= _SHORTEST_SECRET]
