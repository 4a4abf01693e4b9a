"""The lock files' form, and which of them a machine gets."""

import subprocess
import sys
from pathlib import Path

import pytest
from builder.lock import BUILDS, pins_of, torch_build

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
# Written by `make lock`.
a-b==1.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
    # via something
C_d==2.0+cpu ; sys_platform == 'win32' \\
    --hash=sha256:22
nvidia-cublas==3
"""


class TestPins:
    def test_name_version_marker_and_hashes_are_read(self) -> None:
        first, second, third = pins_of(TEXT)
        assert (first.name, first.version, first.marker, first.is_hashed) == ("a-b", "1.0", None, True)
        assert (second.name, second.version, second.marker) == ("c-d", "2.0+cpu", "sys_platform == 'win32'")
        assert not third.is_hashed

    def test_reasons_are_left_out(self) -> None:
        assert pins_of(TEXT)[0].text.endswith("--hash=sha256:11")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("torch", True),
            ("triton", True),
            ("nvidia-nccl-cu13", True),
            ("cuda-toolkit", True),
            ("torchsde", False),
        ],
    )
    def test_what_comes_with_a_build_of_torch_is_known(self, name: str, expected: bool) -> None:
        (pin,) = pins_of(f"{name}==1.0 --hash=sha256:00")
        assert pin.is_of_a_build is expected


class TestTorchBuild:
    @pytest.mark.parametrize("build", BUILDS)
    def test_the_one_named(self, build: str) -> None:
        assert torch_build(build) == build

    def test_else_the_one_that_pip_finds(self) -> None:
        """Whichever that is on this machine, it is one that is locked."""
        command = [sys.executable, "-m", "builder.lock", "torch"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (ROOT / done.stdout.strip()).is_file()
