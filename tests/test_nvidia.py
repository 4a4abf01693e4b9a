"""What is said where there is no CUDA device: the driver that is here, the driver that is needed."""

from pathlib import Path

import pytest

from sdworker import nvidia

TABLE = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 570.86.10              Driver Version: 570.86.10      CUDA Version: 12.8     |
"""
KERNEL = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024
GCC version:  gcc version 11.4.0
"""
OPEN_KERNEL = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` to be written; no kernel module."""
    monkeypatch.setattr(nvidia, "_PROC", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def write(tool: Path, *, says: str = "", status: int = 0) -> None:
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    tool.chmod(0o755)


class TestDriverVersion:
    def test_none_where_there_is_no_driver(self, smi: Path) -> None:
        assert nvidia.driver_version() is None

    @pytest.mark.parametrize(
        ("says", "version"),
        [("570.86.10", "570.86.10"), ("580.65.06\n580.65.06", "580.65.06"), (TABLE, "570.86.10")],
        ids=["one card", "two cards", "table"],
    )
    def test_it_is_what_nvidia_smi_says(self, smi: Path, says: str, version: str) -> None:
        write(smi, says=says)
        assert nvidia.driver_version() == version

    @pytest.mark.parametrize(
        "says", ["", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "[N/A]"]
    )
    def test_one_that_knows_none_counts_as_none(self, smi: Path, says: str) -> None:
        write(smi, says=says, status=9)
        assert nvidia.driver_version() is None

    def test_one_that_cannot_be_run_counts_as_none(self, smi: Path) -> None:
        smi.write_bytes(b"\x7fELF nonsense")
        smi.chmod(0o755)
        assert nvidia.driver_version() is None

    def test_one_that_hangs_counts_as_none(self, smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nvidia, "_SMI_TIMEOUT_S", 0.2)
        smi.write_text("#!/bin/sh\nexec sleep 60\n")
        smi.chmod(0o755)
        assert nvidia.driver_version() is None

    @pytest.mark.parametrize(("says", "version"), [(KERNEL, "535.183.01"), (OPEN_KERNEL, "580.95.05")])
    def test_the_kernel_tells_where_there_is_no_tool(
        self, smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, version: str
    ) -> None:
        (tmp_path / "version").write_text(says)
        monkeypatch.setattr(nvidia, "_PROC", tmp_path / "version")
        assert nvidia.driver_version() == version


class TestWhyNoDevice:
    @pytest.mark.parametrize(
        ("driver", "cuda", "expected"),
        [
            ("570.86.10", "13.0", ["the NVIDIA driver here is 570.86.10", "CUDA 13.0 needs 580.65.06"]),
            ("470.256.02", "12.6", ["the NVIDIA driver here is 470.256.02", "CUDA 12.6 needs 525.60.13"]),
            ("580.95.05", "13.0", ["new enough", "is a GPU handed to this container?"]),
            ("", "12.6", ["no NVIDIA driver was found", "needs 525.60.13"]),
            ("570.86.10", None, ["built without CUDA", "570.86.10", "525.60.13", "580.65.06"]),
            ("570.86.10", "14.1", ["570.86.10", "CUDA 14.1 needs"]),
        ],
    )
    def test_it_names_what_was_found_and_what_is_needed(
        self, smi: Path, driver: str, cuda: str | None, expected: list[str]
    ) -> None:
        if driver:
            write(smi, says=driver)
        message = nvidia.why_no_device(torch_version="2.13.0+x", cuda=cuda)
        assert "\n" not in message
        for part in expected:
            assert part in message

    def test_an_old_driver_is_not_called_new_enough(self, smi: Path) -> None:
        write(smi, says="570.86.10")
        assert "new enough" not in nvidia.why_no_device(torch_version="2.13.0", cuda="13.0")


CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


class TestUnbuiltCard:
    @pytest.mark.parametrize(
        ("capability", "architectures"),
        [
            ((8, 6), CUDA_12),
            ((8, 9), CUDA_12),
            ((7, 0), CUDA_12),
            ((12, 0), CUDA_13),
            ((12, 1), CUDA_13),
            ((13, 0), CUDA_13),
            ((8, 9), []),
        ],
    )
    def test_kernels_of_the_same_generation_run(
        self, capability: tuple[int, int], architectures: list[str]
    ) -> None:
        assert nvidia.unbuilt_card("card", capability, architectures) is None

    @pytest.mark.parametrize(
        ("name", "capability", "architectures"),
        [("RTX 5090", (12, 0), CUDA_12), ("B200", (10, 0), CUDA_12), ("V100", (7, 0), CUDA_13)],
    )
    def test_a_card_of_another_is_named_with_the_image_for_it(
        self, name: str, capability: tuple[int, int], architectures: list[str]
    ) -> None:
        message = nvidia.unbuilt_card(name, capability, architectures)
        assert message is not None
        assert name in message
        assert f"{capability[0]}.{capability[1]}" in message
        assert "CUDA 13" in message
