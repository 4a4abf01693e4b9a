"""The two doors in: where a picture comes from makes no difference, and errors name the job's field."""

import base64
from dataclasses import replace
from io import BytesIO

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from sdworker.pictures import PictureError, PictureLimits, decode_mask, decode_picture, fetch_picture
from sdworker.settings import load_settings

LIMITS = PictureLimits(max_bytes=10**6, max_pixels=10**6, timeout_s=5, allow_private=True)


def png(colour: tuple[int, ...] = (255, 0, 0, 128)) -> bytes:
    file = BytesIO()
    Image.new("RGBA", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


async def test_a_url_a_data_uri_and_base64_give_the_same_picture_and_mask() -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=png(), content_type="application/octet-stream")

    app = web.Application()
    app.router.add_get("/cat.png", serve)
    text = base64.b64encode(png()).decode()
    async with TestServer(app) as server:
        for source in (str(server.make_url("/cat.png")), "data:image/png;base64," + text, text):
            file = await fetch_picture(source, field="init_image", limits=LIMITS)
            picture = await decode_picture(file, lambda size: size)
            assert (picture.shape, picture[0, 0].tolist()) == ((6, 8, 3), [255, 127, 127])
            mask = await decode_mask(file, (4, 2))
            assert (mask.shape, mask[0, 0]) == ((2, 4), 38)


@pytest.mark.parametrize(
    "source",
    ["", "nonsense!", "aGVsbG8=", "data:,x", "http://127.0.0.1:1/x", "file:///etc/passwd", "http://["],
)
async def test_every_error_begins_with_the_field(source: str) -> None:
    async def load() -> None:
        file = await fetch_picture(source, field="the_field", limits=replace(LIMITS, allow_private=False))
        await decode_picture(file, lambda size: size)

    with pytest.raises(PictureError, match=r"^the_field: "):
        await load()


async def test_limits_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_IMAGE_MB", "0.5")
    monkeypatch.setenv("MAX_IMAGE_MEGAPIXELS", "2")
    monkeypatch.setenv("IMAGE_TIMEOUT_S", "7")
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    limits = PictureLimits.from_settings(load_settings())
    assert limits == PictureLimits(500_000, 2_000_000, 7, allow_private=True)


def test_private_networks_are_closed_unless_the_settings_open_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", raising=False)
    assert not PictureLimits.from_settings(load_settings()).allow_private
