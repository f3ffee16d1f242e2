"""Which precision a device can train in, and which one it only gets slower by."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from perfkit.core.config import Precision

ComputeCapability = tuple[int, int]

CPUINFO = Path("/proc/cpuinfo")
# NVIDIA, CUDA C++ Programming Guide, features by compute capability: tensor cores multiply fp16
# from 7.0 (Volta) on, bf16 and tf32 from 8.0 (Ampere) on.
FP16_TENSOR_CORES: ComputeCapability = (7, 0)
BF16_TENSOR_CORES: ComputeCapability = (8, 0)
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is Arm's


def why_not(
    precision: Precision, device: str, compute_capability: ComputeCapability | None
) -> str | None:
    """Return why ``precision`` cannot be had on ``device`` ("cpu" or "cuda"), or None.

    The reason says what to use instead and can follow "--precision fp16: ". ``compute_capability``
    is that of the GPU, None on a CPU.
    """
    if device == "cpu":
        return {
            "tf32": "TF32 is a format of NVIDIA GPUs from compute capability 8.0 on, no CPU has "
            "it; use fp32 or bf16",
            "fp16": "convolutions in fp16 on a CPU are an order of magnitude slower than in fp32; "
            "use fp32 or bf16",
        }.get(precision)
    if (
        precision in {"tf32", "bf16"}
        and compute_capability is not None
        and compute_capability < BF16_TENSOR_CORES
    ):
        instead = "fp16 or fp32" if compute_capability >= FP16_TENSOR_CORES else "fp32"
        return (
            f"needs a GPU of compute capability {_dotted(BF16_TENSOR_CORES)} or newer, this one "
            f"has {_dotted(compute_capability)}; use {instead}"
        )
    return None


def expected_slower(
    precision: Precision,
    device: str,
    cpu_flags: Collection[str],
    compute_capability: ComputeCapability | None = None,
) -> str | None:
    """Return a notice if ``precision`` is expected to be no faster than fp32 on ``device``.

    ``cpu_flags`` are those of ``cpu_flags()``, ``compute_capability`` is that of the GPU.
    """
    if precision == "bf16" and device == "cpu" and BF16_FLAGS.isdisjoint(cpu_flags):
        return "bf16 on a CPU without avx512_bf16 or amx_bf16 is expected to be slower than fp32"
    if (
        precision == "fp16"
        and compute_capability is not None
        and compute_capability < FP16_TENSOR_CORES
    ):
        return (
            f"fp16 on a GPU of compute capability {_dotted(compute_capability)} is expected to be "
            f"no faster than fp32: tensor cores begin at {_dotted(FP16_TENSOR_CORES)}"
        )
    return None


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the names of the CPU's instruction sets (avx2, avx512_bf16, ...), as torch sees them.

    An older torch does not tell; then they are what the kernel lists in ``cpuinfo``, and empty
    where it lists none.
    """
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return frozenset()
    # "flags" on x86, "Features" on Arm; every core has a line of its own, and the same one.
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").split())


def _dotted(compute_capability: ComputeCapability) -> str:
    return ".".join(map(str, compute_capability))
