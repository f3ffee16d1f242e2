"""The native libraries: where they are, whether they load, how they were built.

Imports no torch by itself: the operators on NumPy arrays need none.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from perfkit.core.errors import PerfkitError

CPU_LIBRARY = Path(__file__).with_name("libperfkit_cpu.so")
CUDA_LIBRARY = Path(__file__).with_name("libperfkit_cuda.so")
BUILD = "build them with: python setup.py build_ext --inplace"


@dataclass(frozen=True)
class BuildInfo:
    """How the native code was built, and what of it this machine uses."""

    commit: str | None
    """Commit of the checkout that was built; None outside a checkout."""
    torch: str
    """Version of the torch whose headers were used."""
    torch_abi: str
    """Oldest torch whose stable ABI the operators need."""
    compiler: str
    """The C++ compiler's name and version."""
    cuda_architectures: tuple[str, ...]
    """Code for ``sm_90`` and PTX of ``compute_90`` in the CUDA library; empty: there is none."""
    cuda_toolkit: str | None
    """Version of the toolkit that compiled them."""
    cuda_reason: str
    """Why that toolkit, or why there are no CUDA operators."""
    isa: str
    """Instruction set that the CPU operators use here."""
    isas: tuple[str, ...]
    """Those that PERFKIT_CPU_ISA may name here."""


def build_info() -> BuildInfo:
    """Return how the native code was built and which instruction set it uses.

    Raises PerfkitError where it is not built, or PERFKIT_CPU_ISA names nothing that is here.
    """
    native = module()
    facts = json.loads(native.build_facts())
    facts["cuda_architectures"] = tuple(facts["cuda_architectures"])
    return BuildInfo(**facts, isa=native.isa(), isas=tuple(native.available_isas()))


@cache
def module() -> ModuleType:
    """Return the module of facts and NumPy operators.

    Raises PerfkitError where it is not built, or PERFKIT_CPU_ISA names nothing that is here.
    """
    spec = find_spec("perfkit.ops._native")
    try:
        if spec is not None and spec.origin is not None:
            _check_whole(Path(spec.origin))
        native = import_module("perfkit.ops._native")
    except (ImportError, OSError) as error:
        missing = f"the native operators cannot be imported ({_one_line(error)})"
        raise PerfkitError(f"{missing}; {BUILD}") from error
    try:
        native.isa()
    except ValueError as error:
        asked, known = os.environ.get("PERFKIT_CPU_ISA", ""), ", ".join(native.available_isas())
        # A value that cannot be printed as it is would break the line, or the printing.
        asked = asked if asked.isprintable() else ascii(asked)
        unknown = f"PERFKIT_CPU_ISA={asked} is not available here"
        raise PerfkitError(f"{unknown}; this CPU and this build have {known}") from error
    return native


@cache
def load() -> str:
    """Fill ``torch.ops.perfkit``; return why CUDA tensors have no operators, empty where they have.

    Raises PerfkitError where there are none for the CPU either, or PERFKIT_CPU_ISA names nothing
    that is here.
    """
    import torch

    info = build_info()
    problem = _load(CPU_LIBRARY)
    if not problem and not hasattr(torch.ops.perfkit, "clahe_gamma_median"):
        problem = f"{CPU_LIBRARY.name} holds no native operators"
    if problem:
        raise PerfkitError(f"{problem}; {BUILD}")
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if info.cuda_toolkit is None:
        return f"perfkit was built without them ({info.cuda_reason})"
    if _major(info.cuda_toolkit) != _major(torch.version.cuda):
        built, needed = info.cuda_toolkit, torch.version.cuda
        return f"they were built for CUDA {built}, and torch is built for {needed}; {BUILD}"
    return _load(CUDA_LIBRARY)


def require_cuda() -> None:
    """Raise PerfkitError, naming the reason, where there are no operators for CUDA tensors."""
    reason = load()
    if reason:
        raise PerfkitError(f"there are no native operators for CUDA tensors: {reason}")


def _load(library: Path) -> str:
    import torch

    try:
        _check_whole(library)
        torch.ops.load_library(library)
    except OSError as error:
        return f"the native operators cannot be loaded ({_one_line(error)})"
    return ""


def _check_whole(library: Path) -> None:
    """Raise OSError for a file that is cut short: to load it would kill the process.

    An ELF file ends with its section headers; elf(5) says where their start, size and count are.
    """
    with library.open("rb") as file:
        header = file.read(64).ljust(64, b"\0")
    magic, start, size, count = struct.unpack("<4s36xQ10x2H2x", header)
    if magic != b"\x7fELF" or start + size * count > library.stat().st_size:
        raise OSError(f"{library.name} is damaged")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _major(version: str) -> str:
    return version.partition(".")[0]
