"""From settings to a worker that is ready: which model, which device, which precision."""

import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch

from sdworker import nvidia
from sdworker.engine.engine import Engine
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import why_not
from sdworker.engine.networks.families import load_model
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.networks.preparation import Means
from sdworker.engine.processor import keep_freed_memory, reserve_cores
from sdworker.engine.safety import SafetyChecker, has_checker
from sdworker.engine.tables import SamplerTables, TableError
from sdworker.model_place import model_folder
from sdworker.safety import SafetyGuard
from sdworker.settings import Attention, Device, Precision, Safety, Settings, SettingsError
from sdworker.worker import Worker

__all__ = ["build_worker", "find_model"]

log = logging.getLogger(__name__)

_NETWORK_VOLUME = Path("/runpod-volume")
_SMALLEST = (8, 8)  # latents; every level of a UNet halves them
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
    log.info("loading %s on %s in %s", shown(folder), device, str(dtype).removeprefix("torch."))
    threads = reserve_cores()
    if device.type == "cpu" and settings.keep_memory:
        keep_freed_memory()
    if settings.compile:
        _keep_compiled(settings.compile_cache_dir)
    began = time.perf_counter()
    model = _load(
        folder,
        Loading(
            device=device,
            dtype=dtype,
            xformers=settings.attention is Attention.XFORMERS,
            channels_last=settings.channels_last,
            means=Means(
                cuda_graphs=settings.cuda_graphs,
                compiled=settings.compile,
                fp16_accumulation=settings.fp16_accumulation,
            ),
        ),
    )
    _check_samplers(settings, model, folder)
    guard = _make_guard(settings, folder, device, dtype)
    log.info("loaded in %.2f s", time.perf_counter() - began)
    memory_mb = settings.drawing_memory_mb
    engine = Engine(
        model,
        max_rows=settings.max_rows,
        threads=threads,
        fewer_threads=settings.fewer_threads,
        memory_bytes=None if memory_mb is None else memory_mb * 2**20,
    )
    try:
        return Worker(settings, engine, model_name=_model_name(folder), guard=guard)
    except SettingsError:
        engine.close(finish=False)  # its thread would keep the process
        raise


def _load(folder: Path, loading: Loading) -> Model:
    """The model, after it has shown that it draws.

    Raises:
        ModelError: it cannot be loaded, or does not draw.
    """
    try:
        model = load_model(folder, loading)
        _try_out(model, folder)
    except (MemoryError, torch.OutOfMemoryError):
        raise ModelError(
            f"{shown(folder)} does not fit into the {loading.device.type} device's memory"
        ) from None
    return model


def _try_out(model: Model, folder: Path) -> None:
    """Have each network run once, at its smallest: what is wrong with it shows here, not in every job.

    Raises:
        ModelError: naming the network.
    """
    part = "text_encoder"
    try:
        with torch.inference_mode():
            results = [model.example_conditioning().text]
            part = "unet"
            results.append(model.denoise(model.example_input(1, _SMALLEST)))
            part = "vae"
            latents = torch.zeros(1, model.autoencoder.latent_channels, *_SMALLEST, device=model.device)
            model.autoencoder.decode(latents).pixels()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # networks that do not fit each other raise anything; the cause is kept
        raise ModelError(f"{shown(folder / part)} loads, but does not run: {why_not(error)}") from error
    for part, result in zip(("text_encoder", "unet"), results, strict=True):
        if not bool(result.isfinite().all()):
            raise ModelError(f"{shown(folder / part)} gives numbers that are not finite in {model.dtype}")


def _make_guard(
    settings: Settings, model: Path, device: torch.device, dtype: torch.dtype
) -> SafetyGuard | None:
    """The safety checker, where there is one and it is wanted; it has judged a grey picture.

    Raises:
        ModelError: it is broken.
        SettingsError: it is wanted, and there is none.
    """
    place = settings.safety_checker or (model if has_checker(model) else None)
    mode = settings.safety or (Safety.OFF if place is None else Safety.FLAG)
    if mode is Safety.OFF:
        return None
    if place is None:
        raise SettingsError(
            f"SAFETY: is {mode}, but the model has no safety checker; fetch it with --safety, or set "
            "SAFETY_CHECKER"
        )
    try:
        checker = SafetyChecker.load(place, device=device, dtype=dtype)
        checker.try_out()
    except (MemoryError, torch.OutOfMemoryError):
        raise ModelError(f"{shown(place)} does not fit into the {device.type} device's memory") from None
    return SafetyGuard(checker, mode, settings)


def _check_samplers(settings: Settings, model: Model, folder: Path) -> None:
    """The model's noise schedule makes a table for the sampler that jobs get when they name none.

    Raises:
        ModelError, SettingsError: it does not; naming the file, or the variable where that is at fault.
    """
    tables = SamplerTables(model.scheduler_config, torch.device("cpu"))
    try:
        tables.get(settings.default_scheduler, settings.default_steps)
        return
    except Exception as error:  # a scheduler raises anything on a configuration that it does not expect
        cause = error
    file = shown(folder / "scheduler" / "scheduler_config.json")
    try:
        tables.get("Euler", 2)
    except Exception as error:
        raise ModelError(f"{file} makes no noise schedule: {why_not(error)}") from error
    if isinstance(cause, TableError):
        raise SettingsError(f"DEFAULT_SCHEDULER, DEFAULT_STEPS: {cause}") from cause
    raise ModelError(f"{file} does not suit {settings.default_scheduler}: {why_not(cause)}") from cause


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
    """Never the CPU by mistake: only where it was asked for, or where nothing speaks of a GPU.

    Raises:
        SettingsError: there should be a CUDA device, and none can be used; says why.
    """
    if settings.device is Device.CPU:
        return torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on a driver that is too old; ours follow
        has_cuda = torch.cuda.is_available()
    if not has_cuda:
        if settings.device is Device.AUTO and nvidia.driver_version() is None:
            return torch.device("cpu")
        reason = nvidia.why_no_device(torch_version=torch.__version__, cuda=torch.version.cuda)
        raise SettingsError(f"DEVICE: is {settings.device}, but {reason}; DEVICE=cpu draws on the CPU")
    unusable: str | None
    try:
        torch.zeros(1, device="cuda")
        unusable = nvidia.unbuilt_card(
            torch.cuda.get_device_name(), torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        )
    except RuntimeError as error:  # a card that is broken, or taken by somebody else
        unusable = f"the GPU cannot be used: {why_not(error)}"
    if unusable:
        raise SettingsError(f"DEVICE: is {settings.device}, but {unusable}")
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
