"""Where a run happens: hardware, versions, settings that change speed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from perfkit.core.environment import Environment, Gpu
from perfkit.core.host import available_cores
from perfkit.core.version import __version__
from perfkit.measure.memory import MIB

PREFIXES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "CUBLAS_", "CUDA_"),
    *("LD_PRELOAD", "MALLOC_", "THP_"),  # another allocator, or other settings of this one
)


def describe_environment(launcher: str) -> Environment:
    """Return the facts about this host and process that a number depends on."""
    cores = available_cores()
    gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
    cpu = cpu_model()
    commit, dirty = git_state(Path.cwd())
    return Environment(
        hostname=platform.node(),
        hardware=" + ".join([f"{cpu}, {cores} cores", *(gpu.name for gpu in gpus)]),
        cpu=cpu,
        cores=cores,
        memory_mib=psutil.virtual_memory().total / MIB,
        gpus=gpus,
        versions=_versions(),
        variables={k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES)},
        launcher=launcher,
        git_commit=commit,
        git_dirty=dirty,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        # Not allow_tf32, which raises once anything has set the newer fp32_precision.
        tf32_matmul=torch.backends.cuda.matmul.fp32_precision == "tf32",
        tf32_convolution=torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
    )


def cpu_model() -> str:
    """Return the CPU's marketing name where the host tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit checked out in ``folder`` and whether its tracked files differ from it.

    Both are None outside a repository, and without git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None, None
    return commit.strip(), bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    return Gpu(
        name=properties.name,
        memory_mib=properties.total_memory / MIB,
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "perfkit": __version__}
    for package in ("torch", "torchvision", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found
