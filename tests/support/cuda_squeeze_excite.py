"""Squeeze-and-Excitation's CUDA kernels, built as plain C++ and run on the CPU: cases and results.

The plan of the host is built by itself, and called in this process.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from cuda_kernels import CSRC, EMULATION, compiler, execute
from torch import Tensor

from perfkit.ops.reference.squeeze_excite import squeeze_excite

_ELEMENTS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}


@dataclass(frozen=True)
class Device:
    """What the kernels are told of the device."""

    shared_bytes: int = 40 << 10  # of a block; a multiprocessor has twice as much
    processors: int = 2
    threads: int = 64
    has_clusters: bool = True


@dataclass(frozen=True)
class Case:
    """A forward and a backward pass, over drawn numbers."""

    count: int
    channels: int
    pixels: int
    hidden: int
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    relu: bool = False
    residual: bool = False
    biases: bool = True
    gradients: bool = True  # whether anybody wants them
    planted: float | None = None  # an element of the second sample
    shift: int = 0  # of x from an address that is a multiple of 16, in bytes
    device: Device = Device()

    def inputs(self) -> dict[str, Tensor]:
        """Return x, residual, grad [N, S, C] or [N, C, S], w1 [R, C], b1, w2 [C, R], b2."""
        generator = torch.Generator().manual_seed(self.channels * self.pixels)

        def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        size = (self.count, self.channels, self.pixels)
        if self.channels_last:
            size = (self.count, self.pixels, self.channels)
        scale = self.channels**-0.5
        x = drawn(self.dtype, *size) + 0.5
        if self.planted is not None:
            x[1, 1, 0] = self.planted
        return {
            "x": x,
            "residual": drawn(self.dtype, *size) if self.residual else torch.empty(0),
            "grad": drawn(self.dtype, *size),
            "w1": drawn(self.weight_dtype, self.hidden, self.channels) * scale,
            "b1": drawn(self.weight_dtype, self.hidden if self.biases else 0),
            "w2": drawn(self.weight_dtype, self.channels, self.hidden),
            "b2": drawn(self.weight_dtype, self.channels if self.biases else 0),
        }

    def written(self) -> bytes:
        """Return the case as run_squeeze_excite.cpp reads it."""
        numbers = (
            *(self.count, self.channels, self.pixels, self.hidden, self.channels_last),
            *(_ELEMENTS[self.dtype], _ELEMENTS[self.weight_dtype]),
            *(self.relu, self.residual, self.biases, self.gradients, self.shift),
            *(self.device.shared_bytes, self.device.processors, self.device.threads),
            self.device.has_clusters,
        )
        arrays = (one.view(torch.uint8).numpy().tobytes() for one in self.inputs().values())
        return struct.pack("<16q", *numbers) + b"".join(arrays)

    def outputs(self) -> dict[str, Tensor]:
        """Return all that the program writes, in its order, and nothing in it yet."""
        inputs = self.inputs()
        state = torch.empty(self.count, 2 * self.channels + self.hidden)
        outputs = {"y": inputs["x"], "state": state}
        if self.gradients:
            names = ("x", "residual", "w1", "b1", "w2", "b2")
            outputs |= {f"grad {name}": inputs[name] for name in names}
        return {name: torch.empty_like(one) for name, one in outputs.items() if one.numel()}

    def expected(self, y: Tensor) -> dict[str, Tensor]:
        """Return the float64 results of plain torch; ``y`` says where the ReLU was open."""
        inputs = {name: one.double() for name, one in self.inputs().items() if one.numel()}
        grad = inputs.pop("grad")
        for one in inputs.values():
            one.requires_grad_()
        x, residual = inputs["x"], inputs.get("residual")
        if not self.channels_last:
            x = x[..., None]
            residual = None if residual is None else residual[..., None]
        layers = (inputs["w1"], inputs.get("b1"), inputs["w2"], inputs.get("b2"))
        before = squeeze_excite(x, *layers, residual=residual).reshape(y.shape)
        outputs = {"y": before.relu() if self.relu else before}
        if self.gradients:
            before.backward(grad * ~(y <= 0) if self.relu else grad)
            outputs |= {f"grad {name}": one.grad for name, one in inputs.items()}
        return {name: one.detach() for name, one in outputs.items() if one is not None}


def run(
    program: Path, folder: Path, cases: Sequence[Case], removed_barrier: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Tensor]]]:
    """Run the cases; return how the program ended, and the results of those that it came to."""
    written = b"".join(case.written() for case in cases)
    done, memory = execute(program, folder, written, removed_barrier)
    results = []
    for case in cases:
        outputs = case.outputs()
        if len(memory) < sum(one.nbytes for one in outputs.values()):
            break
        for one in outputs.values():
            one.view(torch.uint8).flatten().copy_(
                torch.frombuffer(bytearray(memory[: one.nbytes]), dtype=torch.uint8)
            )
            memory = memory[one.nbytes :]
        results.append(outputs)
    return done, results


@dataclass(frozen=True)
class Plan:
    """The fields of Plan in csrc/squeeze_excite/cuda_plan.h, but for the shape's."""

    channels_last: int
    vector: int
    threads: int
    blocks: int
    samples: int
    channels: int
    lanes: int
    pieces: int
    parts: int
    folded: int
    held: int
    held_at: int
    shared_bytes: int


class Planner:
    """The host's planning, compiled by itself."""

    def __init__(self, folder: Path) -> None:
        """Compile it into ``folder``."""
        library = folder / "plan_squeeze_excite.so"
        flags = ("-std=c++20", "-O1", "-shared", "-fPIC", f"-I{CSRC}")
        source = EMULATION / "plan_squeeze_excite.cpp"
        subprocess.run((compiler(), *flags, source, "-o", library), check=True)
        self._plan = ctypes.CDLL(str(library)).plan

    def plan(
        self,
        shape: tuple[int, int, int, int],
        *,
        channels_last: bool = False,
        element_bytes: int = 4,
        weight_bytes: int = 4,
        aligned: bool = True,
        device: tuple[int, int, int, int, int],
    ) -> Plan:
        """Return the plan for a shape (N, C, S, R) on a device, whose fields are in order."""
        given = (*shape, channels_last, element_bytes, weight_bytes, aligned, *device)
        into = (ctypes.c_int64 * len(given))(*given)
        out_of = (ctypes.c_int64 * len(fields(Plan)))()
        self._plan(into, out_of)
        return Plan(*out_of)
