"""`sdworker explain`: how a prompt is read, without drawing it: tokens, chunks, weights, what is said when."""

import argparse
import json
import sys
from typing import Any

from sdworker.cli.fields import add_field_options, read_fields

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "explain",
        help="show how a prompt is read: tokens, chunks, weights, schedule",
        description="Shows how the worker's model reads a prompt. Nothing is drawn. "
        "Example: sdworker explain 'a (red:1.4) [sun:moon:0.5]' --set steps=20",
    )
    parser.add_argument("prompt", help="what would be drawn")
    add_field_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    from sdworker.errors import DeploymentError, UserError

    try:
        for line in _explain({"prompt": arguments.prompt, **read_fields(arguments)}):
            print(line)
    except (UserError, DeploymentError, OSError, ValueError, KeyError) as error:
        print(f"sdworker: {error}", file=sys.stderr)
        return 1
    return 0


def _explain(given: dict[str, Any]) -> list[str]:
    """Lines about a job's prompts.

    Raises:
        InputError, PromptError, SettingsError: with a message for the user.
        OSError, ValueError, KeyError: the model's files cannot be read.
    """
    from sdworker.catalogue import list_models
    from sdworker.engine.text.explain import explain_prompt
    from sdworker.engine.text.prompt import plan_negative_prompt, plan_prompt
    from sdworker.engine.text.tokens import load_tokenizer
    from sdworker.reading import reading_of
    from sdworker.request import Contract
    from sdworker.samplers import PAIRS
    from sdworker.settings import load_settings

    settings = load_settings()
    listed = {one.served.name: one for one in list_models(settings)}
    served = tuple(one.served for one in listed.values())
    request = Contract(settings, served[0].size, served).parse(given)
    folder = listed[request.model or served[0].name].checked.path
    config = json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))
    tokenizer = load_tokenizer(folder / "tokenizer", config.get("max_position_embeddings", 77))
    reading = reading_of(request, most_tokens=settings.max_prompt_tokens)
    evaluations = request.num_inference_steps * PAIRS[request.scheduler].order
    parts = plan_prompt(request.prompt, tokenizer, evaluations=evaluations, reading=reading)
    lines = list(explain_prompt(parts, tokenizer))
    if request.negative_prompt:
        negative = plan_negative_prompt(
            request.negative_prompt, tokenizer, evaluations=evaluations, reading=reading
        )
        lines += ["negative prompt", *explain_prompt([negative], tokenizer)]
    return lines
