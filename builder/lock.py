"""The lock files, and which of them a machine installs: `python -m builder.lock [write|torch]`.

Every package that is installed anywhere is pinned by version and by the SHA-256 of its files, and pip is told to
take nothing else (`--require-hashes --no-deps`). What runs on any machine is in one file; what differs, torch and
the libraries that a build of it brings, is in a file for each build:

    requirements.lock             everything but torch
    requirements-torch-BUILD.lock cpu, cu126 (CUDA 12.6), cu130 (CUDA 13.0)
    requirements-xformers.lock    in images, for ATTENTION=xformers
    requirements-spandrel.lock    for upscalers; alone, without the torchvision that it asks for
    requirements-dev.lock         what tests and lint need besides
    requirements-tools.lock       uv, which resolves all of this, and what reads it: audit, bill of materials

Standard library only: it runs before anything is installed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

__all__ = ["BUILDS", "TORCH", "Pin", "main", "pins_of", "torch_build"]

TORCH = "torch==2.13.0"
XFORMERS = "xformers==0.0.35"
SPANDREL = "spandrel==0.4.2"
TOOLS = ("uv>=0.13", "pip-audit>=2.10", "cyclonedx-bom>=7.5", "pip-licenses>=5.5")
PYTHON = "3.11"
"""The oldest that is supported; the files hold for later ones too, by markers."""

BUILDS = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cu126": "https://download.pytorch.org/whl/cu126",
    "cu130": "",
}
"""torch's builds and the index that has each; PyPI's own is the one for CUDA 13.0."""

_ROOT = Path(__file__).resolve().parents[1]
_OF_A_BUILD = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)$")
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==(\S+)")


class Pin:
    """A package's lines in a lock file: name, version, markers, hashes; what uv says of why it is there."""

    def __init__(self, lines: Sequence[str]) -> None:
        found = _PIN.match(lines[0])
        assert found, lines[0]
        self.name = re.sub(r"[-_.]+", "-", found[1]).lower()
        self.version = found[2]
        self.text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        self.is_hashed = "--hash=sha256:" in self.text
        marker = lines[0].partition(";")[2].rstrip("\\ ").strip()
        self.marker: str | None = marker or None

    @property
    def applies(self) -> bool:
        """Whether it is installed on a machine like this one."""
        from packaging.markers import Marker  # comes with what is locked; not needed to lock it

        return self.marker is None or Marker(self.marker).evaluate()

    @property
    def is_of_a_build(self) -> bool:
        """Whether it is torch, or comes with some builds of it only."""
        return bool(_OF_A_BUILD.fullmatch(self.name))


def pins_of(text: str) -> list[Pin]:
    """The packages of a lock file, in order."""
    pins: list[list[str]] = []
    for line in text.splitlines():
        if _PIN.match(line):
            pins.append([line])
        elif line[:1].isspace() and pins:
            pins[-1].append(line)
    return [Pin(lines) for lines in pins]


def torch_build(given: str) -> str:
    """The build of torch that this machine gets: the one named, or the one that pip would take.

    Which that is depends on the indexes that pip is told of: `PIP_EXTRA_INDEX_URL=…/whl/cpu` makes it the one
    without CUDA. PyPI's own is for CUDA 13.0 on Linux, and without CUDA elsewhere.
    """
    if given != "auto":
        return given
    if not sys.platform.startswith("linux"):
        return "cpu"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
    ]
    done = subprocess.run([*command, "--report", "-", TORCH], capture_output=True, text=True, check=False)
    try:
        version = str(json.loads(done.stdout)["install"][0]["metadata"]["version"])
    except (ValueError, LookupError):
        sys.exit(f"pip finds no {TORCH}: {done.stderr.strip()[-500:]}")
    return version.partition("+")[2] or "cu130"


