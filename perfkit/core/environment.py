"""The part of a Record that says on what machine it was made, and how that was set up."""

from __future__ import annotations

from perfkit.core.part import Amount, Part, PositiveCount


class Gpu(Part):
    """One GPU as its driver describes it."""

    name: str
    """Model, as in NVIDIA H200."""
    memory_mib: Amount
    """Memory in all, not what was free."""
    compute_capability: str
    """CUDA compute capability, as in 9.0."""


class Environment(Part):
    """Where the run happened, as rank 0 saw it."""

    hostname: str
    """Name of the host of rank 0."""
    hardware: str
    """CPU model, core count and GPU names in one line: equal exactly on equal hardware."""
    cpu: str
    """CPU model as the host names it."""
    cores: PositiveCount
    """Cores that this process may use (its affinity), not those of the host."""
    memory_mib: Amount
    """Main memory of the host."""
    gpus: list[Gpu]
    """GPUs that this process may use; empty on a CPU."""
    versions: dict[str, str]
    """Of python, perfkit, torch, torchvision, numpy, pillow, cuda, cudnn, nccl, where present."""
    variables: dict[str, str]
    """Environment variables that change speed (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES, ...)."""
    launcher: str
    """What started the ranks: perfkit, torchrun, openmpi, mpich or slurm."""
    git_commit: str | None
    """Commit checked out in the folder the run was started in; None outside a repository."""
    git_dirty: bool | None
    """Whether tracked files differed from that commit."""
    deterministic: bool
    """torch.use_deterministic_algorithms was on."""
    cudnn_benchmark: bool
    """cuDNN chose its algorithms by trying them."""
    tf32_matmul: bool
    """float32 matrix products may run in TF32 on a GPU."""
    tf32_convolution: bool
    """float32 convolutions may run in TF32 on a GPU."""
