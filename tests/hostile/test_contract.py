"""Inputs nobody should send. Each row: what is sent, and what it expects: `TAKEN`, or words of the refusal.

Whatever is sent, the answer is one printable line of fewer than 2,000 characters, comes in bounded time, and
repeats no prompt and no picture.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sdworker.request import Contract, InputError, Request
from sdworker.samplers import PAIRS
from sdworker.settings import Settings

TAKEN = ""
SECRET = "s3cr3t"
LONGEST_ERROR = 2000
SECONDS = 2.0  # of this thread's own time, whatever else the machine does

CONTRACT = Contract(Settings(), (512, 512))


def deep(levels: int, innermost: Any = 1) -> Any:
    for i in range(levels):
        innermost = [innermost] if i % 2 else {"a": innermost}
    return innermost


def holds_itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


class OddMapping(dict[str, Any]):
    """A dict that says it has more than it has."""

    def __len__(self) -> int:
        return 10**9


# What it is, what is sent beside a prompt, what is expected.
FIELDS: list[tuple[str, dict[Any, Any], str]] = [
    # Wrong types.
    ("a number for a text", {"negative_prompt": 5}, "negative_prompt: 5 is not allowed"),
    ("a list for a text", {"negative_prompt": ["x"]}, "negative_prompt: a list is not allowed"),
    ("an object for a text", {"scheduler": {"name": "DDIM"}}, "scheduler: an object is not allowed"),
    ("a text for a number", {"steps": "20"}, "allowed, without quotes: a whole number"),
    ("a text for a float", {"cfg_scale": "7"}, "allowed, without quotes: a number"),
    ("a text for a boolean", {"nsfw": "false"}, "allowed, without quotes: true or false"),
    ("a number for a boolean", {"nsfw": 0}, "nsfw: 0 is not allowed; allowed: true or false"),
    ("a list for a number", {"width": [512]}, "width: a list is not allowed"),
    ("an object for a number", {"seed": {}}, "seed: an object is not allowed"),
    ("a fraction for a whole number", {"steps": 20.5}, "steps (num_inference_steps): 20.5"),
    ("a whole float for a whole number", {"steps": 20.0}, TAKEN),
    ("an empty text for a number", {"width": ""}, "width: '' is not allowed"),
    ("a picture as an object", {"init_image": {"url": SECRET}}, "init_image: an object is not allowed"),
    ("a picture as a list", {"init_image": [SECRET]}, "init_image: a list is not allowed"),
    ("a picture as a number", {"mask": 1, "init_image": "data:,"}, "mask: 1 is not allowed"),
    (
        "a format as a number",
        {"output_format": 1},
        "output_format: 1 is not allowed; allowed: png, jpeg or webp",
    ),
    ("a format nobody has", {"output_format": "gif"}, "output_format: 'gif' is not allowed"),
    ("a sampler as a number", {"scheduler": 3}, "scheduler: 3 is not allowed"),
    ("a schedule as a number", {"schedule": 3}, "schedule: 3 is not allowed"),
    ("a resize as a number", {"resize": 1}, "resize: 1 is not allowed; allowed: stretch, crop, fill or keep"),
    # Booleans are no numbers.
    ("true for steps", {"steps": True}, "steps (num_inference_steps): true is not allowed"),
    ("true for width", {"width": True}, "width: true is not allowed"),
    ("false for guidance", {"guidance_scale": False}, "guidance_scale: false is not allowed"),
    ("true for a seed", {"seed": True}, "seed: true is not allowed"),
    ("false for a strength", {"strength": False}, "strength (prompt_strength): false is not allowed"),
    ("true for a quality", {"output_quality": True}, "output_quality: true is not allowed"),
    ("true beside 1", {"steps": 1, "num_inference_steps": True}, "is given twice"),
    # Numbers out of this world.
    ("NaN guidance", {"guidance_scale": math.nan}, "guidance_scale: nan is not allowed"),
    ("infinite guidance", {"guidance_scale": math.inf}, "guidance_scale: inf is not allowed"),
    ("minus infinite strength", {"strength": -math.inf}, "-inf is not allowed"),
    ("NaN steps", {"steps": math.nan}, "steps (num_inference_steps): nan is not allowed"),
    ("infinite width", {"width": math.inf}, "width: inf is not allowed"),
    ("NaN seed", {"seed": math.nan}, "seed: nan is not allowed"),
    ("1e308 steps", {"steps": 1e308}, "steps (num_inference_steps): a number too long"),
    ("1e308 for a seed", {"seed": 1e308}, "seed: "),
    ("5,000 digits of steps", {"steps": 10**5000}, "a number too long to repeat"),
    ("minus 5,000 digits of seed", {"seed": -(10**5000)}, "a number too long to repeat"),
    ("400 digits of guidance", {"guidance_scale": 10**400}, "guidance_scale: "),
    ("the largest seed", {"seed": 2**63 - 2}, TAKEN),
    ("one more than the largest seed", {"seed": 2**63 - 1}, "seed: 9223372036854775807 is out of range"),
    ("a seed of 2^63", {"seed": 2**63}, "seed: 9223372036854775808 is not allowed"),
    ("a seed whose last image's is too large", {"seed": 2**63 - 3, "num_outputs": 4}, "seed: "),
    ("seed -1", {"seed": -1}, TAKEN),
    ("seed -2", {"seed": -2}, "seed: -2 is not allowed"),
    ("minus zero", {"guidance_scale": -0.0}, TAKEN),
    ("no steps", {"steps": 0}, "steps (num_inference_steps): 0"),
    ("no images", {"num_outputs": 0}, "num_outputs: 0 is not allowed"),
    ("a thousand images", {"num_outputs": 1000}, "a whole number from 1 to 16 (MAX_OUTPUTS)"),
    ("10^18 images", {"num_outputs": 10**18}, "num_outputs: 1000000000000000000 is out of range"),
    ("a width of 7", {"width": 7}, "width: 7 is not allowed; allowed: a multiple of 8 from 64 to 2048"),
    ("a width of 513", {"width": 513}, "width: 513 is not allowed"),
    ("a negative width", {"width": -512}, "width: -512 is not allowed"),
    ("the largest sides together", {"width": 2048, "height": 2048}, "(MAX_PIXELS)"),
    ("the smallest number", {"guidance_scale": 5e-324}, TAKEN),
    # Unicode.
    (
        "half a surrogate pair in a negative prompt",
        {"negative_prompt": f"{SECRET}\ud800"},
        "not valid Unicode",
    ),
    ("half a surrogate pair in a picture", {"init_image": f"{SECRET}\udfff"}, "not valid Unicode"),
    ("half a surrogate pair in a sampler", {"scheduler": "\ud800"}, "is not"),
    ("half a surrogate pair in a schedule", {"schedule": "\ud800"}, "is not a schedule"),
    ("half a surrogate pair in a key", {"\ud800": 1}, "'\\ud800': there is no such field"),
    ("NUL in a negative prompt", {"negative_prompt": "a\0b"}, TAKEN),
    ("NUL in a sampler", {"scheduler": "DDIM\0"}, TAKEN),
    ("NUL in a key", {"prompt\0": "x"}, "'prompt\\x00': there is no such field; the nearest is prompt"),
    ("a right-to-left override", {"negative_prompt": "\u202eabc"}, TAKEN),
    ("a right-to-left override in a key", {"\u202eseed": 1}, "'\\u202eseed': there is no such field"),
    ("4,096 emoji", {"negative_prompt": "\U0001f436" * 4096}, TAKEN),
    ("4,097 emoji", {"negative_prompt": "\U0001f436" * 4097}, "a text of 4097 characters is not allowed"),
    ("60 emoji for a sampler", {"scheduler": "\U0001f436" * 60}, "a text of 60 characters is not a sampler"),
    ("4,096 combining marks", {"negative_prompt": "\u0301" * 4096}, TAKEN),
    ("line separators in a key", {"a\u2028b\n": 1}, "there is no such field"),
    ("a terminal's escape in a key", {"\x1b[31mred": 1}, "'\\x1b[31mred': there is no such field"),
    ("quotes in a sampler", {"scheduler": "'\"; DROP TABLE jobs"}, "is not a sampler"),
    ("full-width letters for a sampler", {"scheduler": "\uff24\uff24\uff29\uff2d"}, "is not a sampler"),
    ("a template in a sampler", {"scheduler": "{request.seed}%s%n"}, "'{request.seed}%s%n' is not a sampler"),
    ("markup in a format", {"output_format": "<b>png</b>"}, "output_format: "),
    ("a path for a sampler", {"scheduler": "../../etc/passwd"}, "is not a sampler"),
    # Long things.
    (
        "a million letters for a sampler",
        {"scheduler": "a" * 1_000_000},
        "a text of 1000000 characters is not",
    ),
    (
        "a million letters for a schedule",
        {"schedule": "a" * 1_000_000},
        "a text of 1000000 characters is not",
    ),
    ("a million letters for a format", {"output_format": "a" * 1_000_000}, "a text of 1000000 characters"),
    ("a million letters for a seed", {"seed": "1" * 1_000_000}, "a text of 1000000 characters"),
    ("a key of a million letters", {"prompt" * 200_000: 1}, "a text of 1200000 characters: there is no such"),
    ("100,000 unknown keys", {f"k{i}": i for i in range(100_000)}, "and 99995 more that are no fields"),
    ("100,000 unknown keys of 100 letters", {f"{i:0100}": i for i in range(100_000)}, "and 99995 more"),
    ("a list of a million", {"seed": [0] * 1_000_000}, "seed: a list is not allowed"),
    ("ten megabytes of picture", {"init_image": "A" * 10_000_000}, TAKEN),
    ("ten megabytes of prompt", {"negative_prompt": "A" * 10_000_000}, "a text of 10000000 characters"),
    # Nested.
    ("100,000 levels for a seed", {"seed": deep(100_000)}, "seed: "),
    ("100,000 levels under an unknown key", {"data": deep(100_000)}, "'data': there is no such field"),
    (
        "100,000 levels under two names",
        {"steps": deep(100_000), "num_inference_steps": deep(9)},
        "given twice",
    ),
    (
        "100,000 levels of override settings",
        {"override_settings": deep(99_999)},
        "override_settings: 'a' asks for",
    ),
    (
        "100,000 levels of scripts",
        {"alwayson_scripts": {"a": deep(100_000)}},
        "alwayson_scripts: 'a' asks for",
    ),
    ("100,000 levels of script arguments", {"script_args": deep(100_000)}, TAKEN),
    ("100,000 levels of init images", {"init_images": [deep(100_000)]}, "init_images (init_image): "),
    ("a million init images", {"init_images": [SECRET] * 1_000_000}, "init_images: a list of 1000000"),
    ("init images that are text", {"init_images": SECRET}, "init_images: a text of 6 characters"),
    ("init images of nothing", {"init_images": [None]}, TAKEN),
    ("init images of nothing but text", {"init_images": [""]}, TAKEN),
    ("a million styles", {"styles": ["a"] * 1_000_000}, "styles: a list asks for saved styles"),
    ("a list that holds itself", {"styles": holds_itself()}, "styles: a list asks for"),
    # Keys.
    ("a key self", {"self": 1}, "'self': there is no such field"),
    ("a key __class__", {"__class__": "x"}, "'__class__': there is no such field"),
    ("a key __init__", {"__init__": {}}, "'__init__': there is no such field"),
    ("a key __proto__", {"__proto__": {"a": 1}}, "'__proto__': there is no such field"),
    ("a key model_config", {"model_config": {"extra": "allow"}}, "'model_config': there is no such field"),
    ("a key model_fields", {"model_fields": {}}, "'model_fields': there is no such field"),
    ("a key STAND_INS", {"STAND_INS": {}}, "'STAND_INS': there is no such field"),
    ("a key seeds", {"seeds": [1]}, "'seeds': there is no such field; the nearest is seed"),
    ("a key method", {"method": "DDIM"}, "'method': there is no such field"),
    ("an empty key", {"": 1}, "'': there is no such field"),
    ("a key of white space", {" prompt": "y"}, "' prompt': there is no such field; the nearest is prompt"),
    ("a numeric key", {5: 1}, "5: there is no such field"),
    ("a key that is null", {None: 1}, "null: there is no such field"),
    ("a key that is true", {True: 1}, "true: there is no such field"),
    ("a key that is NaN", {math.nan: 1}, "nan: there is no such field"),
    ("a key that is a tuple", {(1, 2): 1}, "a list: there is no such field"),
    ("a key that is bytes", {b"prompt": 1}, "a bytes: there is no such field"),
    ("a key of 5,000 digits", {10**5000: 1}, "a number too long to repeat: there is no such field"),
    ("an unknown key that is null", {"refiner": None}, "'refiner': there is no such field"),
    # One field by two names.
    ("two names, one value", {"steps": 5, "num_inference_steps": 5}, TAKEN),
    (
        "two names, two values",
        {"steps": 5, "num_inference_steps": 6},
        "is given twice, as steps and as num_inf",
    ),
    (
        "three names, three values",
        {"scheduler": "DDIM", "sampler": "LMS", "sampler_name": "PNDM"},
        "given twice",
    ),
    ("two pictures", {"image": SECRET, "image_url": f"{SECRET}2"}, "init_image: is given twice"),
    ("two lists", {"image": [1], "init_image": [1]}, "init_image: is given twice"),
    ("NaN twice", {"steps": math.nan, "num_inference_steps": math.nan}, "is given twice"),
    ("a name that is null beside one that is not", {"steps": None, "num_inference_steps": 5}, TAKEN),
    ("two batches", {"batch_size": 2, "num_images": 3, "n_iter": 2}, "num_outputs: is given twice"),
    ("batches of text", {"batch_size": "2", "n_iter": 2}, "batch_size (num_outputs): '2' is not allowed"),
    ("batches beyond all limits", {"batch_size": 10**9, "n_iter": 10_000}, "n_iter (num_outputs): "),
    ("two resizes", {"resize_mode": 1, "resize": "fill"}, "resize: is given twice"),
    ("a sampler by every name", {"sampler_index": "DDIM", "sampler_name": "DDIM", "sampler": "DDIM"}, TAKEN),
    # What other workers' jobs bring along, made hostile.
    ("a boolean that is 0", {"restore_faces": 0}, "restore_faces: 0 asks for face restoration"),
    (
        "a boolean that is text",
        {"enable_hr": "true"},
        "enable_hr: 'true' is not allowed; allowed: true or false",
    ),
    ("NaN of churn", {"s_churn": math.nan}, "s_churn: nan asks for extra noise"),
    (
        "100,000 settings",
        {"override_settings": {f"k{i}": i for i in range(100_000)}},
        "and 99997 more asks for",
    ),
    ("settings with odd keys", {"override_settings": {"\ud800": 1, None: 2}}, "'\\ud800', null asks for"),
    ("settings as a list", {"override_settings": [1]}, "override_settings: a list asks for other settings"),
    ("settings as text", {"override_settings": "{}"}, "override_settings: '{}' asks for other settings"),
    ("all of it at once", {"tiling": 1, "enable_hr": 1, "eta": 1, "api": 1}, "tiling: 1 asks for tiling"),
    ("a schedule beside no sampler", {"scheduler": "karras"}, "scheduler: 'karras' is not a sampler"),
    ("a sampler for a schedule", {"sampler_name": "DDIM", "scheduler": "Euler"}, "scheduler: is given twice"),
    ("a schedule in a sampler's clothes", {"sampler_name": "Karras"}, "'Karras' is not a sampler"),
    (
        "two schedules",
        {"sampler_name": "DPM++ 2M Karras", "scheduler": "beta"},
        "is another schedule than DPM++ 2M",
    ),
    ("one schedule by two keys", {"sampler_name": "LMS", "scheduler": "beta", "schedule": "beta"}, TAKEN),
    (
        "two schedules by two keys",
        {"sampler_name": "LMS", "scheduler": "beta", "schedule": "ddim"},
        "given twice",
    ),
    # Together.
    ("a mask alone", {"mask": SECRET}, "mask: needs an init_image to repaint"),
    ("a mask with an empty picture", {"mask": SECRET, "init_image": ""}, "mask: needs an init_image"),
    ("a control as text", {"controls": [SECRET]}, "controls[0]: a text of 6 characters is not allowed"),
    ("a control of nothing", {"controls": [{}]}, "controls[0].model: is missing"),
    ("controls without end", {"controls": [{}] * 100_000}, "controls[0].model: is missing"),
    (
        "units that are text",
        {"alwayson_scripts": {"controlnet": {"args": [SECRET]}}},
        "controls[0]): a text of",
    ),
    ("units in units", {"controlnet_units": deep(1000)}, "in controlnet_units[0] (controls[0])"),
    ("a control beside the prompt", {"controlnet": [SECRET]}, "(controls[0].model): a list is not allowed"),
    ("a LoRA of a name alone", {"lora": "a/b"}, TAKEN),
    ("a LoRA as text", {"loras": [SECRET]}, "loras[0]: a text of 6 characters is not allowed"),
    ("a LoRA without a name", {"loras": [{"scale": 1}]}, "loras[0].name: is missing"),
    ("a LoRA's hash that is none", {"loras": [{"name": "a", "sha256": SECRET}]}, "64 hexadecimal digits"),
    ("a LoRA too strong", {"loras": [{"name": "a", "scale": 1e9}]}, "a number from -10"),
    ("nine LoRAs", {"loras": [{"name": f"{i}"} for i in range(9)]}, "a list of at most 8 (MAX_LORAS)"),
    ("nine LoRAs in the prompt", {"prompt": "".join(f"<lora:{i}:1>" for i in range(9))}, "MAX_LORAS"),
    ("a tag without a name", {"prompt": "<lora::1>"}, "it names no LoRA"),
    ("a tag that is too strong", {"prompt": "<lora:a:11>"}, "11 is out of range"),
    ("a tag of another kind", {"prompt": "<hypernet:a:1>"}, "hypernetworks are not served"),
    ("a tag that never ends", {"prompt": "<lora:" * 600}, TAKEN),
    ("LoRA that is null", {"lora": None, "lora_scale": None}, TAKEN),
    ("everything null", dict.fromkeys(set(Request.model_fields) - {"prompt"}), TAKEN),
    (
        "everything an empty list",
        {f: [] for f in Request.model_fields if f != "prompt"},
        "num_outputs: a list",  # and so on, as far as one line of an error goes
    ),
    ("everything a long text", dict.fromkeys(set(Request.model_fields) - {"prompt"}, SECRET * 999), "is not"),
]

WHOLE: list[tuple[str, Any, str]] = [
    ("null", None, "input: null is not an object"),
    ("a text", SECRET, "input: a text of 6 characters is not an object"),
    ("a list of objects", [{"prompt": SECRET}], "input: a list is not an object"),
    ("a number", 10**5000, "input: a number too long to repeat is not an object"),
    ("true", True, "input: true is not an object"),
    ("NaN", math.nan, "input: nan is not an object"),
    ("bytes", b"{}", "input: a bytes is not an object"),
    ("nothing", {}, "prompt: is missing; allowed: text of 1 to 4096 characters"),
    ("a prompt of null", {"prompt": None}, "prompt: is missing"),
    ("an empty prompt", {"prompt": ""}, "prompt: a text of 0 characters is not allowed"),
    ("a blank prompt", {"prompt": " \t\n\u3000"}, "prompt: a text of 4 characters is blank"),
    ("a prompt of NUL", {"prompt": "\0"}, TAKEN),
    ("a prompt that is a list", {"prompt": [SECRET]}, "prompt: a list is not allowed"),
    ("a prompt of 4,097 letters", {"prompt": "a" * 4097}, "prompt: a text of 4097 characters is not allowed"),
    ("half a surrogate pair", {"prompt": f"{SECRET}\ud83d"}, "it holds half of a surrogate pair"),
    ("an input in an input", {"input": {"prompt": SECRET}}, "prompt: is missing"),
    ("100,000 levels", deep(99_999), "prompt: is missing"),
    ("a mapping that lies of its size", OddMapping(prompt="x"), TAKEN),
]

# AUTOMATIC1111's 19 sampling methods and 6 schedule types; the sampler that each pair is, or why not.
METHODS = {
    "DPM++ 2M": "DPM++ 2M Karras", "DPM++ SDE": "DPM++ SDE Karras", "DPM++ 2M SDE": "DPM++ 2M SDE Exponential",
    "DPM++ 2M SDE Heun": "DPM++ 2M SDE Heun Exponential", "DPM++ 2S a": "DPM++ 2S Karras",
    "DPM++ 3M SDE": "DPM++ 3M SDE Exponential", "Euler a": "Euler a", "Euler": "Euler", "LMS": "LMS",
    "Heun": "Heun", "DPM2": "DPM2 Karras", "DPM2 a": "DPM2 a Karras", "DPM fast": "", "DPM adaptive": "",
    "Restart": "", "DDIM": "DDIM", "PLMS": "PNDM", "UniPC": "UniPC", "LCM": "LCM",
}  # fmt: skip
TYPES = ("Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform")
V1_SCHEDULERS = (
    "DDIM", "DDPM", "DPM-M", "DPM-S", "EULER-A", "EULER-D", "HEUN", "IPNDM", "KDPM2-A", "KDPM2-D", "PNDM", "K-LMS",
    "KLMS",
)  # fmt: skip


def answer(given: Any) -> str:
    """The refusal's words, or nothing; holds what every answer must keep to."""
    began = time.thread_time()
    try:
        CONTRACT.parse(given)
        message = ""
    except InputError as error:
        message = str(error)
    assert time.thread_time() - began < SECONDS
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < LONGEST_ERROR
    assert SECRET not in message
    assert "Traceback" not in message
    return message


