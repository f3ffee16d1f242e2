"""What perfkit can run on a machine, and why not the rest."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import nvtx
import torch

from perfkit.core.config import Precision, RunConfig, StrategyName
from perfkit.core.errors import PerfkitError
from perfkit.core.part import Part
from perfkit.core.version import __version__
from perfkit.measure.host_load import PRESSURE
from perfkit.measure.machine import (
    Machine,
    TorchFacts,
    cpu_quota,
    first_line,
    memory_limit_mib,
    nvidia_driver,
)
from perfkit.measure.memory import CLEAR_REFS
from perfkit.ops import native
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Layout
from perfkit.strategies.precision import BF16_FLAGS, ComputeCapability, expected_slower, why_not

MOST_TO_TRY = 8  # devices: every strategy that takes several takes some number up to this
MPI_KINDS = {"Open MPI": "Open MPI", "HYDRA": "MPICH", "Intel(R) MPI": "Intel MPI"}


class Capability(Part):
    """One thing that this machine can do, or cannot."""

    name: str
    """What it is, as a user would name it."""
    available: bool
    """Whether it can be used here."""
    detail: str = ""
    """What is here: version, size, number; empty where there is nothing to add."""
    reason: str = ""
    """Why it cannot be used, or not fully, and what to do; empty where nothing is missing."""


class Capabilities(Part):
    """What perfkit can run on one machine."""

    hostname: str
    """Name of the host."""
    versions: dict[str, str]
    """Of perfkit, torch and python."""
    host: list[Capability]
    """Cores, threads and memory that this process may use."""
    gpus: list[Capability]
    """CUDA, and every GPU that torch sees."""
    backends: list[Capability]
    """What joins ranks: gloo and nccl."""
    precisions: list[Capability]
    """Every --precision on every kind of device."""
    strategies: list[Capability]
    """Every --strategy, on real devices or on what stands in for them."""
    operators: list[Capability]
    """Native operators."""
    launchers: list[Capability]
    """What can start the ranks."""
    tracing: list[Capability]
    """What can be recorded beside time."""


def find_capabilities(machine: Machine) -> Capabilities:
    """Return all of it; a question that cannot be answered is told as a reason."""
    groups = {group: _answers(machine, probes) for group, probes in PROBES.items()}
    versions = {
        "perfkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return Capabilities(hostname=platform.node(), versions=versions, **groups)


def _answers(machine: Machine, probes: tuple[Probe, ...]) -> list[Capability]:
    found: list[Capability] = []
    for probe in probes:
        try:
            found.extend(probe(machine))
        except Exception as error:  # whatever is broken here is what the user wants to be told
            reason = f"could not be found out ({type(error).__name__}: {first_line(str(error))})"
            found.append(_no(probe.__name__.strip("_").replace("_", " "), reason))
    return found


def _yes(name: str, detail: str, reason: str = "") -> Capability:
    return Capability(name=name, available=True, detail=detail, reason=reason)


def _no(name: str, reason: str) -> Capability:
    return Capability(name=name, available=False, reason=reason)


def _cpu(machine: Machine) -> Iterator[Capability]:
    host = machine.host()
    yield _yes("CPU", host.cpu)
    if host.cores == host.host_cores:
        yield _yes("cores", f"{host.cores}, all of this host")
    else:
        yield _yes("cores", f"{host.cores} of the {host.host_cores} of this host (affinity)")
    quota = cpu_quota(machine.read)
    if quota is not None:
        short = f"keep ranks x --threads within {max(int(quota), 1)}, more would be throttled"
        yield _yes("CPU quota", f"{quota:g} cores", short if quota < host.cores else "")


def _threads(machine: Machine) -> Iterator[Capability]:
    cores, threads = machine.host().cores, machine.torch().threads
    variable = machine.environ.get("OMP_NUM_THREADS")
    told = "OMP_NUM_THREADS is not set" if variable is None else f"OMP_NUM_THREADS={variable}"
    yield _yes(
        "threads",
        f"{cores} shared among the ranks of this host, unless --threads says how many each has; "
        f"torch by itself takes {threads} ({told})",
    )


def _memory(machine: Machine) -> Iterator[Capability]:
    total = machine.host().memory_mib
    limit = memory_limit_mib(machine.read)
    if limit is None or limit >= total:
        yield _yes("memory", _gib(total))
    else:
        yield _yes("memory", f"{_gib(limit)} by control group, of {_gib(total)} of this host")


def _cuda(machine: Machine) -> Iterator[Capability]:
    facts, driver = machine.torch(), nvidia_driver(machine)
    if not facts.gpus:
        yield _no("CUDA", _why_no_gpu(machine))
        return
    version = driver.version or f"of unknown version ({driver.problem})"
    detail = f"driver {version}, torch built for CUDA {facts.cuda}"
    yield _yes("CUDA", detail, facts.cuda_problem)
    for index, gpu in enumerate(facts.gpus):
        capability = f"compute capability {_dotted(gpu.compute_capability)}"
        yield _yes(f"cuda:{index}", f"{gpu.name}, {_gib(gpu.memory_mib)}, {capability}")


def _why_no_gpu(machine: Machine) -> str:
    facts, driver = machine.torch(), nvidia_driver(machine)
    there = ", ".join(f"{count} x {name}" for name, count in Counter(driver.gpus).items())
    if facts.cuda is None:
        for_cpu = f"torch {facts.version} is built without CUDA"
        if driver.version is None:
            return f"{for_cpu}, and there is no NVIDIA driver ({driver.problem})"
        to_use = f" to use {there}" if there else ""
        return f"{for_cpu}; install a CUDA build{to_use}, see https://pytorch.org"
    if driver.version is None:
        return f"no NVIDIA driver ({driver.problem}); if there is a GPU, install its driver"
    visible = machine.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        hidden = there or "every GPU"
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides {hidden}; unset it, or set it to 0"
    said = facts.cuda_problem or "torch sees no GPU"
    return f"{said} (driver {driver.version}, torch built for CUDA {facts.cuda})"


def _gloo(machine: Machine) -> Iterator[Capability]:
    if machine.torch().gloo:
        yield _yes("gloo", "gradients between CPU ranks, small messages between all")
    else:
        yield _no("gloo", "this torch is built without it; only runs of one rank are possible")


def _nccl(machine: Machine) -> Iterator[Capability]:
    facts = machine.torch()
    if facts.nccl is None:
        yield _no("nccl", f"torch {facts.version} is built without it")
    elif not facts.gpus:
        yield _no("nccl", "needs GPUs, and there are none; ranks on the CPU use gloo")
    else:
        yield _yes("nccl", f"{facts.nccl}, gradients between GPUs")


def _precisions(machine: Machine) -> Iterator[Capability]:
    flags = machine.host().cpu_flags
    kinds = sorted({gpu.compute_capability for gpu in machine.torch().gpus})
    for kind in (*kinds, None):
        device = "cpu" if kind is None else "cuda"
        on = "CPU" if kind is None else f"GPU {_dotted(kind)}" if len(kinds) > 1 else "GPU"
        for precision in get_args(Precision):
            name = f"{precision} ({on})"
            refusal = why_not(precision, device, kind)
            if refusal is not None:
                yield _no(name, refusal)
                continue
            slower = expected_slower(precision, device, flags, kind) or ""
            yield _yes(name, "" if slower else _fast_by(precision, kind, flags), slower)


def _fast_by(precision: Precision, kind: ComputeCapability | None, flags: frozenset[str]) -> str:
    if precision == "fp32":
        return "full precision, the default"
    return "tensor cores" if kind is not None else ", ".join(sorted(BF16_FLAGS & flags))


def _strategies(machine: Machine) -> Iterator[Capability]:
    facts = machine.torch()
    here = len(facts.gpus)
    for name in STRATEGIES:
        layouts = [layout for n in range(2, MOST_TO_TRY + 1) if (layout := _layout(name, n))]
        least = layouts[0] if layouts else Layout(ranks=1)
        on_gpus = [n for n in range(least.devices, here + 1) if _layout(name, n)]
        missing = _missing_backend(facts, least, on_gpu=bool(on_gpus))
        if missing:
            yield _no(name, f"ranks need {missing}, which this torch is built without")
        elif on_gpus:
            count = on_gpus[-1]
            yield _yes(name, "on 1 GPU" if count == 1 else f"on up to {count} GPUs")
        elif least.devices == 1:
            yield _yes(name, "on the CPU")
        else:
            reason = f"real devices: {least.devices} GPUs needed, {here or 'none'} here"
            yield _yes(name, f"--gpus {least.devices}: {_stand_in_words(least)}", reason)


def _layout(name: StrategyName, gpus: int) -> Layout | None:
    try:
        return STRATEGIES[name].layout(RunConfig(strategy=name, gpus=gpus))
    except PerfkitError:
        return None


def _missing_backend(facts: TorchFacts, layout: Layout, *, on_gpu: bool) -> str:
    if layout.ranks == 1:
        return ""
    if not facts.gloo:
        return "gloo"
    return "nccl" if on_gpu and facts.nccl is None else ""


def _stand_in_words(layout: Layout) -> str:
    ranks, devices = f"{layout.ranks} gloo ranks", f"{layout.devices_per_rank} stand-in devices"
    if layout.devices_per_rank == 1:
        return f"{ranks} on the CPU"
    return f"{devices} on the CPU" if layout.ranks == 1 else f"{ranks} of {devices} on the CPU"


def _operators(machine: Machine) -> Iterator[Capability]:
    try:
        info, why_no_cuda = native.build_info(), native.load()
    except PerfkitError as error:
        yield _no("CPU operators", str(error))
        yield _no("CUDA operators", "needs the CPU operators")
        return
    isas = ", ".join(reversed(info.isas))
    at = f", commit {info.commit[:12]}" if info.commit else ""
    made = f"for torch {info.torch_abi} and newer, built with {info.torch}, {info.compiler}{at}"
    chosen = f"{info.isa} in use, of {isas} (choose with PERFKIT_CPU_ISA)"
    yield _yes("CPU operators", f"{chosen}; {made}")
    if why_no_cuda:
        yield _no("CUDA operators", why_no_cuda)
    else:
        detail = f"{', '.join(info.cuda_architectures)}; {info.cuda_reason}"
        yield _yes("CUDA operators", detail, "" if machine.torch().gpus else "there is no GPU here")


def _torchrun(machine: Machine) -> Iterator[Capability]:
    yield _yes("perfkit", "starts the ranks of one machine by itself (--gpus)")
    version, path = f"torch {machine.torch().version}", machine.which("torchrun")
    if path is not None:
        yield _yes("torchrun", f"{version}, {path}")
    else:
        yield _yes("torchrun", version, "not on PATH (python -m torch.distributed.run is the same)")


def _mpirun(machine: Machine) -> Iterator[Capability]:
    install = "install openmpi-bin or mpich, or load a cluster's module"
    yield _program(machine, "mpirun", install, kinds=MPI_KINDS)


def _srun(machine: Machine) -> Iterator[Capability]:
    yield _program(machine, "srun", "it is part of SLURM, on the nodes of a cluster")


def _profiler(machine: Machine) -> Iterator[Capability]:
    facts = machine.torch()
    if not facts.profiler:
        yield _no("profiler", "this torch is built without Kineto; use --trace-steps 0")
        return
    yield _yes("profiler", "torch.profiler: operators and ranges on the CPU")
    if facts.cupti:
        yield _yes("CUPTI", "GPU kernels in the same trace")
    elif facts.gpus:
        yield _no("CUPTI", "this torch is built without it: traces will hold no GPU kernels")
    else:
        yield _no("CUPTI", "records GPU kernels, and there is no GPU")


def _nsight(machine: Machine) -> Iterator[Capability]:
    if nvtx.enabled():
        yield _yes("NVTX", "ranges in the domain perfkit, for nsys and ncu")
    else:
        yield _no("NVTX", "NVTX_DISABLE is set; unset it for ranges in nsys and ncu")
    for name, product in (("nsys", "Systems"), ("ncu", "Compute")):
        page = f"https://developer.nvidia.com/nsight-{product.lower()}"
        yield _program(machine, name, f"install NVIDIA Nsight {product} ({page})")


def _peak_memory(machine: Machine) -> Iterator[Capability]:
    if machine.host().peak_can_be_reset:
        yield _yes("peak memory", f"of the CPU, for each timed block ({CLEAR_REFS})")
    else:
        yield _no("peak memory", f"of the CPU is not told: {CLEAR_REFS} cannot be written")


def _pressure(machine: Machine) -> Iterator[Capability]:
    if machine.read(str(PRESSURE)) is not None:
        yield _yes("CPU pressure", f"how long tasks waited for a core ({PRESSURE})")
    else:
        yield _no("CPU pressure", f"this kernel does not tell it ({PRESSURE} cannot be read)")


def _program(
    machine: Machine, name: str, install: str, kinds: Mapping[str, str] | None = None
) -> Capability:
    """Return whether a program answers; with ``kinds``, its output must hold the mark of one."""
    path = machine.which(name)
    if path is None:
        return _no(name, f"not on PATH; {install}")
    ended, text = machine.output([path, "--version"])
    if not ended:
        return _no(name, f"{path} does not work: {first_line(text)}")
    version = re.search(r"\d+(\.\d+)+", text)
    words = [version[0] if version else "unknown version"]
    if kinds is not None:
        kind = next((kind for mark, kind in kinds.items() if mark in text), None)
        if kind is None:
            return _no(name, f"{path} is not {', '.join(kinds.values())}; {install}")
        words.insert(0, kind)
    return _yes(name, f"{' '.join(words)}, {path}")


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def _dotted(compute_capability: ComputeCapability) -> str:
    return ".".join(map(str, compute_capability))


Probe = Callable[[Machine], Iterator[Capability]]
# Each by itself: where one cannot be answered, the others still are.
PROBES: dict[str, tuple[Probe, ...]] = {
    "host": (_cpu, _threads, _memory),
    "gpus": (_cuda,),
    "backends": (_gloo, _nccl),
    "precisions": (_precisions,),
    "strategies": (_strategies,),
    "operators": (_operators,),
    "launchers": (_torchrun, _mpirun, _srun),
    "tracing": (_profiler, _nsight, _peak_memory, _pressure),
}
