"""From settings to a worker that is ready: which model, which device, which precision."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdworker import nvidia
from sdworker.budgets import Budgets
from sdworker.catalogue import ListedModel, list_models
from sdworker.engine.engine import Engine
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import ModelFolder, check_model_folder, why_not
from sdworker.engine.networks.families import load_checked, weights_bytes
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.networks.preparation import Means
from sdworker.engine.networks.sharing import SharedWeights
from sdworker.engine.pool import ModelPool, Pooled
from sdworker.engine.processor import keep_freed_memory, reserve_cores
from sdworker.engine.safety import SafetyChecker, has_checker
from sdworker.engine.tables import SamplerTables, TableError
from sdworker.fused import FusedLoras
from sdworker.request import Contract
from sdworker.safety import SafetyGuards
from sdworker.settings import Attention, Device, Precision, Safety, Settings, SettingsError
from sdworker.worker import Worker

__all__ = ["build_worker"]

log = logging.getLogger(__name__)

_NETWORK_VOLUME = Path("/runpod-volume")
_SMALLEST = (8, 8)  # latents; every level of a UNet halves them
_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def build_worker(settings: Settings) -> Worker:
    """A worker with its first model loaded and its engine running.

    Raises:
        ModelError: the model is missing or broken.
        SettingsError: the device or the precision cannot be had.
    """
    device = _find_device(settings)
    dtype = _find_dtype(settings, device)
    listed = list_models(settings, half=dtype is torch.float16)
    contract = Contract(
        settings, listed[0].served.size, tuple(one.served for one in listed), _memory_bytes(device)
    )
    checked = _checked(listed[0], dtype)
    folder = checked.path
    fused = FusedLoras(settings, listed)
    log.info("loading %s on %s in %s", shown(folder), device, str(dtype).removeprefix("torch."))
    threads = reserve_cores()
    if device.type == "cpu" and settings.keep_memory:
        keep_freed_memory()
    if settings.compile:
        _keep_compiled(settings.compile_cache_dir)
    began = time.perf_counter()
    budgets = Budgets.of(settings, listed, device, dtype)
    loading = Loading(
        device=device,
        dtype=dtype,
        lora_bytes=budgets.loras,
        xformers=settings.attention is Attention.XFORMERS,
        channels_last=settings.channels_last,
        means=Means(
            cuda_graphs=settings.cuda_graphs,
            compiled=settings.compile,
            fp16_accumulation=settings.fp16_accumulation,
        ),
        # What is merged into one model's weights must not come into another's that has the same.
        shared=SharedWeights() if len(listed) > 1 and not fused else None,
    )
    model = _load(checked, loading)
    fused.merge_into(model, listed[0].served.name)
    _try_out(model, folder)
    _check_samplers(contract.defaults_of(contract.served.first), model, folder)
    guards = _make_guards(settings, listed, device, dtype)
    log.info("loaded in %.2f s", time.perf_counter() - began)
    memory_mb = settings.drawing_memory_mb
    engine = Engine(
        model,
        max_rows=settings.max_rows,
        threads=threads,
        fewer_threads=settings.fewer_threads,
        memory_bytes=None if memory_mb is None else memory_mb * 2**20,
        reserved_bytes=budgets.still_to_come,
    )
    pool = ModelPool(engine, [_pooled(one, loading, fused) for one in listed], budget_bytes=budgets.models)
    return Worker(settings, engine, pool, contract, guards=guards, control_bytes=budgets.controls)


def _load(checked: ModelFolder, loading: Loading) -> Model:
    """The model in a folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return load_checked(checked, loading)
    except (MemoryError, torch.OutOfMemoryError):
        raise _does_not_fit(checked.path, loading.device) from None


def _checked(listed: ListedModel, dtype: torch.dtype) -> ModelFolder:
    """A model's folder as it is now, and a checkpoint's that was made now.

    Raises:
        ModelError: it cannot be drawn with.
    """
    return check_model_folder(listed.folder(), half=dtype is torch.float16)


def _does_not_fit(folder: Path, device: torch.device) -> ModelError:
    return ModelError(f"{shown(folder)} does not fit into the {device.type} device's memory")


def _pooled(listed: ListedModel, loading: Loading, fused: FusedLoras) -> Pooled:
    """How a model is had later, by when its folder may have changed."""

    def load() -> Model:
        checked = _checked(listed, loading.dtype)
        if loading.device.type != "cuda":
            return load_whole(checked)
        # On a stream of its own, beside the steps of those who draw.
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            model = load_whole(checked)
        stream.synchronize()
        return model

    def load_whole(checked: ModelFolder) -> Model:
        model = _load(checked, loading)
        fused.merge_into(model, listed.served.name)
        return model

    return Pooled(
        listed.served.name,
        weights_bytes(listed.checked, loading.dtype),
        load,
        lambda model: _try_out(model, listed.place),
    )


def _memory_bytes(device: torch.device) -> int | None:
    """Of a GPU, all that it has."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


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
        raise _does_not_fit(folder, model.device) from None
    except Exception as error:  # networks that do not fit each other raise anything; the cause is kept
        raise ModelError(f"{shown(folder / part)} loads, but does not run: {why_not(error)}") from error
    for part, result in zip(("text_encoder", "unet"), results, strict=True):
        if not bool(result.isfinite().all()):
            raise ModelError(f"{shown(folder / part)} gives numbers that are not finite in {model.dtype}")


def _make_guards(
    settings: Settings, listed: Sequence[ListedModel], device: torch.device, dtype: torch.dtype
) -> SafetyGuards | None:
    """The safety checkers, where there are some and they are wanted; the first model's has judged a grey picture.

    Raises:
        ModelError: it is broken.
        SettingsError: one is wanted, and there is none.
    """
    folders = {one.served.name: one.checked.path for one in listed}
    if settings.safety is Safety.OFF:
        return None
    places = {
        name: settings.safety_checker or folder
        for name, folder in folders.items()
        if settings.safety_checker or has_checker(folder)
    }
    without = [name for name in folders if name not in places]
    if settings.safety is not None and without:
        whose = "the model has" if len(listed) == 1 else f"{', '.join(without)} of the models has"
        raise SettingsError(
            f"SAFETY: is {settings.safety}, but {whose} no safety checker; fetch it with --safety, or set "
            "SAFETY_CHECKER"
        )
    first = places.get(listed[0].served.name)
    if first is None:
        return SafetyGuards(places, None, settings, device=device, dtype=dtype) if places else None
    try:
        checker = SafetyChecker.load(first, device=device, dtype=dtype)
        checker.try_out()
    except (MemoryError, torch.OutOfMemoryError):
        raise ModelError(f"{shown(first)} does not fit into the {device.type} device's memory") from None
    return SafetyGuards(places, checker, settings, device=device, dtype=dtype)


def _check_samplers(defaults: Mapping[str, Any], model: Model, folder: Path) -> None:
    """The model's noise schedule makes a table for the sampler that jobs get when they name none.

    Raises:
        ModelError, SettingsError: it does not; naming the file, or the variable where that is at fault.
    """
    tables = SamplerTables(model.scheduler_config, torch.device("cpu"))
    sampler, steps = (defaults[field] for field in ("scheduler", "num_inference_steps"))
    try:
        tables.get(sampler, steps)
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
    raise ModelError(f"{file} does not suit {sampler}: {why_not(cause)}") from cause


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
