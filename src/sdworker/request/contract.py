"""The input contract of one deployment: its limits and defaults come from `settings`."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sdworker.request import peers
from sdworker.request.checks import CHECKS, Seen, sampler_of, within
from sdworker.request.declaration import Request
from sdworker.request.loras import asked_loras
from sdworker.request.marks import AtMost, DefaultFrom, marked
from sdworker.request.models import ServedModel, ServedModels
from sdworker.request.names import Named, entries
from sdworker.request.problems import InputError, allowed, check_fields, joined
from sdworker.request.schema import schema_of
from sdworker.request.sizes import Sizes
from sdworker.settings import Settings
from sdworker.wording import show

__all__ = ["Contract"]


@dataclass(frozen=True)
class Contract:
    """The input contract of one deployment.

    Attributes:
        settings: its limits and defaults.
        model_size: width and height the first model was trained for, in pixels.
        models: all that are served; empty: one that has no name.
        memory_bytes: of the GPU that draws; None: there is none.

    Raises:
        SettingsError: a job that names no size would be refused for its size.
    """

    settings: Settings
    model_size: tuple[int, int]
    models: tuple[ServedModel, ...] = ()
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for model in self.models or (self.served.first,):
            self._sizes_of(model.size)

    @cached_property
    def served(self) -> ServedModels:
        """The models that jobs can name."""
        return ServedModels(self.models or (ServedModel("", self.model_size),))

    @property
    def sizes(self) -> Sizes:
        """Of the first model."""
        return self._sizes_of(self.model_size)

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height of an image when a job names neither and brings no picture."""
        return self.sizes.default

    def parse(self, given: object) -> Request:
        """The request a job's `input` makes.

        Raises:
            InputError: listing every problem.
        """
        if not isinstance(given, Mapping):
            raise InputError(
                f"input: {show(given, quote=False)} is not an object; allowed: an object with at least `prompt`"
            )
        left, said, foreign = peers.translate(given)
        found, unknown = entries(Request, left)
        named = Named.read(Request, [*found, *said])
        model = self._model(named)
        defaults = self.defaults_of(model)
        if named.values.get("num_inference_steps") == 0:  # then there is nothing to say
            defaults = {**defaults, **Request.STAND_INS}
        request, wrong, problems = check_fields(Request, named, defaults, Request.STAND_INS)
        seen = Seen(request, named, wrong, self.settings, self._sizes_of(model.size), self.served)
        together = [problem for check in CHECKS for problem in check(seen)]
        problems = [*unknown, *named.problems, *problems, *foreign, *together]
        if problems:
            raise InputError(joined(problems))
        return self._complete(request, named, model)

    def schema(self, add_ons: Mapping[str, Sequence[str]] = MappingProxyType({})) -> dict[str, Any]:
        """The JSON Schema (2020-12) of a job's `input`, with this deployment's limits and defaults.

        Args:
            add_ons: the folder of a kind of add-on, `loras` say → the names there are, which are the `examples` of
                fields that take one.

        Everything it accepts is accepted, but for what needs two fields or a list of samplers to judge. An
        alias is a property that refers to its field's, whose `aliases` names it; null means the default.
        `maxPixels` is the largest width x height; of several models, `defaultsOf` has each one's defaults and
        `maxPixelsOf` each one's largest.
        """
        schema = schema_of(Request, add_ons)
        properties = schema["properties"]
        for field, default in self.defaults_of(self.served.first).items():
            properties[field]["default"] = default
        if names := self.served.names:
            properties["model"] |= {"enum": [*names, None], "default": names[0]}
        for field, limit in marked(Request, AtMost).items():
            most = "maxItems" if "array" in properties[field]["type"] else "maximum"
            properties[field][most] = getattr(self.settings, limit.setting)
        properties["width"]["default"], properties["height"]["default"] = self.default_size
        if len(names) > 1:
            told = {name: self.served.find(name) or self.served.first for name in names}
            properties["model"] |= {
                "defaultsOf": {name: self._defaults_told(model) for name, model in told.items()},
                "maxPixelsOf": {name: self._sizes_of(model.size).most_pixels for name, model in told.items()},
            }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "title": "Stable Diffusion job input",
            "description": "What a job may ask for. Null means the default.",
            "maxPixels": self.sizes.most_pixels,
            "properties": properties | peers.schemas(),
        }

    def _defaults_told(self, model: ServedModel) -> dict[str, Any]:
        """What jobs that name a model get where they do not ask, as far as it depends on the model."""
        width, height = self._sizes_of(model.size).default
        return {"width": width, "height": height, **self.defaults_of(model)}

    def allowed(self, field: str) -> str:
        """In words, what a field accepts in this deployment."""
        if field in marked(Request, AtMost):
            return within(field, self.settings)
        return self.sizes.allowed() if field in ("width", "height") else allowed(Request.model_fields[field])

    def size_for(self, request: Request, picture: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the images of a request that starts from a picture of that size.

        Raises:
            InputError: no size that may be drawn has the picture's shape.
        """
        return self._sizes_for(request).of_picture(request, picture)

    def hires_size(self, request: Request, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the second pass of a request whose first has that size.

        Raises:
            InputError: it may not be drawn.
        """
        assert request.hires is not None, "there is a second pass"
        return self._sizes_for(request).of_hires(request.hires, size)

    def upscaled_size(self, request: Request, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the images of a request that are enlarged from that size.

        Raises:
            InputError: they may not become so large.
        """
        assert request.upscale is not None, "they are enlarged"
        return self._sizes_for(request).of_upscale(request.upscale, size)

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of that size may be drawn."""
        return self.sizes.fits(width, height)

    def _sizes_for(self, request: Request) -> Sizes:
        model = self.served.find(request.model) if request.model else None
        return self._sizes_of((model or self.served.first).size)

    def _sizes_of(self, model_size: tuple[int, int]) -> Sizes:
        return Sizes(self.settings, model_size, self.memory_bytes)

    def _model(self, named: Named) -> ServedModel:
        """The one that is named; the first where none is, or one that is not there."""
        name = named.values.get("model")
        return (self.served.find(name) if isinstance(name, str) else None) or self.served.first

    def defaults_of(self, model: ServedModel) -> dict[str, Any]:
        """Of this deployment, where it sets its own, else of the model, else of the settings."""
        return {
            field: model.defaults[field]
            if field in model.defaults and mark.setting not in self.settings.model_fields_set
            else getattr(self.settings, mark.setting)
            for field, mark in marked(Request, DefaultFrom).items()
        }

    def _complete(self, request: Request, named: Named, model: ServedModel) -> Request:
        sampler = sampler_of(request, named, self.settings)
        asked = asked_loras(request)
        update: dict[str, Any] = {
            "scheduler": sampler.name,
            "schedule": sampler.schedule,
            "prompt": asked.prompt,
            "loras": asked.loras,
            "lora": None,
            "model": model.name or None,
        }
        if not model.refines or request.init_image is not None or request.high_noise_frac == 1:
            update |= {"high_noise_frac": None, "refiner_steps": None}
        if request.seed in (None, -1):
            update["seed"] = secrets.randbelow(2**32)
        if request.only_enlarges and "prompt" not in named.values:
            update["prompt"] = ""
        if request.init_image is None:
            width, height = self._sizes_of(model.size).default
            update |= {"width": request.width or width, "height": request.height or height}
        return request.model_copy(update=update)
