"""Put add-ons into the image: LoRAs, embeddings, ControlNets and upscalers that jobs then name.

    python -m builder.fetch_addon --out /opt/addons loras/ink=owner/name:ink.safetensors upscalers/x4=https://…

Each is KIND/NAME=SOURCE, with a `#` and the SHA-256 behind it where its bytes shall be certain. A source is what a
job may name, a URL, `owner/name[:file][@revision]` of the hub or `civitai:VERSION_ID`, or a file on this machine.
Whoever builds chooses the hosts, so all are allowed. HF_TOKEN and CIVITAI_TOKEN are used and kept nowhere.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from sdworker.assets import AddOnError, AddOns, Kind
from sdworker.assets.sources import CIVITAI, HUB
from sdworker.settings import SettingsError, load_settings

__all__ = ["main"]

_KINDS = {kind.folder: kind for kind in Kind}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 with all in their place, 1 with a line of why not."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.fetch_addon", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("addons", nargs="*", metavar="KIND/NAME=SOURCE[#SHA256]")
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder of all add-ons, /opt/addons in the image"
    )
    parser.add_argument("--token-file", type=Path, help="file with the hub's token; else HF_TOKEN is used")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        for item in options.addons:
            print(_fetch(item, options.out, options.token_file), file=sys.stderr)
    except (AddOnError, SettingsError, OSError, ValueError) as error:
        print(f"fetch_addon: error: {error}", file=sys.stderr)
        return 1
    return 0


def _fetch(item: str, out: Path, token_file: Path | None) -> str:
    """Put one in its place; returns a line of what was done.

    Raises:
        ValueError: it is not written as it should be.
        AddOnError: it cannot be had.
    """
    target, _, source = item.partition("=")
    folder, _, name = target.partition("/")
    source, _, sha256 = source.partition("#")
    kind = _KINDS.get(folder)
    if kind is None or not name or not source or ".." in name.split("/") or name.startswith("/"):
        raise ValueError(f"{target!r}: should be KIND/NAME=SOURCE, KIND one of {', '.join(_KINDS)}")
    place = out / folder / f"{name.removesuffix('.safetensors')}.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as cache:
        file = Path(source)
        if not file.is_file():
            file = _find(kind, source, sha256 or None, Path(cache), token_file)
        part = place.with_suffix(".part")
        shutil.copyfile(file, part)
        part.replace(place)
    return f"{place}: {place.stat().st_size / 1e6:.1f} MB"


def _find(kind: Kind, source: str, sha256: str | None, cache: Path, token_file: Path | None) -> Path:
    host = urlsplit(source).hostname
    update: dict[str, object] = {
        "addon_cache_dir": cache,
        "addon_hosts": (HUB, CIVITAI, *([host] if host else [])),
    }
    if token_file is not None and token_file.is_file():
        update["hf_token"] = SecretStr(token_file.read_text().strip())
    settings = load_settings().model_copy(update=update)
    add_ons = AddOns.from_settings(settings, baked=cache, volume=cache)
    return asyncio.run(add_ons.find(kind, source, sha256=sha256))


if __name__ == "__main__":
    sys.exit(main())
