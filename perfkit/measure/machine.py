"""What a machine has, found by looking: its host, torch, files and programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, kineto_available, supported_activities

from perfkit.core.host import available_cores
from perfkit.measure.environment import cpu_model
from perfkit.measure.memory import CLEAR_REFS, MIB
from perfkit.strategies.precision import ComputeCapability, cpu_flags

PROGRAM_TIMEOUT_S = 5.0
CGROUPS = PurePosixPath("/sys/fs/cgroup")
DRIVER_VERSION = "/proc/driver/nvidia/version"

Read = Callable[[str], str | None]


class Output(NamedTuple):
    """What a program printed, and whether it ended well."""

    ok: bool
    text: str


class GpuFacts(NamedTuple):
    """One GPU as torch sees it."""

    name: str
    memory_mib: float
    compute_capability: ComputeCapability


class Driver(NamedTuple):
    """The NVIDIA driver, and the GPUs it has, hidden from torch or not."""

    version: str | None
    gpus: tuple[str, ...]
    problem: str  # why nvidia-smi does not tell; empty where it does


@dataclass(frozen=True)
class HostFacts:
    """The CPU and the memory."""

    cpu: str
    cpu_flags: frozenset[str]
    cores: int  # that this process may use
    host_cores: int
    memory_mib: float
    peak_can_be_reset: bool  # the kernel's high-water mark of this process


@dataclass(frozen=True)
class TorchFacts:
    """What torch was built with, and the GPUs it sees."""

    version: str
    cuda: str | None  # version it was built for
    gpus: tuple[GpuFacts, ...]
    cuda_problem: str  # what torch said against CUDA; empty where it said nothing
    gloo: bool
    nccl: str | None  # its version
    threads: int  # of one operator, unless told otherwise
    profiler: bool
    cupti: bool


@dataclass(frozen=True)
class Machine:
    """The questions that can be asked of a machine; tests answer them for machines they lack."""

    environ: Mapping[str, str]
    host: Callable[[], HostFacts]
    torch: Callable[[], TorchFacts]
    read: Read  # the text of a file, None where it cannot be read
    which: Callable[[str], str | None]  # the path of a program
    output: Callable[[Sequence[str]], Output]


def this_machine() -> Machine:
    """Return the machine this process runs on; nothing is looked at before it is asked for."""
    return Machine(
        environ=os.environ,
        host=cache(look_at_host),
        torch=cache(look_at_torch),
        read=read_text,
        which=shutil.which,
        output=output_of,
    )


def look_at_host() -> HostFacts:
    """Return the facts about the CPU and the memory."""
    return HostFacts(
        cpu=cpu_model(),
        cpu_flags=cpu_flags(),
        cores=available_cores(),
        host_cores=os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total / MIB,
        peak_can_be_reset=os.access(CLEAR_REFS, os.W_OK),
    )


def look_at_torch() -> TorchFacts:
    """Return the facts about torch.

    Where a GPU fails, it and those after it are left out, and what torch said is kept.
    """
    gpus: list[GpuFacts] = []
    failures: list[Exception] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.cuda.init()
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                capability = properties.major, properties.minor
                gpus.append(GpuFacts(properties.name, properties.total_memory / MIB, capability))
        except (RuntimeError, AssertionError) as error:  # the second: built without CUDA
            failures.append(error)
    said = [*(warning.message for warning in caught), *failures]
    distributed = dist.is_available()
    return TorchFacts(
        version=torch.__version__,
        cuda=torch.version.cuda,
        gpus=tuple(gpus),
        cuda_problem="; ".join(first_line(str(problem)) for problem in said),
        gloo=distributed and dist.is_gloo_available(),
        nccl=_nccl_version() if distributed and dist.is_nccl_available() else None,
        threads=torch.get_num_threads(),
        profiler=kineto_available(),
        cupti=ProfilerActivity.CUDA in supported_activities(),
    )


def nvidia_driver(machine: Machine) -> Driver:
    """Return the driver as nvidia-smi tells it, else as the kernel does."""
    program = machine.which("nvidia-smi")
    problem = "nvidia-smi is not on PATH"
    if program is not None:
        query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        ended, text = machine.output(query)
        rows = [line.rpartition(", ") for line in text.splitlines() if ", " in line]
        if ended and rows:
            return Driver(rows[0][2], tuple(name for name, _, _ in rows), "")
        problem = f"nvidia-smi: {first_line(text)}"
    found = re.search(r"Kernel Module.*?(\d+\.\d[\d.]*)", machine.read(DRIVER_VERSION) or "")
    return Driver(found[1] if found else None, (), problem)


def cpu_quota(read: Read) -> float | None:
    """Return how many cores' worth of CPU time control groups allow this process; None if no limit.

    The tightest of its group and of those around it counts (kernel documentation, cgroup-v2:
    cpu.max; before that cpu.cfs_quota_us).
    """
    quotas = []
    for folder in _cgroup_folders(read, "cpu"):
        limit = read(f"{folder}/cpu.max")
        if limit is None:
            limit = f"{read(f'{folder}/cpu.cfs_quota_us')} {read(f'{folder}/cpu.cfs_period_us')}"
        found = re.fullmatch(r"(\d+) (\d+)", limit)  # not "max 100000", not "-1 100000"
        if found is not None:
            quotas.append(int(found[1]) / int(found[2]))
    return min(quotas, default=None)


def memory_limit_mib(read: Read) -> float | None:
    """Return how much memory control groups allow this process; None if they set no limit."""
    limits = []
    for folder in _cgroup_folders(read, "memory"):
        limit = read(f"{folder}/memory.max") or read(f"{folder}/memory.limit_in_bytes") or ""
        if re.fullmatch(r"\d+", limit):
            limits.append(int(limit) / MIB)
    return min(limits, default=None)


def read_text(path: str) -> str | None:
    """Return the text of a file without blanks around it; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def output_of(command: Sequence[str]) -> Output:
    """Run a program for a few seconds at most and return what it printed, or what went wrong."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_TIMEOUT_S,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Output(False, f"did not answer within {PROGRAM_TIMEOUT_S:g} s")
    except OSError as error:
        return Output(False, error.strerror or str(error))
    text = done.stdout.strip()
    return Output(done.returncode == 0, text or f"ended with code {done.returncode}")


def first_line(text: str) -> str:
    """Return the first line of a message: the others rarely say what is wrong."""
    return next(iter(text.strip().splitlines()), "").strip()


def _nccl_version() -> str:
    import torch.cuda.nccl

    return ".".join(map(str, torch.cuda.nccl.version()))


def _cgroup_folders(read: Read, controller: str) -> Iterator[PurePosixPath]:
    """Yield the folders that may limit this process, its own first (cgroups(7), version 1 and 2).

    In a container the path may be one of the host's, which is not there: only its root is.
    """
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        yield own
        yield from own.parents[: len(own.parts) - len(root.parts)]