def _write_all(uv: str, upgrade: bool) -> None:
    """Write every lock file; pins that still fit are kept, unless all are to be brought up to date."""
    with tempfile.TemporaryDirectory() as name:
        resolve = _Resolver(uv, Path(name), upgrade=upgrade)
        project = str(_ROOT / "pyproject.toml")
        run = resolve([project], [TORCH], ["requirements.lock", "requirements-torch-cu130.lock"])
        _write("requirements.lock", (pin for pin in run if not pin.is_of_a_build))
        _write("requirements-torch-cu130.lock", (pin for pin in run if pin.is_of_a_build))
        pinned = {pin.name for pin in run}
        constraints = [f"{pin.name}=={pin.version}" for pin in run if pin.marker is None]
        dev = resolve(["--extra", "dev", project], [TORCH, *constraints], ["requirements-dev.lock"])
        _write("requirements-dev.lock", (pin for pin in dev if pin.name not in pinned))
        _write("requirements-tools.lock", resolve(resolve.file(TOOLS), [], ["requirements-tools.lock"]))
        for package in (XFORMERS, SPANDREL):
            alone = resolve(["--no-deps", *resolve.file([package])], [], [])
            _write(f"requirements-{package.partition('==')[0]}.lock", alone)
        for build, index in BUILDS.items():
            if not index:
                continue
            wanted = resolve.file(
                [f"{TORCH}+{build} ; sys_platform != 'darwin'", f"{TORCH} ; sys_platform == 'darwin'"]
            )
            options = ["--index", index, "--index-strategy", "unsafe-best-match"]
            try:
                found = resolve([*options, *wanted], [], [f"requirements-torch-{build}.lock"])
            except OSError as error:
                print(f"requirements-torch-{build}.lock is left as it is: {error}", file=sys.stderr)
                continue
            _write(f"requirements-torch-{build}.lock", (pin for pin in found if pin.is_of_a_build))


class _Resolver:
    """uv, asked for a whole set of pins."""

    def __init__(self, uv: str, folder: Path, *, upgrade: bool) -> None:
        self._uv = uv
        self._folder = folder
        self._upgrade = upgrade
        self._count = 0

    def file(self, requirements: Iterable[str]) -> list[str]:
        """The argument that stands for these requirements."""
        self._count += 1
        path = self._folder / f"{self._count}.in"
        path.write_text("\n".join(requirements) + "\n")
        return [str(path)]

    def __call__(self, arguments: list[str], constraints: list[str], known: list[str]) -> list[Pin]:
        """Pins for what the arguments name, those in the `known` lock files preferred.

        Raises:
            OSError: an index cannot be reached, or there is no such set.
        """
        self._count += 1
        out = self._folder / f"{self._count}.lock"
        if not self._upgrade:
            files = [_ROOT / name for name in known if (_ROOT / name).exists()]
            out.write_text("\n".join(pin.text for file in files for pin in pins_of(file.read_text())))
        command = [self._uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--python-version", PYTHON, "--output-file", str(out)]
        command += ["--constraints", *self.file(constraints)] if constraints else []
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError((done.stderr.strip() or "uv failed").splitlines()[0])
        return pins_of(out.read_text())


def _write(name: str, pins: Iterable[Pin]) -> None:
    chosen = list(pins)
    unhashed = [pin.name for pin in chosen if not pin.is_hashed]
    assert not unhashed, f"{name}: no hashes for {unhashed}"
    lines = ["# Written by `make lock`; install with pip's --require-hashes and --no-deps."]
    (_ROOT / name).write_text("\n".join([*lines, *(pin.text for pin in chosen)]) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.lock", description=(__doc__ or "").split("\n\n")[0]
    )
    commands: dict[str, Callable[[argparse.Namespace], object]] = {
        "write": lambda options: _write_all(options.uv, options.upgrade),
        "torch": lambda options: print(f"requirements-torch-{torch_build(options.build)}.lock"),
    }
    parser.add_argument(
        "command", choices=commands, help="write the files, or name the one with this machine's torch"
    )
    parser.add_argument("--uv", default="uv", help="the resolver's program (default: %(default)s)")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that are allowed")
    parser.add_argument(
        "--build", default="auto", choices=["auto", *BUILDS], help="of torch (default: what pip finds)"
    )
    options = parser.parse_args(arguments)
    commands[options.command](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
