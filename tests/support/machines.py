"""Machines as ``perfkit.measure.machine`` would describe them, so that none has to be at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from perfkit.measure.machine import GpuFacts, HostFacts, Machine, Output, TorchFacts

H200 = GpuFacts("NVIDIA H200", 143_771.0, (9, 0))
T4 = GpuFacts("Tesla T4", 15_360.0, (7, 5))
P100 = GpuFacts("Tesla P100-PCIE-16GB", 16_384.0, (6, 0))

HOST = HostFacts(
    cpu="A CPU",
    cpu_flags=frozenset({"avx2"}),
    cores=8,
    host_cores=8,
    memory_mib=64 * 1024,
    peak_can_be_reset=True,
)
CUDA_TORCH = TorchFacts(
    version="2.15.0+cu132",
    cuda="13.2",
    gpus=(),
    cuda_problem="Found no NVIDIA driver on your system.",
    gloo=True,
    nccl="2.30.7",
    threads=4,
    profiler=True,
    cupti=False,
)
CPU_TORCH = replace(CUDA_TORCH, version="2.15.0+cpu", cuda=None, nccl=None)


def torch_with(*gpus: GpuFacts) -> TorchFacts:
    return replace(CUDA_TORCH, gpus=gpus, cuda_problem="", cupti=True)


def nvidia_smi(*gpus: GpuFacts) -> Output:
    return Output(True, "\n".join(f"{gpu.name}, 580.65.06" for gpu in gpus))


def machine(
    *,
    host: HostFacts = HOST,
    torch: TorchFacts = CUDA_TORCH,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    programs: Mapping[str, Output] | None = None,
) -> Machine:
    """Return a machine with these files, and programs that say this when asked for their version.

    A program lies in /bin. Without arguments: no GPU, no driver, no file, no program.
    """
    installed = {f"/bin/{name}": output for name, output in (programs or {}).items()}

    def output(command: Sequence[str]) -> Output:
        return installed[command[0]]

    def which(name: str) -> str | None:
        return f"/bin/{name}" if f"/bin/{name}" in installed else None

    return Machine(
        environ=environ or {},
        host=lambda: host,
        torch=lambda: torch,
        read=(files or {}).get,
        which=which,
        output=output,
    )
