"""ControlNets in a job: by our own fields, and by those of the web UI, cog and diffusers."""

from typing import Any

import pytest

from sdworker.request import Contract, InputError
from sdworker.request.controls import Control
from sdworker.settings import Settings

PICTURE = "data:image/png;base64,AA=="
EDGES = Control(model="edges", image=PICTURE)


@pytest.fixture
def contract() -> Contract:
    return Contract(Settings(), (128, 128))


def refusal(contract: Contract, **given: Any) -> str:
    with pytest.raises(InputError) as error:
        contract.parse({"prompt": "x", **given})
    return str(error.value)


def unit(**fields: Any) -> dict[str, Any]:
    """The web UI's, with every key that its extension sends."""
    return {
        "enabled": True, "module": "none", "model": "edges [d14c016b]", "weight": 1.0, "image": PICTURE,
        "resize_mode": 1, "low_vram": False, "processor_res": 512, "threshold_a": -1, "threshold_b": -1,
        "guidance_start": 0.0, "guidance_end": 1.0, "control_mode": 0, "pixel_perfect": True,
        "effective_region_mask": None, "hr_option": "Both", "save_detected_map": True, "input_mode": "simple",
        "mask": None, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "controls"),
    [
        ({"controls": [{"model": "edges", "image": PICTURE}]}, (EDGES,)),
        ({"controls": None}, ()),
        ({"controls": []}, ()),
        (
            {"controls": [{"model": "edges", "input_image": PICTURE, "weight": 0.5, "module": "Canny"}]},
            (EDGES.model_copy(update={"scale": 0.5, "preprocessor": "canny"}),),
        ),
        (
            {"init_image": PICTURE, "controls": [{"model": "edges", "image": ""}]},
            (EDGES.model_copy(update={"image": None}),),
        ),
        # The web UI's.
        ({"alwayson_scripts": {"controlnet": {"args": []}}}, ()),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [unit(), unit(enabled=False)]}}},
            (EDGES.model_copy(update={"resize": "crop"}),),
        ),
        (
            {
                "alwayson_scripts": {
                    "controlnet": {
                        "args": [
                            unit(
                                module="canny",
                                threshold_a=80,
                                threshold_b=160,
                                resize_mode="Resize and Fill",
                                control_mode="ControlNet is more important",
                                guidance_end=0.8,
                                image={"image": PICTURE, "mask": None},
                            )
                        ]
                    }
                }
            },
            (
                Control(
                    model="edges",
                    image=PICTURE,
                    preprocessor="canny",
                    low_threshold=80,
                    high_threshold=160,
                    resize="fit",
                    guess_mode=True,
                    end=0.8,
                ),
            ),
        ),
        (
            {"controlnet_units": [{"input_image": PICTURE, "model": "edges", "guessmode": True}]},
            (EDGES.model_copy(update={"guess_mode": True}),),
        ),
        # cog's.
        (
            {
                "controlnet_1": "edge_canny",
                "controlnet_1_image": PICTURE,
                "controlnet_1_conditioning_scale": 0.75,
                "controlnet_1_start": 0.0,
                "controlnet_1_end": 0.5,
                "controlnet_2": "none",
                "controlnet_2_conditioning_scale": 0.8,
                "controlnet_3": "edges",
                "controlnet_3_image": PICTURE,
            },
            (
                Control(model="edge_canny", image=PICTURE, scale=0.75, end=0.5, preprocessor="canny"),
                EDGES,
            ),
        ),
        # diffusers'.
        (
            {
                "controlnet": "edges",
                "control_image": PICTURE,
                "controlnet_conditioning_scale": 0.4,
                "control_guidance_end": 0.9,
            },
            (EDGES.model_copy(update={"scale": 0.4, "end": 0.9}),),
        ),
        ({"guess_mode": False, "control_guidance_start": 0.0}, ()),
    ],
)
def test_every_way_to_ask_is_understood(
    contract: Contract, given: dict[str, Any], controls: tuple[Control, ...]
) -> None:
    assert contract.parse({"prompt": "x", **given}).controls == controls


