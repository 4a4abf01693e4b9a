"""`Control`: a ControlNet that a job asks for; and how other workers' jobs ask for theirs.

AUTOMATIC1111's come in `alwayson_scripts.controlnet.args` (or `controlnet_units`, its extension's first name for
them), cog's as `controlnet_1`, `controlnet_1_image` and so on, diffusers' own arguments beside the prompt.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sdworker.request.marks import AddOnName, Also, EmptyIsNull, InWords, Part, Private, whole
from sdworker.request.names import Entry
from sdworker.wording import show

__all__ = ["Control", "ControlResize", "Preprocessor", "schemas", "translate"]

Preprocessor = Literal["none", "canny", "sobel", "invert", "threshold"]
ControlResize = Literal["stretch", "crop", "fit"]
_Slope = Annotated[int, Field(ge=0, le=1000), BeforeValidator(whole)]
_SLOPE = InWords("a whole number from 0 to 1000")

_PREPROCESSORS = {
    "invert (from white bg & black line)": "invert",
    "canny edge": "canny",
    "": "none",
    "edges": "sobel",
}
_RESIZES: Mapping[object, str] = {
    0: "stretch",
    1: "crop",
    2: "fit",
    "just resize": "stretch",
    "crop and resize": "crop",
    "scale to fit (inner fit)": "crop",
    "resize and fill": "fit",
    "envelope (outer fit)": "fit",
}


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _preprocessor(value: object) -> object:
    name = _lower(value)
    return _PREPROCESSORS.get(name, name) if isinstance(name, str) else name


def _resize(value: object) -> object:
    """By its name, or by the number or the name that AUTOMATIC1111 has for it."""
    name = _lower(value)
    return name if isinstance(name, (bool, float, list, dict)) else _RESIZES.get(name, name)


class Control(Part):
    """A ControlNet, and the picture that it makes the drawing follow."""

    model: Annotated[str, AddOnName("controlnets"), Private()] = Field(
        title="ControlNet",
        min_length=1,
        max_length=2048,
        description="A ControlNet of the deployment's folders; where it allows the host, a URL or the hub's "
        "`owner/name:file` (docs/controlnet.md).",
    )
    image: Annotated[
        str | None,
        Also("input_image", "control_image", "hint"),
        EmptyIsNull(),
        InWords("a URL, a data URI or base64"),
        Private(),
    ] = Field(
        None,
        title="Picture",
        min_length=1,
        description="What the net is shown, or what a preprocessor makes that of; transparent parts are black. "
        "Left out: the `init_image`.",
        json_schema_extra={"contentMediaType": "image/*"},
    )
    scale: Annotated[float, Also("weight", "conditioning_scale")] = Field(
        1.0, title="Scale", ge=0, le=2, description="How strongly the drawing follows it."
    )
    start: Annotated[float, Also("guidance_start")] = Field(
        0.0, title="Start", ge=0, le=1, description="From which part of the steps on."
    )
    end: Annotated[float, Also("guidance_end")] = Field(
        1.0, title="End", ge=0, le=1, description="Until which part of the steps."
    )
    preprocessor: Annotated[
        Preprocessor,
        Also("module"),
        BeforeValidator(_preprocessor),
        InWords(
            "none, canny, sobel, invert or threshold; depth, pose and the like come ready made, with none"
        ),
    ] = Field(
        "none",
        title="Preprocessor",
        description="What is made of `image` for the net: `canny` edges, white on black, one pixel wide; `sobel` "
        "edges, some pixels wide, as the embedded `edges` knows them; `invert`; `threshold`, "
        "white where every colour is above `low_threshold`. Depth, pose and what else needs a model come ready "
        "made.",
    )
    resize: Annotated[ControlResize, Also("resize_mode"), BeforeValidator(_resize)] = Field(
        "stretch",
        title="Resize",
        description="How `image` comes to the drawing's size: `stretch` it, `crop` what is too much, or `fit` all "
        "of it in and go on with the edge's colours.",
    )
    low_threshold: Annotated[_Slope | None, _SLOPE, Also("threshold_a", "threshold")] = Field(
        None,
        title="Low threshold",
        description="Of `canny`, 100: slopes below it are no edges. Of `sobel`, 40; of `threshold`, 127.",
    )
    high_threshold: Annotated[_Slope | None, _SLOPE, Also("threshold_b")] = Field(
        None,
        title="High threshold",
        description="Of `canny`, 200: slopes above it are edges; what is between is one where it touches one.",
    )
    guess_mode: Annotated[bool, Also("guessmode")] = Field(
        False,
        title="Guess mode",
        description="Only what is drawn for the prompt is led, the deep layers most: diffusers' guess mode, and "
        "what the web UI's control mode 2 is for.",
    )

    @property
    def thresholds(self) -> tuple[int, int]:
        """Low and high, with the preprocessor's own where none are given."""
        low = (
            {"threshold": 127, "sobel": 40}.get(self.preprocessor, 100)
            if self.low_threshold is None
            else self.low_threshold
        )
        return low, max(low, 200) if self.high_threshold is None else self.high_threshold


