"""Where a remote add-on's name leads: a URL, a repository of the Hugging Face hub, a version on Civitai."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from sdworker.assets.errors import AddOnError

__all__ = ["CIVITAI", "HUB", "Source", "is_remote", "parse_source"]

HUB, CIVITAI = "huggingface.co", "civitai.com"

_URL = re.compile(r"https?://", re.IGNORECASE)
_CIVITAI = re.compile(r"civitai:(\d{1,18})", re.IGNORECASE)
# As the hub itself allows them: https://huggingface.co/docs/hub/repositories
_HUB = re.compile(
    r"(?P<owner>[A-Za-z0-9][\w.-]{0,95})/(?P<name>[A-Za-z0-9][\w.-]{0,95})"
    r"(?::(?P<file>[^@:]{1,300}))?(?:@(?P<revision>[\w./-]{1,100}))?"
)


@dataclass(frozen=True)
class Source:
    """A remote file.

    Attributes:
        url: where its bytes are; of a hub's repository whose file is not named, its listing.
        shown: how errors speak of it; never with a query, which may be a signature or a token.
        host: whose token it is sent with.
        lists: `url` is a listing, and the file is the only one of the suffix in it.
    """

    url: str
    shown: str
    host: str
    lists: bool = field(default=False)


def is_remote(name: str) -> bool:
    """Whether a name can only be a remote one; a hub's `owner/name` may be a local file in a folder too."""
    return _URL.match(name) is not None or _CIVITAI.fullmatch(name) is not None


def parse_source(
    name: str, hosts: Collection[str], endpoints: Mapping[str, str] | None = None
) -> Source | None:
    """Where a name leads; None if it is none of a remote file's.

    Args:
        hosts: those that the deployment allows.
        endpoints: host → the base URL that stands for it (a mirror).

    Raises:
        AddOnError: it leads to a host that is not allowed, or is no URL.
    """
    source = _parse(name.strip(), endpoints or {})
    if source is None or _is_allowed(source.host, hosts):
        return source
    raise AddOnError(
        f"{source.shown} is on {source.host}, which this deployment does not fetch from "
        f"(ADDON_HOSTS {'allows ' + ', '.join(sorted(hosts)) if hosts else 'allows none'})"
    )


def _parse(name: str, endpoints: Mapping[str, str]) -> Source | None:
    if match := _CIVITAI.fullmatch(name):
        base = endpoints.get(CIVITAI, f"https://{CIVITAI}")
        return Source(f"{base}/api/download/models/{match[1]}", f"civitai:{match[1]}", CIVITAI)
    if _URL.match(name):
        return _parse_url(name)
    if match := _HUB.fullmatch(name):
        return _parse_hub(match, endpoints.get(HUB, f"https://{HUB}"))
    return None


def _parse_url(url: str) -> Source:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        port = parts.port
    except ValueError as error:
        raise AddOnError("the URL is not valid") from error
    if not host or parts.username is not None or parts.password is not None:
        raise AddOnError("the URL is not valid: it needs a host, and no name or password before it")
    shown = "".join(filter(str.isprintable, f"{host}{f':{port}' if port else ''}{parts.path}"))
    return Source(url, shown if len(shown) <= 120 else f"{shown[:117]}...", host)


def _parse_hub(match: re.Match[str], base: str) -> Source:
    repository = f"{match['owner']}/{match['name']}"
    revision = quote(match["revision"] or "main", safe="")
    shown = match[0]
    if match["file"] is None:
        return Source(f"{base}/api/models/{repository}/revision/{revision}", shown, HUB, lists=True)
    file = unquote(match["file"])
    if any(part in ("", ".", "..") for part in file.split("/")) or "\\" in file:
        raise AddOnError(f"{shown!r} names no file of a repository")
    return Source(f"{base}/{repository}/resolve/{revision}/{quote(file)}", shown, HUB)


def _is_allowed(host: str, hosts: Collection[str]) -> bool:
    return any(host == allowed or host.endswith(f".{allowed}") for allowed in hosts)
