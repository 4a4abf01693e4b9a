"""The models that a deployment serves, as far as a job's input must know them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdworker.request.names import nearest
from sdworker.wording import show

__all__ = ["ServedModel", "ServedModels"]

_HASH = re.compile(r"\s*\[[0-9a-f]+\]\s*$")
_MOST_LISTED = 20


@dataclass(frozen=True)
class ServedModel:
    """One of them.

    Attributes:
        name: what jobs call it.
        size: width and height it was trained for, in pixels.
        also: other names.
        defaults: field → what a job gets that does not ask, where the deployment does not say either.
        refines: it has a refiner.
    """

    name: str
    size: tuple[int, int]
    also: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    refines: bool = False


class ServedModels:
    """All of them; the first is drawn with where a job names none."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """
        Args:
            models: at least one.
        """
        self._models = tuple(models)
        self._by_key: dict[str, ServedModel] = {}
        for name_of in (lambda one: (one.name,), lambda one: one.also):
            for model in self._models:
                for name in name_of(model):
                    self._by_key.setdefault(_key(name), model)

    @property
    def first(self) -> ServedModel:
        return self._models[0]

    @property
    def names(self) -> list[str]:
        return [model.name for model in self._models if model.name]

    def find(self, name: str) -> ServedModel | None:
        """The one that goes by a name: case, a file's ending and the web UI's hash behind it do not matter."""
        return self._by_key.get(_key(name))

    def problem(self, label: str, name: str) -> str:
        """Why a job cannot have a model of that name."""
        names = self.names
        more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
        near = nearest(name, names)
        hint = f"; the nearest is {near}" if near else ""
        allowed = ", ".join(names[:_MOST_LISTED]) + more if names else "the one it was deployed with, unnamed"
        return f"{label}: {show(name)} is no model of this worker{hint}; allowed: {allowed}"


def _key(name: str) -> str:
    return _HASH.sub("", name).removesuffix(".safetensors").strip().casefold()