def check(given: Any, expected: str) -> None:
    message = answer(given)
    assert (expected in message) if expected else (message == TAKEN), message[:300]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
def test_a_field(given: Mapping[Any, Any], expected: str) -> None:
    check({"prompt": SECRET, **given}, expected)


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_an_input(given: Any, expected: str) -> None:
    check(given, expected)


@pytest.mark.parametrize("schedule", TYPES)
@pytest.mark.parametrize(("method", "automatic"), METHODS.items())
def test_a_pair_of_the_web_ui(method: str, automatic: str, schedule: str) -> None:
    given = {"prompt": "x", "sampler_name": method, "scheduler": schedule}
    if not automatic:
        check(given, f"sampler_name (scheduler): '{method}' is not a sampler; ")
    elif method == "PLMS" and schedule not in ("Automatic", "Uniform", "SGM Uniform"):
        check(given, "cannot be had with PNDM; allowed: automatic, uniform, sgm_uniform, turbo")
    else:
        check(given, TAKEN)
        drawn = PAIRS[CONTRACT.parse(given).scheduler]
        if schedule == "Automatic":
            assert drawn.name == automatic
        else:
            wanted = {"Polyexponential": "exponential"}.get(schedule, schedule.lower().replace(" ", "_"))
            assert drawn.schedule == wanted


