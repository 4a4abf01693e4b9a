"""The input contract: what a job may ask for, declared once (`declaration.py`).

    names        aliases, nulls and unknown keys, at any depth   → an input by field
    problems     pydantic's findings                             → lines with the full path
    peers        what jobs of other workers bring along          → fields, or nothing, or a refusal
    checks       what only shows when fields are seen together
    models       which models there are
    sizes        the size of the images
    schema       the JSON Schema; the documentation's table and the playground's form come from it
    loras        what names LoRAs: a list, worker-stable_diffusion_v1's field, tags in the prompt
    contract     all of it, for one deployment

The files but `declaration`, `peers`, `loras`, `checks` and `contract` know no field by name. A new field is a
line in `declaration.py`; a deployment's limit or default for it, a row in `settings.py` that the line names.
"""

from sdworker.request.contract import Contract
from sdworker.request.declaration import Lora, Request, aliases_of
from sdworker.request.loras import short_name, tag_of
from sdworker.request.models import ServedModel
from sdworker.request.problems import InputError

__all__ = ["Contract", "InputError", "Lora", "Request", "ServedModel", "aliases_of", "short_name", "tag_of"]
