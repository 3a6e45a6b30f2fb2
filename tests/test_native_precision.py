"""bf16 is chosen where the device computes in it."""

import platform
from pathlib import Path

import pytest
import torch

from segkit.distributed import native_precision
from segkit.inference import sam

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 processor")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="an older torch: fp32")
def test_the_precision_of_this_processor_follows_its_flags() -> None:
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.exists():
        pytest.skip("no /proc/cpuinfo")
    words = cpu_info.read_text().split()
    has_bf16 = "amx_bf16" in words or ("avx512_bf16" in words and "GenuineIntel" not in words)
    assert native_precision(CPU) == ("bf16" if has_bf16 else "fp32")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True, "cpu_name": "AMD Zen 4"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_other_processors(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool | str], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert native_precision(CPU) == precision


def test_a_torch_that_cannot_tell_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_precision(CPU) == "fp32"


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_computes_in_fp32_and_sam_in_fp16(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert native_precision(GPU) == ("bf16" if native else "fp32")
    assert sam._precision("cuda") == ("bf16" if native else "fp16")
