"""Where remote names lead."""

import pytest

from sdworker.assets import AddOnError
from sdworker.assets.sources import parse_source

HOSTS = ("huggingface.co", "civitai.com", "files.example.org")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("owner/repo:a.safetensors", "https://huggingface.co/owner/repo/resolve/main/a.safetensors"),
        (
            "owner/repo:sub/a b.safetensors@v1.0",
            "https://huggingface.co/owner/repo/resolve/v1.0/sub/a%20b.safetensors",
        ),
        ("owner/repo", "https://huggingface.co/api/models/owner/repo/revision/main"),
        ("owner/repo@refs/pr/1", "https://huggingface.co/api/models/owner/repo/revision/refs%2Fpr%2F1"),
        ("civitai:12345", "https://civitai.com/api/download/models/12345"),
        ("https://files.example.org/a.safetensors?sig=x", "https://files.example.org/a.safetensors?sig=x"),
        ("https://CDN.files.example.org/a", "https://CDN.files.example.org/a"),
        ("pencil", None),
        ("a/b/c", None),
        ("civitai:abc", None),
        ("owner/repo:", None),
    ],
)
def test_a_name_leads_to_its_url(name: str, url: str | None) -> None:
    source = parse_source(name, HOSTS)
    assert (source and source.url) == url


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://elsewhere.example/a.safetensors", "does not fetch from"),
        ("https://files.example.org.evil.example/a", "does not fetch from"),
        ("https://evilfiles.example.org/a", "does not fetch from"),
        ("https://user:pass@files.example.org/a", "not valid"),
        ("https://files.example.org@127.0.0.1/a", "not valid"),
        ("http://127.0.0.1/a", "does not fetch from"),
        ("http://[::1]:99999/a", "not valid"),
        ("https:///a", "not valid"),
        ("owner/repo:../../x", "names no file"),
        ("owner/repo:a//b", "names no file"),
        ("owner/repo:%2e%2e/x", "names no file"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, reason: str) -> None:
    with pytest.raises(AddOnError, match=reason):
        parse_source(name, HOSTS)


def test_without_allowed_hosts_the_error_names_the_setting() -> None:
    with pytest.raises(AddOnError, match=r"ADDON_HOSTS allows none"):
        parse_source("civitai:1", ())


def test_errors_never_repeat_a_query() -> None:
    with pytest.raises(AddOnError) as refused:
        parse_source("https://elsewhere.example/a?token=secret", HOSTS)
    assert "secret" not in str(refused.value)
