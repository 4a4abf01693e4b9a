"""Building and running the image without a Docker engine: buildah, on a base from Debian's packages."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

__all__ = ["Buildah", "base_tarball", "host_pip_configuration"]

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")


class Buildah:
    """buildah with a storage of its own, so that nothing of the machine's is used or changed.

    Chroot isolation and the vfs driver need root and nothing else: no daemon, no overlay, no user namespaces.
    """

    def __init__(self, storage: Path) -> None:
        driver = os.environ.get("STORAGE_DRIVER", "vfs")
        self._command = [
            "buildah",
            *("--storage-driver", driver, "--root", str(storage / "root"), "--runroot", str(storage / "run")),
        ]

    def __call__(self, *arguments: object, timeout_s: float = 900) -> "subprocess.CompletedProcess[str]":
        """Run a buildah command, whatever comes of it."""
        return subprocess.run(
            [*self._command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def output(self, *arguments: object) -> str:
        """Standard output of a buildah command that must succeed."""
        done = self(*arguments)
        assert done.returncode == 0, f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-8000:]}"
        return done.stdout.strip()

    def make_base(self, tarball: Path, name: str) -> None:
        """An image of a root file system."""
        container = self.output("from", "scratch")
        self.output("add", "--quiet", container, tarball)
        self.output("commit", "--quiet", "--rm", container, name)

    def build(
        self,
        context: Path,
        tag: str,
        *,
        arguments: Mapping[str, str],
        secrets: Mapping[str, Path],
        volumes: Sequence[Path],
    ) -> None:
        """Build the context's Dockerfile. Volumes are there during the build only, at the host's own paths."""
        options: list[object] = ["--isolation", "chroot", "--tag", tag]
        for name, value in arguments.items():
            options += ["--build-arg", f"{name}={value}"]
        for name, path in secrets.items():
            options += ["--secret", f"id={name},src={path}"]
        for path in volumes:
            options += ["--volume", f"{path}:{path}:ro"]
        self.output("build", *options, context)

    def run(
        self, container: str, *command: object, timeout_s: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container, with the user, directory and environment of its image."""
        return self("run", "--isolation", "chroot", container, "--", *command, timeout_s=timeout_s)


def base_tarball() -> Path:
    """Debian with Python and little else, as a tar archive. Made once and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdworker"
    mirror = os.environ.get("DEBIAN_MIRROR", "")
    recipe = hashlib.sha256(" ".join([_SUITE, *_PACKAGES, mirror]).encode()).hexdigest()[:12]
    archive = cache / f"{_SUITE}-{recipe}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    root, partial = (cache / f"{archive.stem}.{os.getpid()}.{kind}" for kind in ("root", "tar"))
    try:
        include = f"--include={','.join(_PACKAGES)}"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", include, _SUITE, str(root), *([mirror] if mirror else [])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, f"debootstrap: {made.stdout[-4000:]}"
        without = ["--exclude=./dev/*", "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*"]
        subprocess.run(["tar", "-C", str(root), *without, "-cf", str(partial), "."], check=True)
        partial.replace(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return archive


def host_pip_configuration() -> tuple[str, list[Path]]:
    """How this machine's pip is set up: as a `pip.conf`, and the local paths that it names.

    A build then finds packages as its host does, be that a mirror, a folder of wheels or plain PyPI.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    merged: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        # The environment is listed first and wins.
        if section in (":env:", "global", "install"):
            merged.setdefault(option, str(ast.literal_eval(value)))
    lines = [f"{name} = {' '.join(value.split())}" for name, value in merged.items()]
    paths = {path for value in merged.values() for word in value.split() for path in _local_paths(word)}
    return "\n".join(["[global]", *lines, ""]), sorted(paths)


def _local_paths(word: str) -> list[Path]:
    """The file or folder that a word of pip's configuration names; an index's links may go beside it."""
    if word.startswith("file:"):
        return [Path(urlparse(word).path).parent]
    path = Path(word)
    return [path] if path.is_absolute() and path.exists() else []


def image_configuration(inspected: dict[str, Any]) -> dict[str, Any]:
    """The part of `buildah inspect` that a container engine goes by."""
    configuration = inspected["OCIv1"]["config"]
    assert isinstance(configuration, dict)
    return configuration
