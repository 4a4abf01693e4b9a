"""A quick start draws the same pictures as a plain one, imports what it says, and leaves the libraries whole."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOB = {"id": "1", "input": {"prompt": "a red apple", "seed": 7, "steps": 2, "width": 64, "height": 64}}
HEAVY = (
    "transformers",
    "torch._dynamo",
    "sympy",
    "scipy.optimize",
    "diffusers.models.unets.unet_3d_condition",
)

DRAW = f"""
import asyncio, json, sys
import sdworker.quick_start
from sdworker.settings import load_settings
from sdworker.startup import build_worker

output = asyncio.run(build_worker(load_settings()).run({JOB!r}))
print(json.dumps([output, sorted(sys.modules)]))
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output_of(code: str, **environment: str) -> Any:
    done = run_python(code, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_picture_is_the_same_and_what_is_not_used_is_not_imported() -> None:
    quick, quick_modules = output_of(DRAW, QUICK_START="1")
    plain, plain_modules = output_of(DRAW, QUICK_START="0")
    assert quick == plain
    assert not set(HEAVY) & set(quick_modules)
    assert len(quick_modules) < 0.8 * len(plain_modules)


def test_nothing_of_it_had_to_be_left_out() -> None:
    """It warns when a library is no longer as it was when it was written."""
    done = run_python("import sdworker.quick_start")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_deferred_package_is_whole_when_something_is_asked_of_it() -> None:
    names = output_of("""
import json
import sdworker.quick_start
from diffusers import UNet2DConditionModel
from diffusers.models.unets import UNet2DConditionModel as again, UNet2DModel
import scipy.stats
from diffusers import LMSDiscreteScheduler
assert again is UNet2DConditionModel
LMSDiscreteScheduler().set_timesteps(4)
print(json.dumps([UNet2DModel.__name__, float(scipy.stats.beta.ppf(0.5, 2, 2))]))
""")
    assert names == ["UNet2DModel", pytest.approx(0.5)]


def test_threads_that_ask_at_once_all_get_what_they_ask_for() -> None:
    """Jobs probe their samplers in threads, and one of those needs scipy.integrate."""
    assert (
        output_of("""
import json
from concurrent.futures import ThreadPoolExecutor
import sdworker.quick_start
from scipy import integrate
assert "quad" not in vars(integrate)
with ThreadPoolExecutor(16) as pool:
    print(json.dumps([call.__name__ for call in pool.map(lambda _: integrate.quad, range(64))]))
""")
        == ["quad"] * 64
    )


def test_torchs_compiler_and_transformers_work_afterwards() -> None:
    assert output_of("""
import json
import sdworker.quick_start
import torch, transformers
double = torch.compile(lambda x: x * 2, backend="eager")
print(json.dumps([double(torch.ones(1)).item(), transformers.CLIPTextModel.__name__]))
""") == [2.0, "CLIPTextModel"]


def test_the_sdk_is_imported_without_probing_the_processor() -> None:
    probed, processor, whole = output_of("""
import cpuinfo, json
probes = []
original = cpuinfo.get_cpu_info
cpuinfo.get_cpu_info = probe = lambda: probes.append(1) or original()
import sdworker.quick_start
from runpod.serverless.utils import rp_debugger
print(json.dumps([len(probes), rp_debugger.PROCESSOR, cpuinfo.get_cpu_info is probe]))
""")
    assert probed == 0
    assert processor
    assert whole


@pytest.mark.parametrize("gone", ["cpuinfo", "diffusers.models.unets.unet_2d_condition"])
def test_a_library_that_has_changed_costs_time_and_a_warning_not_the_worker(gone: str) -> None:
    """Here: what quick_start imports is not there, the first time it is looked for."""
    done = run_python(f"""
import sys
looked = []
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name == {gone!r} and not looked:
            looked.append(name)
            raise ModuleNotFoundError("moved")
sys.meta_path.insert(0, Gone())
{DRAW}
""")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "starting without quick_" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0][0]["seed"] == 7


def test_garbage_is_collected_again_afterwards() -> None:
    assert output_of("""
import gc, json, weakref
import sdworker.quick_start
class Ring: pass
ring = Ring()
ring.self = ring
gone = weakref.ref(ring)
del ring
gc.collect()
print(json.dumps([gc.isenabled(), gone() is None]))
""") == [True, True]


def test_in_a_process_that_has_diffusers_already_nothing_is_changed() -> None:
    assert (
        output_of("""
import json
from diffusers import StableDiffusionPipeline
import sdworker.quick_start
from diffusers import StableDiffusionImg2ImgPipeline
print(json.dumps(StableDiffusionImg2ImgPipeline.__name__))
""")
        == "StableDiffusionImg2ImgPipeline"
    )
