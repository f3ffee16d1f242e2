"""The CUDA kernels of the operators, built as plain C++ and run on the CPU.

``cuda_emulation/`` stands in for CUDA; what it models is said there.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.array_utils import byte_bounds

EMULATION = Path(__file__).with_name("cuda_emulation")
CSRC = Path(__file__).parents[2] / "csrc"
RACE = 66  # exit code of ThreadSanitizer where it has something to report
_ELEMENTS = {"uint8": 0, "float32": 1, "float16": 2, "uint16": 3}  # bfloat16 by its bits
_FLAGS = ("-std=c++20", "-O1", "-g", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread")
_BARRIERS = ("__syncthreads()", "__cluster_barrier_wait()")


@dataclass(frozen=True)
class Case:
    """One call. ``images`` and ``out`` are [N, H, W, C], of any strides.

    ``out`` is uint8, or the dtype of ``values`` [C, 256], and is overwritten.
    """

    images: np.ndarray
    out: np.ndarray
    table: np.ndarray
    clip_limit: float = 2.0
    tile_grid: tuple[int, int] = (8, 8)
    values: np.ndarray | None = None


def build(
    folder: Path, *flags: str, csrc: Path = CSRC, operator: str = "clahe_gamma_median"
) -> Path:
    """Compile an operator's kernels and what runs them into ``folder``; return the program."""
    include = (f"-I{EMULATION}", f"-I{csrc}")
    program, fibres = folder / f"run_{operator}", folder / "fibres.o"
    # The fibres are never under a sanitizer: fibres.cpp says why.
    commands = (
        (*_FLAGS, *include, "-c", EMULATION / "fibres.cpp", "-o", fibres),
        (*_FLAGS, *include, *flags, program.with_suffix(".cpp").name, fibres, "-o", program),
    )
    for command in commands:
        subprocess.run((compiler(), *command), cwd=EMULATION, check=True)
    return program


def compiler() -> str:
    """Return the C++ compiler."""
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    assert found is not None, "no C++ compiler: the CUDA kernels cannot be run on the CPU"
    return found


def run(
    program: Path, folder: Path, cases: Sequence[Case], removed_barrier: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the cases, which overwrites their ``out``; return how the program ended.

    Args:
        program: what ``build`` made.
        folder: for the files that go between.
        cases: in this order.
        removed_barrier: file and line of a barrier that is passed over.
    """
    done, results = execute(program, folder, b"".join(map(_written, cases)), removed_barrier)
    for case in cases:
        first, past = byte_bounds(case.out)
        if len(results) < past - first:
            break
        ctypes.memmove(first, bytes(results[: past - first]), past - first)
        results = results[past - first :]
    return done


def execute(
    program: Path, folder: Path, cases: bytes, removed_barrier: tuple[str, ...]
) -> tuple[subprocess.CompletedProcess[str], memoryview]:
    """Run a program on written cases; return how it ended and what it wrote."""
    into, out_of = folder / "cases", folder / "results"
    into.write_bytes(cases)
    out_of.write_bytes(b"")
    done = subprocess.run(
        (program, into, out_of, *removed_barrier), capture_output=True, text=True, check=False
    )
    return done, memoryview(out_of.read_bytes())


def barriers(operator: str = "clahe_gamma_median") -> list[tuple[str, str]]:
    """Return file and line of the kernels' barriers."""
    return [
        (path.name, str(number))
        for path in sorted((CSRC / operator).glob("cuda*"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(barrier in line for barrier in _BARRIERS)
    ]


def _written(case: Case) -> bytes:
    numbers = (
        *case.images.shape,
        *case.tile_grid,
        _ELEMENTS[str(case.out.dtype)],
        0 if case.values is None else case.values.nbytes,
    )
    first, past = byte_bounds(case.images)
    return b"".join(
        (
            struct.pack("<8qd", *numbers, case.clip_limit),
            _strided(case.images),
            _strided(case.out),
            ctypes.string_at(first, past - first),
            case.table.tobytes(),
            b"" if case.values is None else case.values.tobytes(),
        )
    )


def _strided(array: np.ndarray) -> bytes:
    """Return the fields of ``Strided`` in run_clahe_gamma_median.cpp."""
    first, past = byte_bounds(array)
    begin = array.__array_interface__["data"][0]
    strides = (stride // array.itemsize for stride in array.strides)
    return struct.pack("<7q", *strides, begin - first, past - first, first % 16)
