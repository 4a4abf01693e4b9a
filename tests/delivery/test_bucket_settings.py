"""Every form in which providers hand out an endpoint is understood; what makes no sense stops at start."""

import os

import pytest

from sdworker.delivery import Bucket, Delivery
from sdworker.settings import SettingsError, load_settings

SECRET = "the-secret-key"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("BUCKET_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUCKET_ACCESS_KEY_ID", "the-key-id")
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", SECRET)


def bucket_of(monkeypatch: pytest.MonkeyPatch, url: str, **environment: str) -> Bucket:
    monkeypatch.setenv("BUCKET_ENDPOINT_URL", url)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket.from_settings(load_settings())
    assert bucket is not None
    return bucket


def link(bucket: Bucket) -> str:
    """Where objects of this bucket lie."""
    return bucket.link("k").partition("?")[0]


@pytest.mark.parametrize(
    ("url", "name", "region", "object_url"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "pics", "eu-west-1", "https://pics.s3.eu-west-1.amazonaws.com/k"),
        ("https://pics.s3.eu-west-1.amazonaws.com", "", "eu-west-1", "https://pics.s3.eu-west-1.amazonaws.com/k"),
        ("https://pics.s3.amazonaws.com/", "", "us-east-1", "https://pics.s3.amazonaws.com/k"),
        ("https://pics.s3-us-west-2.amazonaws.com", "pics", "us-west-2", "https://pics.s3-us-west-2.amazonaws.com/k"),
        ("https://my.pics.s3.eu-west-1.amazonaws.com", "", "eu-west-1", "https://s3.eu-west-1.amazonaws.com/my.pics/k"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com/pics", "", "eu-west-1",
         "https://pics.s3.dualstack.eu-west-1.amazonaws.com/k"),
        ("https://pics.nyc3.digitaloceanspaces.com", "", "nyc3", "https://pics.nyc3.digitaloceanspaces.com/k"),
        ("https://nyc3.digitaloceanspaces.com", "pics", "nyc3", "https://pics.nyc3.digitaloceanspaces.com/k"),
        ("https://acc.r2.cloudflarestorage.com/pics", "", "auto", "https://acc.r2.cloudflarestorage.com/pics/k"),
        ("https://acc.r2.cloudflarestorage.com/pics", "pics", "auto", "https://acc.r2.cloudflarestorage.com/pics/k"),
        ("https://s3.us-west-004.backblazeb2.com", "pics", "us-west-004", "https://pics.s3.us-west-004.backblazeb2.com/k"),
        ("https://s3.fr-par.scw.cloud", "pics", "fr-par", "https://pics.s3.fr-par.scw.cloud/k"),
        ("https://storage.googleapis.com", "pics", "us-east-1", "https://storage.googleapis.com/pics/k"),
        ("http://minio:9000/pics", "", "us-east-1", "http://minio:9000/pics/k"),
        ("http://s3.example.com:9000", "pics", "us-east-1", "http://s3.example.com:9000/pics/k"),
        ("https://p.supabase.co/storage/v1/s3", "pics", "us-east-1", "https://p.supabase.co/storage/v1/s3/pics/k"),
    ],
)  # fmt: skip
def test_endpoints_as_providers_hand_them_out(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, region: str, object_url: str
) -> None:
    bucket = bucket_of(monkeypatch, url, BUCKET_NAME=name)
    assert bucket.region == region
    assert link(bucket) == object_url


def test_region_and_addressing_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = bucket_of(monkeypatch, "https://s3.eu-west-1.amazonaws.com/pics", BUCKET_ADDRESSING="path")
    assert link(bucket) == "https://s3.eu-west-1.amazonaws.com/pics/k"
    bucket = bucket_of(
        monkeypatch, "https://minio.example/pics", BUCKET_ADDRESSING="virtual", BUCKET_REGION="here"
    )
    assert link(bucket) == "https://pics.minio.example/k"
    assert bucket.region == "here"


@pytest.mark.parametrize(
    ("url", "name", "said"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "", "BUCKET_NAME"),
        ("https://minio.example/", "", "BUCKET_NAME"),
        ("https://pics.nyc3.cdn.digitaloceanspaces.com", "", "BUCKET_NAME"),
        ("https://minio.example/a/b", "", "BUCKET_ENDPOINT_URL: its path is more than a bucket's name"),
        (
            "https://one.s3.eu-west-1.amazonaws.com",
            "other",
            "names the bucket 'one' but the name given is 'other'",
        ),
        ("https://user:word@minio.example/pics", "", "without credentials"),
        ("https://minio.example/pics?x=word", "", "without credentials"),
    ],
)
def test_an_endpoint_that_makes_no_sense_stops_at_start(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, said: str
) -> None:
    monkeypatch.setenv("BUCKET_ENDPOINT_URL", url)
    monkeypatch.setenv("BUCKET_NAME", name)
    with pytest.raises(SettingsError, match=said) as caught:
        Delivery(load_settings())
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["BUCKET_ENDPOINT_URL"], ["BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"]),
        (["BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID"], ["BUCKET_SECRET_ACCESS_KEY"]),
        (["BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"], ["BUCKET_ENDPOINT_URL"]),
        (["BUCKET_NAME"], ["BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"]),
    ],
)
def test_half_a_configuration_stops_at_start_with_the_missing_names(
    monkeypatch: pytest.MonkeyPatch, given: list[str], missing: list[str]
) -> None:
    every = ["BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY", "BUCKET_NAME"]
    for name in every:
        monkeypatch.setenv(name, "https://minio.example/pics" if name in given else "")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for name in every[:3]:
        assert (name in str(caught.value)) == (name in missing)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_mangled_key_is_found_at_start_and_not_repeated(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with pytest.raises(SettingsError, match="BUCKET_SECRET_ACCESS_KEY") as caught:
        bucket_of(monkeypatch, "https://minio.example/pics", BUCKET_SECRET_ACCESS_KEY=key)
    assert key not in str(caught.value)


def test_blanks_around_a_pasted_key_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = bucket_of(monkeypatch, "https://minio.example/pics", BUCKET_SECRET_ACCESS_KEY=f" {SECRET}\n")
    assert bucket.keys.secret == SECRET
