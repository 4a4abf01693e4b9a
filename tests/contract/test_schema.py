"""The JSON Schema says what the contract does."""

import json
import math
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sdworker.request import Contract, InputError, Request, aliases_of
from sdworker.settings import Settings

CONTRACT = Contract(Settings(max_outputs=9, default_steps=12), (512, 640))
SCHEMA = CONTRACT.schema()
VALIDATOR = Draft202012Validator(SCHEMA)
NAMES = sorted(SCHEMA["properties"])
# What no schema of single fields can judge: each error of that kind holds one of these.
BEYOND_THE_SCHEMA = (
    "is given twice",
    "needs an init_image",
    "(MAX_PIXELS)",
    "is not a sampler",
    "is not a schedule",
    "cannot be had with",
    "is another schedule than",
    ", which this worker does not do",
    "is out of range; allowed: a whole number from 0 to 2^63-1 less num_outputs",
    "n_iter (num_outputs): ",
    "hires",
    "(MAX_UPSCALED_PIXELS)",
    "or 0 with an init_image and an upscale",
    "which draws nothing",
    "asks for a second pass",
    "one picture is enlarged to one",
    "surrogate pair",
    "is no model of this worker",
    "(controls[0].",
    "is no part of the steps",
    "is above the high threshold",
    "with those of the prompt",
    "needs controls to return",
    "asks for a refiner",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
likely = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        9,
        10,
        64,
        512,
        2048,
        500,
        -1,
        0.5,
        1.0,
        25.0,
        30,
        "x",
        "",
        " ",
        "png",
        "DDIM",
        2**63 - 1,
    ]
)
inputs = st.dictionaries(st.sampled_from(NAMES), likely | json_values, max_size=5) | st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=12), json_values, max_size=4
)


def with_prompt(given: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "x", **given}


def problem(given: object) -> str:
    try:
        CONTRACT.parse(given)
    except InputError as error:
        return str(error)
    return ""


def test_it_is_a_schema_of_2020_12() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_it_knows_every_name() -> None:
    ours = {name for field in Request.model_fields for name in (field, *aliases_of(field))}
    assert ours <= set(NAMES)
    assert all(SCHEMA["properties"][name]["deprecated"] for name in set(NAMES) - ours)


def test_it_speaks_of_this_deployment() -> None:
    properties = SCHEMA["properties"]
    assert properties["num_outputs"]["maximum"] == 9
    assert properties["num_inference_steps"]["default"] == 12
    assert (properties["width"]["default"], properties["height"]["default"]) == (512, 640)


def test_every_default_is_accepted() -> None:
    defaults = {name: part["default"] for name, part in SCHEMA["properties"].items() if "default" in part}
    assert VALIDATOR.is_valid(with_prompt(defaults))
    assert problem(with_prompt(defaults)) == ""


@settings(max_examples=400, deadline=None)
@given(inputs.map(with_prompt) | inputs)
@example({"prompt": "x", "width": 100})
@example({"prompt": "x", "seed": -2})
@example({"prompt": "x", "lora": "a"})
@example({"prompt": " "})
@example({"prompt": "x", "steps": None})
@example({"prompt": "x", "sampler": "Euler a"})
@example({"prompt": "x", "controlnet_units": None})
def test_it_accepts_what_the_contract_accepts_as_far_as_it_can_tell(given: dict[str, Any]) -> None:
    message = problem(given)
    if VALIDATOR.is_valid(given):
        assert not message or any(reason in message for reason in BEYOND_THE_SCHEMA), message
    else:
        # Letter case alone is more than the schema promises.
        lower = isinstance(given.get("output_format"), str) and {
            **given,
            "output_format": given["output_format"].lower(),
        }
        assert message or (lower and VALIDATOR.is_valid(lower))


odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from([10**4000, -(10**400), math.nan, "\ud800", "\0", "'" * 70, "\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), odd_values, max_size=6)
    | st.dictionaries(st.text(st.characters(exclude_categories=())) | st.none() | st.integers(), odd_values)
    | odd_values
)
def test_an_error_is_one_short_printable_line_whatever_was_given(given: object) -> None:
    message = problem(given)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 6000