@pytest.mark.parametrize("scheduler", V1_SCHEDULERS)
@pytest.mark.parametrize("picture", [{}, {"init_image": "", "mask": ""}, {"init_image": "data:,"}], ids=str)
def test_a_v1_job(scheduler: str, picture: dict[str, Any]) -> None:
    sides = {"width": 512, "height": 768}
    check({"prompt": "x", "scheduler": scheduler, "prompt_strength": 0.35, **sides, **picture}, TAKEN)


@pytest.mark.parametrize("field", sorted(Request.model_fields))
@pytest.mark.parametrize(
    "make",
    [
        dict,
        list,
        lambda: deep(100_000),
        lambda: [SECRET],
        lambda: {SECRET: SECRET},
        lambda: b"x",
        object,
        set,
    ],
    ids=["object", "list", "deep", "list of text", "object of text", "bytes", "python object", "set"],
)
def test_what_is_no_value_of_a_field_is_refused_by_its_name(field: str, make: Callable[[], Any]) -> None:
    if make is list and Request.model_fields[field].default == ():
        return  # it is one
    if field in ("hires", "upscale") and isinstance(make(), dict):
        return  # they take objects
    told = answer({"prompt": "x", field: make()})
    assert told.startswith((f"{field}: ", f"{field}[")) or f" in {field}[0]: " in told


def test_the_next_job_is_unaffected() -> None:
    for _, given, _ in FIELDS:
        answer({"prompt": "x", **given})
    assert CONTRACT.parse({"prompt": "x", "seed": 1}) == CONTRACT.parse({"prompt": "x", "seed": 1})
    assert json.loads(json.dumps(CONTRACT.schema())) == CONTRACT.schema()
