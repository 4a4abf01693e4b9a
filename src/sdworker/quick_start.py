"""`import sdworker.quick_start`, before anything heavy, makes the imports that follow quick.

For processes that only serve, as `handler.py` does. docs/tuning.md says what each of its four means is worth;
`python -m bench coldstart` measures them together. QUICK_START=0 switches them off, and then everything is
imported the plain way, to the same pictures:

- diffusers' UNet and VAE without what surrounds them: every other model family, transformers, torch's compiler;
- runpod without the probe of the processor that its debugger makes, a second in a process of its own;
- no garbage is collected meanwhile, and what was imported is never searched for any;
- the weights are read into the page cache in a thread.

None of it is needed for the worker to work: where a library is no longer as it was when this was written, its part
is left out with a warning.
"""

import contextlib
import gc
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sdworker.waiting import wait_a_moment

__all__ = ["DeferredModule", "quick_diffusers", "quick_runpod", "read_ahead"]

log = logging.getLogger(__name__)

# Packages whose __init__ imports far more than the one module of theirs that is wanted, and modules that few
# samplers or none have a use for.
_DEFERRED = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "accelerate.commands.config",
    "scipy.integrate",
    "scipy.stats",
)
_CHUNK_BYTES = 8 * 1024 * 1024


class DeferredModule(ModuleType):
    """A module or package that is executed when something is first asked of it that is not there yet.

    Submodules of a deferred package can be imported without executing it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__lock__ = threading.RLock()
        self.__begun__ = False

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self._execute()
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def _execute(self) -> None:
        """Once. Other threads wait for it; while it runs, it may ask itself for what it does not have yet."""
        with self.__lock__:
            if self.__begun__ or self.__spec__ is None or self.__spec__.loader is None:
                return
            self.__begun__ = True
            self.__spec__.loader.exec_module(self)


def quick_diffusers() -> None:
    """Import diffusers' UNet and VAE, and what they need, and nothing else.

    diffusers works without transformers and peft, which are optional dependencies of it, so it is told that there
    are none: in this process its pipelines and its LoRA loaders, which we do not use, are not to be had.
    """
    if "diffusers" in sys.modules or "transformers" in sys.modules:
        return
    before = set(sys.modules)
    try:
        with (
            _stand_in("transformers", None),
            _stand_in("peft", None),
            _stand_in("torch._dynamo", _without_compiler()),
        ):
            importlib.import_module("diffusers.models")
            for name in _DEFERRED:
                _defer(name)
            importlib.import_module("diffusers.models.unets.unet_2d_condition")
            importlib.import_module("diffusers.models.autoencoders.autoencoder_kl")
    except BaseException:
        for name in sys.modules.keys() - before:  # what is half done must not be found by the plain import
            if name.startswith("diffusers") or isinstance(sys.modules[name], DeferredModule):
                del sys.modules[name]
        raise


def quick_runpod() -> None:
    """Import runpod with the processor's name taken from /proc instead of found out by `cpuinfo`.

    The name only goes into the report of `--rp_debugger`.
    """
    import cpuinfo

    from sdworker.process import environment

    environment.mend()
    probe = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = lambda: {"brand_raw": _processor_name()}
    try:
        importlib.import_module("runpod")
    finally:
        cpuinfo.get_cpu_info = probe


def read_ahead(folder: Path) -> threading.Thread:
    """Read a model's weights, so that they are in the page cache when they are loaded; returns the reader."""
    thread = threading.Thread(target=_read_all, args=(folder,), name="read ahead", daemon=True)
    thread.start()
    return thread


def _read_all(folder: Path) -> None:
    buffer = bytearray(_CHUNK_BYTES)
    # Whatever is wrong with a file is for the one who loads it to say.
    with contextlib.suppress(OSError):
        for file in sorted(folder.glob("*/*.safetensors")):
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def _defer(name: str) -> None:
    """Put a module into `sys.modules` that is executed when it is first used."""
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None:
        return
    module = DeferredModule(name)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    module.__file__ = spec.origin
    if spec.submodule_search_locations is not None:
        module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module


@contextlib.contextmanager
def _stand_in(name: str, module: ModuleType | None) -> Iterator[None]:
    """While open, `import name` gives `module`, or fails as if it were not installed when that is None."""
    if name in sys.modules:
        yield
        return
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules[name] = module
    try:
        yield
    finally:
        del modules[name]


def _without_compiler() -> ModuleType:
    """torch._dynamo's two decorators that code puts on itself for the compiler's sake, doing nothing.

    The compiler itself can be imported, and used, afterwards.
    """
    module = ModuleType("torch._dynamo")
    vars(module).update(allow_in_graph=_unchanged, disable=_unchanged)
    return module


def _unchanged(function: Any = None, *_args: Any, **_options: Any) -> Any:
    """A decorator, with or without arguments, that leaves what it decorates as it is."""
    return (lambda decorated: decorated) if function is None else function


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def _model_folder() -> Path | None:
    """Where the weights most likely are; `catalogue.py` decides, once the settings have been read."""
    from sdworker.model_place import model_folder

    named = os.environ.get("MODEL_DIR")
    if not named and any(os.environ.get(name) for name in ("MODEL_ID", "MODELS", "MODELS_DIR")):
        return None
    return model_folder(Path(named) if named else None)


def _attempt(part: Callable[[], object]) -> None:
    try:
        part()
    except Exception as error:  # whatever a library may raise while it is imported
        log.warning("starting without %s: %s: %s", part.__name__, type(error).__name__, error)


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """While open, nothing looks for garbage, of which imports make none; nor among what was made, ever after."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


wait_a_moment()  # whatever QUICK_START says: torch reads it when it is loaded
# Before the settings are read, because reading them already imports; settings.py declares it too.
if os.environ.get("QUICK_START", "").strip().lower() not in ("0", "false", "no", "off", "f", "n"):
    if (folder := _model_folder()) is not None:
        read_ahead(folder)
    with _without_collecting():
        _attempt(quick_diffusers)
        _attempt(quick_runpod)