def one(**fields: Any) -> dict[str, Any]:
    return {"controls": [{"model": "edges", "image": PICTURE, **fields}]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"controls": [{"image": PICTURE}]}, "controls[0].model: is missing"),
        (one(model=""), "controls[0].model: "),
        (
            one(image=None),
            "controls[0].image: is missing; allowed: a URL, a data URI or base64, or an init_image",
        ),
        (one(image=5), "controls[0].image: 5 is not allowed; allowed: a URL, a data URI or base64"),
        (one(scale=2.5), "controls[0].scale: 2.5 is not allowed; allowed: a number from 0 to 2"),
        (one(weight=-1), "controls[0].weight (controls[0].scale): -1 is not allowed"),
        (one(scale=float("nan")), "controls[0].scale: "),
        (one(start=-0.1), "controls[0].start: -0.1 is not allowed; allowed: a number from 0 to 1"),
        (one(end=1.1), "controls[0].end: 1.1 is not allowed; allowed: a number from 0 to 1"),
        (one(start=0.5, end=0.5), "controls[0].start, controls[0].end: 0.5 to 0.5 is no part of the steps"),
        (
            one(guidance_start=0.9, end=0.1),
            "controls[0].guidance_start (controls[0].start), controls[0].end: 0.9",
        ),
        (one(end=0.0), "controls[0].start, controls[0].end: 0 to 0 is no part of the steps"),
        (one(preprocessor="openpose_full"), "depth, pose and the like come ready made, with none"),
        (one(preprocessor=True), "controls[0].preprocessor: true is not allowed"),
        (one(resize="keep"), "controls[0].resize: 'keep' is not allowed; allowed: stretch, crop or fit"),
        (one(resize_mode=True), "controls[0].resize_mode (controls[0].resize): true is not allowed"),
        (one(low_threshold=-3), "controls[0].low_threshold: -3 is not allowed"),
        (
            one(preprocessor="canny", low_threshold=200, high_threshold=100),
            "controls[0].low_threshold: 200 is above the high threshold, 100",
        ),
        (one(guess_mode="yes"), "controls[0].guess_mode: 'yes' is not allowed"),
        (one(modle="edges"), "'modle' in controls[0]: there is no such field; the nearest is model"),
        (
            {"controls": one()["controls"] * 4},
            "controls: a list of 4 is out of range; allowed: a list of at most 3",
        ),
        (
            {"controls": ["edges"]},
            "controls[0]: a text of 5 characters is not allowed; allowed: an object with model",
        ),
        ({"return_control": True}, "return_control: needs controls to return"),
        (
            {"alwayson_scripts": {"controlnet": {"args": [unit(weight=9)]}}},
            "alwayson_scripts.controlnet.args[0].weight (controls[0].scale): 9 is not allowed",
        ),
        (
            {"alwayson_scripts": {"controlnet": {"args": [unit(control_mode=1)]}}},
            "alwayson_scripts.controlnet.args[0].control_mode: 1 is not allowed; allowed: 0 (balanced) or 2",
        ),
        (
            {"alwayson_scripts": {"controlnet": {"args": [unit(mask=PICTURE)]}}},
            "alwayson_scripts.controlnet.args[0].mask: asks for a mask of its own",
        ),
        (
            {"alwayson_scripts": {"controlnet": {"args": [7]}}},
            "alwayson_scripts.controlnet.args[0] (controls[0]): 7",
        ),
        (
            {"alwayson_scripts": {"controlnet": {"args": [unit()]}, "ADetailer": {"args": [{}]}}},
            "alwayson_scripts: 'ADetailer' asks for extensions",
        ),
        (
            {"alwayson_scripts": {"controlnet": {"args": {"0": {}}}}},
            "alwayson_scripts: 'controlnet' asks for",
        ),
        ({"controlnet": "edges"}, "controlnet[0].image (controls[0].image): is missing"),
        ({**one(), "controlnet": "edges", "control_image": PICTURE}, "controls: is given twice"),
    ],
)
def test_what_is_wrong_is_told_by_where_it_stands(
    contract: Contract, given: dict[str, Any], message: str
) -> None:
    told = refusal(contract, **given)
    assert message in told
    assert "AA==" not in told


def test_canny_and_threshold_have_thresholds_of_their_own() -> None:
    assert Control(model="x", preprocessor="canny").thresholds == (100, 200)
    assert Control(model="x", preprocessor="canny", low_threshold=250).thresholds == (250, 250)
    assert Control(model="x", preprocessor="threshold").thresholds[0] == 127
