"""`sdworker serve` learns from the worker's code what a job may ask for, without its weight."""

import json
import subprocess
import sys
from pathlib import Path

from sdworker.assets import AddOns
from sdworker.catalogue import contract_of
from sdworker.settings import Settings

_PROGRAM = """
import sys
from sdworker.cli import serve

serve.print_input_schema()
print([name for name in ("torch", "diffusers", "runpod") if name in sys.modules])
"""


def test_the_playgrounds_form_is_the_workers_contract_and_costs_a_starting_worker_no_time(
    model: Path,
) -> None:
    """Imports of torch and diffusers beside it made a worker's first seconds many times slower."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=180, check=True
    )
    schema, heavy = result.stdout.splitlines()
    assert heavy == "[]"
    assert json.loads(schema) == contract_of(Settings(model_dir=model)).schema(
        AddOns.from_settings(Settings()).all_names()
    )
    assert "pencil" in json.loads(schema)["$defs"]["Lora"]["properties"]["name"]["examples"]