_UNITS = ("alwayson_scripts.controlnet.args", "controlnet_units")
# Of AUTOMATIC1111's units, what says nothing of the picture.
_OF_NO_ACCOUNT = (
    "lowvram", "low_vram", "pixel_perfect", "processor_res", "hr_option", "save_detected_map", "input_mode",
    "is_ui", "output_dir", "loopback", "batch_images", "batch_image_dir", "generated_image",
    "use_preview_as_input", "batch_image_files", "batch_input_gallery", "batch_mask_dir", "batch_mask_gallery",
    "batch_modifiers", "batch_keyframe_idx", "animatediff_batch", "inpaint_crop_input_image", "pulid_mode",
    "union_control_type",
)  # fmt: skip
# What asks for something else where it holds anything.
_NOT_DONE = {
    "mask": "a mask of its own",
    "mask_image": "a mask of its own",
    "effective_region_mask": "a region of its own",
    "ipadapter_input": "an IP-Adapter",
    "advanced_weighting": "a weight of its own for each layer",
}
_BALANCED = (0, "balanced")
_NET_FIRST = (2, "controlnet is more important")
_MOST_OF_COG = 3
_COG = {"model": "", "image": "_image", "scale": "_conditioning_scale", "start": "_start", "end": "_end"}
_DIFFUSERS = {
    "control_image": "image",
    "controlnet": "model",
    "controlnet_model": "model",
    "controlnet_conditioning_scale": "scale",
    "control_guidance_start": "start",
    "control_guidance_end": "end",
    "guess_mode": "guess_mode",
}
_ASKING = {"control_image", "controlnet", "controlnet_model"}  # of those, what makes a control


def translate(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """Take the ControlNets that an input asks for in another worker's way out of it, and say them in ours."""
    _units(left, said, problems)
    _numbered(left, said)
    _beside_the_prompt(left, said)


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each of these keys."""
    text = {"type": ["string", "null"]}
    # What stands beside a net that is not named says nothing, whatever it is.
    numbered: dict[str, dict[str, Any]] = {
        f"controlnet_{number}{suffix}": {} if suffix else text
        for number in range(1, _MOST_OF_COG + 1)
        for suffix in _COG.values()
    }
    beside = {name: text if name in _ASKING else {} for name in _DIFFUSERS}
    return {"controlnet_units": {"enum": [[], None]}, **numbered, **beside}


def _units(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's."""
    scripts = left.get("alwayson_scripts")
    units: Any = None
    written = _UNITS[1]
    if isinstance(scripts, Mapping):
        name = next((key for key in scripts if isinstance(key, str) and key.lower() == "controlnet"), None)
        script = scripts.get(name)
        if isinstance(script, Mapping) and isinstance(script.get("args"), list):
            left["alwayson_scripts"] = {key: value for key, value in scripts.items() if key != name}
            units, written = script["args"], _UNITS[0]
    if left.get("controlnet_units", ()) is None:  # written out, and nothing
        del left["controlnet_units"]
    elif isinstance(left.get("controlnet_units"), list):
        units = left.pop("controlnet_units")
    if units is None:
        return
    asked = []
    for number, unit in enumerate(units):
        if not isinstance(unit, Mapping):
            asked.append(unit)
        elif unit.get("enabled") not in (False,):
            asked.append(_unit(unit, f"{written}[{number}]", problems))
    if asked:
        said.append(Entry(written, "controls", asked))


def _unit(unit: Mapping[Any, Any], where: str, problems: list[str]) -> dict[Any, Any]:
    ours = {key: value for key, value in unit.items() if key not in (*_OF_NO_ACCOUNT, "enabled")}
    for name, asks in _NOT_DONE.items():
        if ours.pop(name, None):
            problems.append(f"{where}.{name}: asks for {asks}, which this worker does not do; leave it out")
    image = ours.get("image")
    if isinstance(image, Mapping):  # a picture and its mask, as the web UI's own page sends them
        ours["image"] = image.get("image")
    for name in ("threshold_a", "threshold_b"):
        if ours.get(name) in (-1, 0.5):  # what it sends where the preprocessor has none
            del ours[name]
    if isinstance(ours.get("model"), str):
        ours["model"] = _without_hash(ours["model"])
    mode = _lower(ours.pop("control_mode", None))
    if mode in _NET_FIRST:
        ours["guess_mode"] = True
    elif mode is not None and mode not in _BALANCED:
        problems.append(
            f"{where}.control_mode: {show(mode)} is not allowed; allowed: 0 (balanced) or 2 (ControlNet is more "
            "important)"
        )
    return ours


def _without_hash(name: str) -> str:
    """`control_v11p_sd15_canny [d14c016b]` is the file before the bracket."""
    head, bracket, tail = name.rpartition(" [")
    return head if bracket and tail.endswith("]") else name


def _numbered(left: dict[Any, Any], said: list[Entry]) -> None:
    """cog's, which prepare their pictures themselves where the net is one for Canny's edges."""
    asked = []
    for number in range(1, _MOST_OF_COG + 1):
        name = f"controlnet_{number}"
        unit = {field: left.pop(f"{name}{suffix}", None) for field, suffix in _COG.items()}
        if unit["model"] in (None, "", "none"):
            continue
        if "canny" in str(unit["model"])[:100]:
            unit["preprocessor"] = "canny"
        asked.append(unit)
    if asked:
        said.append(Entry("controlnet_1", "controls", asked))


def _beside_the_prompt(left: dict[Any, Any], said: list[Entry]) -> None:
    """diffusers' arguments, of one net."""
    beside = {name: left.pop(name, None) for name in _DIFFUSERS}
    given = {name: value for name, value in beside.items() if value not in (None, "")}
    if given.keys() & _ASKING:
        unit = {_DIFFUSERS[name]: value for name, value in given.items()}
        said.append(Entry(next(iter(given)), "controls", [unit]))
