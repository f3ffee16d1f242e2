"""What a device cannot do is refused with what to use instead; what it is slow at is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perfkit.core.config import Precision
from perfkit.strategies.precision import ComputeCapability, cpu_flags, expected_slower, why_not

PASCAL, TURING, AMPERE = (6, 1), (7, 5), (8, 0)
WITHOUT_BF16 = {"avx2", "avx512_f", "amx_int8"}


@pytest.mark.parametrize("capability", [None, PASCAL, TURING, AMPERE])
def test_fp32_runs_everywhere_and_is_never_called_slow(
    capability: ComputeCapability | None,
) -> None:
    device = "cpu" if capability is None else "cuda"
    assert why_not("fp32", device, capability) is None
    assert expected_slower("fp32", device, set(), capability) is None


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_on_a_cpu_tf32_and_fp16_are_refused_with_what_to_use_instead(precision: Precision) -> None:
    reason = why_not(precision, "cpu", None)
    assert reason is not None
    assert "CPU" in reason
    assert reason.endswith("; use fp32 or bf16")
    assert "\n" not in reason


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_tf32_and_bf16_need_ampere(precision: Precision) -> None:
    assert why_not(precision, "cuda", AMPERE) is None
    assert why_not(precision, "cuda", TURING) == (
        "needs a GPU of compute capability 8.0 or newer, this one has 7.5; use fp16 or fp32"
    )
    assert why_not(precision, "cuda", PASCAL).endswith("has 6.1; use fp32")


def test_fp16_runs_on_any_gpu_and_is_called_slow_where_there_are_no_tensor_cores() -> None:
    assert why_not("fp16", "cuda", PASCAL) is None
    assert "6.1 is expected to be no faster than fp32" in expected_slower(
        "fp16", "cuda", set(), PASCAL
    )
    assert expected_slower("fp16", "cuda", set(), TURING) is None


def test_bf16_runs_on_any_cpu_and_is_called_slow_without_the_instructions() -> None:
    assert why_not("bf16", "cpu", None) is None
    assert "slower than fp32" in expected_slower("bf16", "cpu", WITHOUT_BF16)
    for flag in ("avx512_bf16", "amx_bf16", "bf16"):
        assert expected_slower("bf16", "cpu", {*WITHOUT_BF16, flag}) is None


def test_the_flags_of_the_cpu_say_nothing_of_bf16_on_a_gpu() -> None:
    assert expected_slower("bf16", "cuda", set(), AMPERE) is None


def test_cpu_flags_are_the_instruction_sets_torch_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capabilities = {"avx2": True, "amx_bf16": False, "cpu_name": "A CPU", "l2_cache_size": 1}
    fake = SimpleNamespace(get_capabilities=lambda: capabilities)
    monkeypatch.setattr(torch, "cpu", fake)
    assert cpu_flags() == {"avx2"}


@pytest.mark.parametrize("heading", ["flags\t\t", "Features\t"])  # x86, Arm
def test_where_torch_does_not_tell_cpu_flags_are_those_of_the_kernel(
    heading: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{heading}: fpu bf16\nvmx flags\t: vnmi\n")
    assert cpu_flags(cpuinfo) == {"fpu", "bf16"}
    assert cpu_flags(tmp_path / "missing") == frozenset()


def test_the_rules_can_be_asked_without_torch() -> None:
    code = (
        "import sys, perfkit.strategies.precision as p; p.why_not('bf16', 'cpu', None);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
