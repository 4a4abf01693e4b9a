"""What jobs for other workers bring along: AUTOMATIC1111's whole payloads, worker-sdxl's, cog's.

A key of theirs that is a field of ours by another name is an alias (`declaration.py`). Here are the others: those
that say a field in another way (`_Said`), and those that ask for something this worker does not do (`Foreign`).
The latter are ignored where they ask for nothing, which is what a peer's defaults do, and refused by name, with
the reason, where they ask for something. Nobody gets another picture than asked for without being told.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeGuard

from sdworker.reading import MOST_SKIPPED
from sdworker.request import controls
from sdworker.request.declaration import Request
from sdworker.request.marks import names_of, whole
from sdworker.request.names import Entry
from sdworker.samplers import is_sampler, is_schedule
from sdworker.wording import show

__all__ = ["FOREIGN", "Foreign", "schemas", "translate"]

_NAMES = names_of(Request)


@dataclass(frozen=True)
class Foreign:
    """A key that is no field of ours.

    Attributes:
        asks: what it asks for when it asks for something.
        harmless: the values with which it asks for nothing; None: every value.
        inside: of an object, the keys and the values with which they ask for nothing.
        needs: the field without which it asks for nothing.
        instead: what to do.
    """

    name: str
    asks: str
    harmless: tuple[object, ...] | None = None
    inside: Mapping[str, tuple[object, ...]] = field(default_factory=dict, hash=False)
    needs: str = ""
    instead: str = "leave it out"

    def refusal(self, value: object, given: Mapping[Any, Any]) -> str | None:
        """Why the job cannot be done with this value; None: it can."""
        if self.harmless is None or value is None or (self.needs and not _given(given, self.needs)):
            return None
        asking = value
        if isinstance(value, Mapping):
            asking = {
                k: v for k, v in value.items() if v is not None and not _among(v, self.inside.get(k, ()))
            }
        if _among(asking, self.harmless):
            return None
        return f"{self.name}: {_told(asking)} asks for {self.asks}, which this worker does not do; {self.instead}"


def _given(given: Mapping[Any, Any], field: str) -> bool:
    return any(given.get(name) not in (None, "") for name, known in _NAMES.items() if known == field)


def _told(value: object) -> str:
    if not isinstance(value, Mapping):
        return show(value)
    more = f" and {len(value) - _MOST_KEYS} more" if len(value) > _MOST_KEYS else ""
    return ", ".join(show(key) for key in islice(value, _MOST_KEYS)) + more


_MOST_KEYS = 3  # of an object are named


def _among(value: object, values: Iterable[object]) -> bool:
    return any(_equal(value, one) for one in values)


def _equal(value: object, harmless: object) -> bool:
    """Equal, and of one kind: 0.0 is 0, but false is not."""
    numbers = (int, float)
    if isinstance(value, bool) or isinstance(harmless, bool):
        return value is harmless
    if isinstance(value, numbers) and isinstance(harmless, numbers):
        return value == harmless
    return type(value) is type(harmless) and value == harmless


_OFF = (False,)
_REFINER = "a second model"
_VARIATION = "a variation of another seed"
_SOFTER = "another treatment of the mask's edge"

FOREIGN: Mapping[str, Foreign] = {
    foreign.name: foreign
    for foreign in (
        # AUTOMATIC1111, both routes.
        Foreign("alwayson_scripts", "extensions", ({},)),
        Foreign(
            "override_settings",
            "other settings of the web UI",
            ({},),
            inside={
                "eta_noise_seed_delta": (0,),
                "sd_vae": ("Automatic", "None"),
            },
        ),
        Foreign("override_settings_restore_afterwards", ""),
        Foreign("script_name", "a script", ("",)),
        Foreign("script_args", ""),
        Foreign("styles", "saved styles", ([], [""]), instead="write them into the prompt"),
        Foreign("restore_faces", "face restoration", _OFF),
        Foreign("tiling", "tiling", _OFF),
        *(
            Foreign(name, "")
            for name in (
                "firstpass_image", "firstphase_width", "firstphase_height", "hr_scale", "hr_upscaler",
                "hr_second_pass_steps",
                "hr_resize_x", "hr_resize_y", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler",
                "hr_prompt", "hr_negative_prompt", "hr_cfg", "hr_additional_modules",
            )
        ),
        Foreign("refiner_checkpoint", _REFINER, ("", "None")),
        Foreign("refiner_switch_at", ""),
        Foreign("subseed", ""),
        Foreign("subseed_strength", _VARIATION, (0,)),
        Foreign("seed_resize_from_h", _VARIATION, (-1, 0)),
        Foreign("seed_resize_from_w", _VARIATION, (-1, 0)),
        Foreign("eta", "another share of noise", ()),
        Foreign("s_churn", "extra noise", (0,)),
        Foreign("s_tmin", ""),
        Foreign("s_tmax", ""),
        Foreign("s_noise", "another share of noise", (1,)),
        Foreign("s_min_uncond", "steps without guidance", (0,)),
        Foreign("disable_extra_networks", "prompts read without add-ons", _OFF),
        Foreign("send_images", "a result without images", (True,)),
        Foreign("save_images", "files on the worker", _OFF, instead="configure a bucket"),
        *(
            Foreign(name, "")
            for name in (
                "do_not_save_samples", "do_not_save_grid", "comments", "force_task_id", "include_init_images",
            )
        ),
        Foreign("infotext", "settings out of an image's text", ("",), instead="write them as fields"),
        # AUTOMATIC1111's image to image.
        Foreign("image_cfg_scale", ""),
        Foreign("initial_noise_multiplier", "another share of noise", (1,), needs="init_image"),
        Foreign("latent_mask", "a mask in latents", ("",)),
        Foreign("mask_blur", _SOFTER, (0,), needs="mask", instead="set it to 0 and blur the mask itself"),
        Foreign("mask_blur_x", _SOFTER, (0,), needs="mask", instead="set it to 0 and blur the mask itself"),
        Foreign("mask_blur_y", _SOFTER, (0,), needs="mask", instead="set it to 0 and blur the mask itself"),
        Foreign("mask_round", ""),
        Foreign(
            "inpainting_fill",
            "other contents under the mask",
            (1,),
            needs="mask",
            instead="set it to 1 (what the picture has there)",
        ),
        Foreign("inpaint_full_res", "only the masked part drawn", (False, 0), needs="mask"),
        Foreign("inpaint_full_res_padding", ""),
        Foreign(
            "inpainting_mask_invert",
            "a mask the other way round",
            (0, False),
            needs="mask",
            instead="invert the mask",
        ),
        # worker-sdxl and worker-sdxl-turbo.
        Foreign("refiner_inference_steps", "a refiner", (0, 50)),
        Foreign("high_noise_frac", "a refiner", (0.8, 1)),
        # cog-stable-diffusion and cog-sdxl.
        Foreign("refine", _REFINER, ("no_refiner",)),
        Foreign("refine_steps", ""),
        Foreign("apply_watermark", ""),
        Foreign("replicate_weights", "weights from Replicate", ("",)),
        # runpod-worker-a1111's envelope.
        Foreign("api", "a route of the web UI", (), instead="send the payload's own fields as the input"),
        Foreign("payload", "a web UI's payload", (), instead="send its own fields as the input"),
    )
}  # fmt: skip
"""By name."""


def translate(given: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[Entry], list[str]]:
    """An input without what is the peers' own.

    Returns:
        What is left of the input, what the rest says in our fields, and why it cannot be done.
    """
    left = dict(given)
    said: list[Entry] = []
    problems: list[str] = []
    _web_ui_settings(left, said, problems)
    _hires(left, said, problems)
    _refined(left, said, problems)
    controls.translate(left, said, problems)
    for name in [key for key in left if isinstance(key, str) and key in FOREIGN]:
        refusal = FOREIGN[name].refusal(left.pop(name), given)
        problems += [refusal] if refusal else []
    for way in _SAID:
        way(left, said, problems)
    return left, said, problems


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each of these keys."""
    properties: dict[str, dict[str, Any]] = {}
    for foreign in FOREIGN.values():
        properties[foreign.name] = {"deprecated": True}
        is_object = bool(foreign.inside) or {} in (foreign.harmless or ())  # nulls in one ask for nothing
        if foreign.harmless is not None and not foreign.needs and not is_object:
            properties[foreign.name]["enum"] = [*foreign.harmless, None]
    for name, schema in {**_SAID_SCHEMAS, **controls.schemas()}.items():
        properties[name] = {"deprecated": True, **schema}
    return properties


