"""How the first model of this machine reads prompts, loaded once for any number of them; without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdworker.catalogue import list_models
from sdworker.engine.text.prompt import PlannedPart, plan_negative_prompt, plan_prompt
from sdworker.engine.text.tokens import ClipTokenizer, load_tokenizer
from sdworker.reading import reading_of
from sdworker.request import Contract
from sdworker.samplers import PAIRS
from sdworker.settings import load_settings

__all__ = ["PromptReader", "ReadPrompts"]


@dataclass(frozen=True)
class ReadPrompts:
    """A job's prompts as they will be encoded.

    Attributes:
        parts: of the prompt; one unless it has an `AND`.
        negative: None: there is no negative prompt.
    """

    parts: tuple[PlannedPart, ...]
    negative: PlannedPart | None


class PromptReader:
    """Reads the prompts of jobs' inputs.

    Raises:
        DeploymentError: a variable makes no sense, or a model is damaged.
        OSError, ValueError, KeyError: the model's files cannot be read.
    """

    def __init__(self) -> None:
        self.settings = load_settings()
        listed = list_models(self.settings)
        served = tuple(one.served for one in listed)
        self.contract = Contract(self.settings, served[0].size, served)
        folder = listed[0].folder()
        config = json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))
        self.tokenizer: ClipTokenizer = load_tokenizer(
            folder / "tokenizer", config.get("max_position_embeddings", 77)
        )

    def read(self, given: Mapping[str, Any]) -> ReadPrompts:
        """The prompts of an input. Raises `InputError`, `PromptError`."""
        request = self.contract.parse(given)
        reading = reading_of(request, most_tokens=self.settings.max_prompt_tokens)
        evaluations = request.num_inference_steps * PAIRS[request.scheduler].order
        parts = plan_prompt(request.prompt, self.tokenizer, evaluations=evaluations, reading=reading)
        negative = None
        if request.negative_prompt:
            negative = plan_negative_prompt(
                request.negative_prompt, self.tokenizer, evaluations=evaluations, reading=reading
            )
        return ReadPrompts(parts, negative)
