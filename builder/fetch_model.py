"""Put a model where the worker finds it: `python -m builder.fetch_model MODEL --out FOLDER`.

The folder that comes out holds the few files the worker needs, weights as fp16 safetensors, verified by
loading them, with a `manifest.json` of where everything came from. It appears when it is complete, not
before. What was downloaded until an interruption waits in `FOLDER.partial` for the next run.
"""

import argparse
import errno
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from builder import manifest
from builder.assemble import assemble
from builder.errors import FetchError
from builder.hub import Hub
from builder.manifest import Manifest
from builder.sources import DEFAULT_MODEL, Origin, resolve
from builder.tokenizer import complete_tokenizer
from builder.verify import verify

__all__ = ["fetch", "main"]

log = logging.getLogger("fetch_model")


def fetch(
    model: str,
    out: Path,
    *,
    hub: Hub,
    revision: str | None = None,
    config_from: str | None = None,
    with_safety: bool = False,
    force: bool = False,
) -> Manifest:
    """Make the model folder `out`. Nothing is done if it is there, whole and the same.

    Args:
        model: `owner/name[@revision]`, `owner/name[@revision]/file.safetensors`, a folder in diffusers'
            layout, or a `.safetensors` file.
        out: The folder to make.
        hub: Where ids are looked up.
        revision: Commit, tag or branch; a commit is a pin, the others are resolved to one with a warning.
        config_from: For a single file, the model whose configuration and tokenizer it shares, by id or
            folder; its family's own (Stable Diffusion 1.5's, XL's) if none is named.
        with_safety: Keep the model's safety checker.
        force: Replace what is at `out`.

    Raises:
        FetchError: with one line on what is wrong. `out` is as it was.
        OSError: if the disk is full or not to be written to. `out` is as it was.
    """
    out = out.absolute()
    work = out.with_name(out.name + ".partial")
    origin = resolve(model, hub, revision=revision, config_from=config_from, with_safety=with_safety)
    if out.exists() and not force:
        return _existing(out, origin)

    folder = origin.stage(work)
    built = work / "model"
    shutil.rmtree(built, ignore_errors=True)
    log.info("assembling %s", origin.source.name)
    converted = assemble(folder, built, link=origin.ours, with_safety=with_safety)
    log.info("verifying")
    verify(built)
    converted += complete_tokenizer(built)
    made = manifest.write(built, origin.source, origin.licence, converted)
    _publish(built, out)
    shutil.rmtree(work, ignore_errors=True)
    return made


def _existing(out: Path, origin: Origin) -> Manifest:
    """What is at `out`, if it is what would be made."""
    existing = manifest.read(out)
    if existing is None or existing.source != asdict(origin.source):
        raise FetchError(f"{out} is there already, with something else in it; --force replaces it")
    differing = manifest.problems(out, existing)
    if differing:
        raise FetchError(
            f"{out} is not what its {manifest.MANIFEST} says: {differing[0]}; --force replaces it"
        )
    return existing


def _publish(built: Path, out: Path) -> None:
    """Move the finished folder to its place, what was there out of the way first."""
    old = built.with_name("replaced")
    if out.exists():
        out.replace(old)
    built.replace(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 with the folder complete, 1 with a line of why not."""
    options = _parse(arguments)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)
    _quiet_libraries()
    try:
        made = fetch(
            options.model,
            options.out,
            hub=Hub(token=_read_token(options.token_file), tries=options.tries),
            revision=options.revision or None,
            config_from=options.config_from or None,
            with_safety=options.safety,
            force=options.force,
        )
    except FetchError as error:
        log.error("error: %s", error)
        return 1
    except OSError as error:
        log.error("error: %s", _describe(error))
        return 1
    size = sum(file["size"] for file in made.files.values())
    log.info("%s: %d files, %.2f GB", options.out, len(made.files), size / 1e9)
    return 0


def _quiet_libraries() -> None:
    """Leave the output to what concerns the model; the libraries read these when they are imported."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m builder.fetch_model", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        help="owner/name[@revision] on the model hub, owner/name/file.safetensors there, a local folder in "
        "diffusers' layout, or a local .safetensors file (default: %(default)s at a fixed revision)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--revision", help="commit, tag or branch on the hub; a commit is best")
    parser.add_argument(
        "--config-from",
        metavar="MODEL",
        help="for a single file: the model, by id or folder, whose configuration and tokenizer it shares "
        "(default: Stable Diffusion 1.5's or XL's, as its weights have it)",
    )
    parser.add_argument(
        "--safety", action="store_true", help="keep the model's safety checker (docs/safety.md)"
    )
    parser.add_argument(
        "--token-file", type=Path, help="file with the hub's token, a build secret say; else HF_TOKEN is used"
    )
    parser.add_argument(
        "--tries", type=int, default=6, help="how often a request is sent before it is given up (default: 6)"
    )
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    return parser.parse_args(arguments)


def _read_token(path: Path | None) -> str | None:
    """The token, from the file if there is one: a build secret that was not given leaves none."""
    if path is not None and path.is_file():
        return path.read_text().strip() or None
    return os.environ.get("HF_TOKEN", "").strip() or None


def _describe(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk is full: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
