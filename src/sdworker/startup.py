"""From settings to a worker that is ready: which model, which device, which precision."""

import json
import logging
import os
import tempfile
import time
from pathlib import Path

import torch

from sdworker.engine.engine import Engine
from sdworker.engine.model_files import ModelError
from sdworker.engine.networks import Networks
from sdworker.engine.preparation import Means
from sdworker.engine.processor import keep_freed_memory, reserve_cores
from sdworker.model_place import model_folder
from sdworker.settings import Attention, Device, Precision, Settings, SettingsError
from sdworker.worker import Worker

__all__ = ["build_worker", "find_model"]

log = logging.getLogger(__name__)

_NETWORK_VOLUME = Path("/runpod-volume")
_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def build_worker(settings: Settings) -> Worker:
    """A worker with its model loaded and its engine running.

    Raises:
        ModelError: the model is missing or broken.
        SettingsError: the device or the precision cannot be had.
    """
    folder = find_model(settings)
    device = _find_device(settings)
    dtype = _find_dtype(settings, device)
    log.info("loading %s on %s in %s", folder, device, str(dtype).removeprefix("torch."))
    threads = reserve_cores()
    if device.type == "cpu" and settings.keep_memory:
        keep_freed_memory()
    if settings.compile:
        _keep_compiled(settings.compile_cache_dir)
    began = time.perf_counter()
    networks = Networks.load(
        folder,
        device=device,
        dtype=dtype,
        xformers=settings.attention is Attention.XFORMERS,
        channels_last=settings.channels_last,
        means=Means(
            cuda_graphs=settings.cuda_graphs,
            compiled=settings.compile,
            fp16_accumulation=settings.fp16_accumulation,
        ),
    )
    log.info("loaded in %.2f s", time.perf_counter() - began)
    memory_mb = settings.drawing_memory_mb
    engine = Engine(
        networks,
        max_rows=settings.max_rows,
        threads=threads,
        memory_bytes=None if memory_mb is None else memory_mb * 2**20,
    )
    return Worker(settings, engine, model_name=_model_name(folder))


def _keep_compiled(folder: Path | None) -> None:
    """Have torch's compiler keep what it makes where the next start finds it."""
    if folder is None and _NETWORK_VOLUME.is_dir():
        folder = _NETWORK_VOLUME / "compiled"
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        log.warning("what is compiled will not be there for the next start: %s", error)
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    log.info("what is compiled is kept in %s", folder)


def find_model(settings: Settings) -> Path:
    """`MODEL_DIR`, else the image's baked model, else the embedded one.

    Raises:
        ModelError: none of them is there.
    """
    folder = model_folder(settings.model_dir)
    if settings.model_dir is None and not folder.is_dir():
        raise ModelError("there is no model: set MODEL_DIR to a folder in diffusers' layout")
    return folder


def _find_device(settings: Settings) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if settings.device is Device.CUDA and not has_cuda:
        raise SettingsError("DEVICE: is cuda, but this machine has no CUDA device that torch can use")
    if settings.device is Device.CPU or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda")


def _find_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.precision is not Precision.AUTO:
        return _DTYPES[settings.precision]
    return torch.float16 if device.type == "cuda" else torch.float32


def _model_name(folder: Path) -> str:
    """What the model is called in generation data: the source its manifest names, else the folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        return str(manifest["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name
