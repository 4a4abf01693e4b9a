"""The largest image, where a deployment does not say: by the GPU's memory and the model's own size."""

import pytest

from sdworker.request import Contract, InputError, ServedModel
from sdworker.request.sizes import suggested_pixels
from sdworker.settings import Settings

CARD_24 = 24_564 * 2**20  # what a card of 24 GB says it has
CARD_16 = 16_376 * 2**20
CARD_12 = 12_288 * 2**20


@pytest.mark.parametrize(
    ("own", "memory_bytes", "side"),
    [
        (512, CARD_24, 2048),
        (512, CARD_16, 1536),
        (512, CARD_12, 1024),
        (512, None, 1024),
        (1024, CARD_24, 2048),
        (1024, None, 1024),
        (128, CARD_24, 512),
        (128, None, 512),
        (64, None, 512),
        (1536, None, 1536),
    ],
)
def test_it_is_what_the_device_holds_and_the_model_makes_sense_of(
    own: int, memory_bytes: int | None, side: int
) -> None:
    assert suggested_pixels((own, own), memory_bytes) == side**2
    contract = Contract(Settings(), (own, own), memory_bytes=memory_bytes)
    assert contract.fits(side, side)
    assert not contract.fits(side + 8, side)


def test_what_the_deployment_says_counts_alone() -> None:
    contract = Contract(Settings(max_pixels=640 * 640), (512, 512), memory_bytes=CARD_24)
    with pytest.raises(InputError, match=r"at most 409600 \(MAX_PIXELS\)"):
        contract.parse({"prompt": "x", "width": 648, "height": 640})


def test_a_default_size_of_the_deployments_may_always_be_drawn() -> None:
    contract = Contract(Settings(default_width=1536, default_height=1024), (128, 128))
    assert contract.parse({"prompt": "x"}).width == 1536


def test_a_photo_without_a_size_is_drawn_as_large_as_anywhere() -> None:
    contract = Contract(Settings(), (512, 512), memory_bytes=CARD_24)
    request = contract.parse({"prompt": "x", "init_image": "x"})
    width, height = contract.size_for(request, (4000, 3000))
    assert 0.9 * 1024**2 < width * height <= 1024**2
    assert contract.parse({"prompt": "x", "width": 2048, "height": 2048}).width == 2048


def test_each_model_has_its_own() -> None:
    models = (ServedModel("small", (128, 128)), ServedModel("large", (1024, 1024)))
    contract = Contract(Settings(), (128, 128), models)
    large = contract.parse({"prompt": "x", "model": "large", "width": 512, "height": 512, "hires": {}})
    assert contract.hires_size(large, (512, 512)) == (1024, 1024)
    with pytest.raises(InputError, match=r"hires: 1024x1024 is too large; .* 262144 \(MAX_PIXELS\)"):
        contract.parse({"prompt": "x", "model": "small", "width": 512, "height": 512, "hires": {}})


def test_the_schema_tells_it_for_each_model() -> None:
    assert Contract(Settings(), (128, 128)).schema()["maxPixels"] == 512**2
    models = (ServedModel("small", (128, 128)), ServedModel("large", (1024, 1024)))
    schema = Contract(Settings(), (128, 128), models, CARD_24).schema()
    assert schema["maxPixels"] == 512**2
    assert schema["properties"]["model"]["maxPixelsOf"] == {"small": 512**2, "large": 2048**2}