def _one_picture(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's `init_images`: a list, of which this worker takes one."""
    pictures = left.pop("init_images", None)
    if isinstance(pictures, list) and len(pictures) == 1:
        said.append(Entry("init_images", "init_image", pictures[0]))
    elif pictures not in (None, []):
        given = f"a list of {len(pictures)}" if isinstance(pictures, list) else show(pictures, quote=False)
        problems.append(f"init_images: {given} is not allowed; allowed: a list of one picture")


def _resize_mode(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's `resize_mode`, of which 3 resizes latents."""
    mode = whole(left.pop("resize_mode", None))
    if mode is None:
        return
    if isinstance(mode, bool) or not isinstance(mode, int) or mode not in _RESIZES:
        problems.append(
            f"resize_mode: {show(mode)} is not allowed; allowed: 0 (stretch), 1 (crop) or 2 (fill)"
        )
    else:
        said.append(Entry("resize_mode", "resize", _RESIZES[mode]))


_RESIZES = {0: "stretch", 1: "crop", 2: "fill"}


def _batches(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's `n_iter` batches of `batch_size`, whose seeds go on counting."""
    batches = whole(left.pop("n_iter", None))
    if batches is None:
        return
    if isinstance(batches, bool) or not isinstance(batches, int) or not 1 <= batches <= 10_000:
        problems.append(f"n_iter: {show(batches)} is not allowed; allowed: a whole number from 1 up")
        return
    names = [name for name, field in _NAMES.items() if field == "num_outputs" and left.get(name) is not None]
    size = left[names[0]] if names else 1
    if batches > 1 and isinstance(size, int) and not isinstance(size, bool) and len(names) < 2:
        for name in names:
            del left[name]
        said.append(Entry("n_iter", "num_outputs", size * batches))


def _sampler_index(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's name for the sampler of before, of no account where the new one is there."""
    name = left.pop("sampler_index", None)
    if name is not None and all(left.get(known) is None for known in ("sampler_name", "sampler")):
        said.append(Entry("sampler_index", "scheduler", name))


def _scheduler(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """Beside AUTOMATIC1111's `sampler_name`, `scheduler` is the schedule."""
    schedule = left.get("scheduler")
    sampler = any(entry.written == "sampler_index" for entry in said) or left.get("sampler_name") is not None
    if sampler and isinstance(schedule, str) and (is_schedule(schedule) or not is_sampler(schedule)):
        del left["scheduler"]
        said.append(Entry("scheduler", "schedule", schedule))


def _web_ui_settings(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """Of AUTOMATIC1111's settings those that are fields here; they stand in `override_settings` or beside it."""
    overridden = left.get("override_settings")
    where: list[tuple[str, dict[Any, Any]]] = [("", left)]
    if isinstance(overridden, Mapping):
        left["override_settings"] = dict(overridden)
        where.append(("override_settings.", left["override_settings"]))
    for prefix, settings in where:
        layers = whole(settings.pop("CLIP_stop_at_last_layers", None))
        if layers is not None:
            name = f"{prefix}CLIP_stop_at_last_layers"
            if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= MOST_SKIPPED + 1:
                problems.append(
                    f"{name}: {show(layers)} is not allowed; allowed: a whole number from 1 to {MOST_SKIPPED + 1}"
                )
            else:
                said.append(Entry(name, "clip_skip", layers - 1))
        if "sd_model_checkpoint" in settings:
            name = f"{prefix}sd_model_checkpoint"
            said.append(Entry(name, "model", settings.pop("sd_model_checkpoint")))


def _hires(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """AUTOMATIC1111's "hires fix". There its steps are all run, here `strength` of them are."""
    wanted = left.pop("enable_hr", None)
    if wanted is None or wanted is False:
        return
    if wanted is not True:
        problems.append(f"enable_hr: {show(wanted)} is not allowed; allowed: true or false")
        return
    for name, same in _SAME_IN_HIRES.items():
        if left.get(name) not in (None, "", same):
            problems.append(
                f"{name}: {show(left[name])} asks for a second pass with another one, which this worker does not "
                "do; leave it out"
            )
    given: dict[str, Any] = {
        field: left.pop(name) for name, field in _HIRES.items() if left.get(name) not in (None, 0)
    }
    if "width" in given or "height" in given:
        given.pop("scale", None)
    strength = None if _given(left, "init_image") else left.pop("denoising_strength", None)
    given["strength"] = _HIRES_STRENGTH if strength is None else strength
    steps = given.get("steps", left.get("steps", left.get("num_inference_steps")))
    if _is_number(steps) and _is_number(given["strength"]) and 0 < given["strength"] <= 1 and steps >= 1:
        given["steps"] = min(500, math.ceil(steps / given["strength"]))
    said.append(Entry("enable_hr", "hires", given))


def _refined(left: dict[Any, Any], said: list[Entry], problems: list[str]) -> None:
    """worker-sdxl's `refiner_inference_steps`: of a job with a picture those are all its steps."""
    if left.get("refiner_inference_steps") is None or not _given(left, "init_image"):
        return
    for name in [name for name, known in _NAMES.items() if known == "num_inference_steps"]:
        left.pop(name, None)
    steps = left.pop("refiner_inference_steps")
    said.append(Entry("refiner_inference_steps", "num_inference_steps", steps))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_HIRES = {
    "hr_scale": "scale",
    "hr_resize_x": "width",
    "hr_resize_y": "height",
    "hr_second_pass_steps": "steps",
    "hr_upscaler": "upscaler",
}
_SAME_IN_HIRES = {
    "hr_checkpoint_name": "Use same checkpoint",
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
    "hr_prompt": "",
    "hr_negative_prompt": "",
}
_HIRES_STRENGTH = 0.75  # what the web UI takes where none is named

_SAID: tuple[Callable[[dict[Any, Any], list[Entry], list[str]], None], ...] = (
    _one_picture,
    _resize_mode,
    _batches,
    _sampler_index,
    _scheduler,
)
_SAID_SCHEMAS: dict[str, dict[str, Any]] = {
    "init_images": {"type": ["array", "null"], "items": {"type": ["string", "null"]}, "maxItems": 1},
    "resize_mode": {"enum": [*_RESIZES, None]},
    "n_iter": {"type": ["integer", "null"], "minimum": 1},
    "sampler_index": {"type": ["string", "null"]},
    "enable_hr": {"type": ["boolean", "null"]},
    "sd_model_checkpoint": {"type": ["string", "null"]},
    "CLIP_stop_at_last_layers": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_SKIPPED + 1},
}
