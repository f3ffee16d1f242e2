"""Time Squeeze-and-Excitation on a CUDA device beside eager torch and torch.compile.

    python scripts/gpu_bench_squeeze_excite.py [FOLDER] [--dtype ...] [--form ...] [--launches N]

Batch 256, forward alone and forward + backward, from CUDA graphs whose inputs take turns so that
the second level cache holds none of them; the three in turn, after their values have been compared
with float64. A line for each case with its share of measured copy bandwidth, counted in the fewest
bytes; FOLDER/gpu_bench_squeeze_excite.md and .json. --launches times nothing: for ncu.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median

import torch
from torch import Tensor

from perfkit.core import cli
from perfkit.core.errors import PerfkitError
from perfkit.core.files import replacing
from perfkit.ops import build_info
from perfkit.ops.native import require_cuda
from perfkit.ops.reference.squeeze_excite import squeeze_excite as reference
from perfkit.ops.squeeze_excite_torch import squeeze_excite

BATCH, WARMUP, ROUNDS = 256, 3, 20
SHAPES = {  # of a sample
    "64x56x56": (64, 56, 56),
    "128x28x28": (128, 28, 28),
    "256x14x14": (256, 14, 14),
    "512x7x7": (512, 7, 7),
    "256x28x28": (256, 28, 28),
    "96x112x112": (96, 112, 112),
    "197x768 tokens": (197, 768),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Of x, that one pass reads and writes: forward, forward + backward.
FEWEST = {"plain": (2, 5), "residual+relu": (3, 8)}
TURNS_BYTES, MOST_TURNS = 256 << 20, 16
# How much further from float64 than eager a result may be, and what it may be off in any case.
MARGIN, LEAST_ERROR = 1.5, 1e-6

Inputs = dict[str, Tensor | None]


@dataclass(frozen=True)
class Case:
    """One shape in one layout, dtype and form."""

    shape: str
    layout: str
    dtype: str
    form: str

    def inputs(self, seed: int) -> Inputs:
        """Return x, the layers, a residual or None, and the gradient of the result."""
        generator = torch.Generator(device="cuda").manual_seed(seed)
        size = SHAPES[self.shape]
        channels = size[-1] if len(size) == 2 else size[0]
        hidden, dtype = channels // 16, DTYPES[self.dtype]

        def drawn(*shape: int, scale: float = 1.0) -> Tensor:
            one = torch.randn(shape, generator=generator, device="cuda") * scale
            return one.to(dtype)

        def pixels() -> Tensor:
            one = drawn(BATCH, *size)
            last = self.layout == "channels_last"
            return one.contiguous(memory_format=torch.channels_last) if last else one

        residual = pixels() if self.form != "plain" else None
        inputs: Inputs = {
            "x": pixels(),
            "w1": drawn(hidden, channels, scale=channels**-0.5),
            "w2": drawn(channels, hidden, scale=hidden**-0.5),
            "residual": residual,
        }
        for one in inputs.values():
            if one is not None:
                one.requires_grad_()
        return inputs | {"grad": pixels()}


def call(operator: Callable[..., Tensor], inputs: Inputs) -> Tensor:
    """Return the operator's result."""
    residual = inputs["residual"]
    activation = None if residual is None else "relu"
    layers = (inputs["w1"], None, inputs["w2"], None)
    return operator(inputs["x"], *layers, residual=residual, activation=activation)


def train(operator: Callable[..., Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the result and the gradients of everything that has one."""
    y = call(operator, inputs)
    wanted = [one for one in inputs.values() if one is not None and one.requires_grad]
    return y, *torch.autograd.grad(y, wanted, inputs["grad"])


def infer(operator: Callable[..., Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the result alone."""
    with torch.no_grad():
        return (call(operator, inputs),)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/gpu_check"))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--form", nargs="+", choices=FEWEST, default=list(FEWEST))
    parser.add_argument("--launches", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise PerfkitError("torch sees no CUDA device, and this is measured on one")
    require_cuda()
    if arguments.launches:
        for case in cases(arguments.dtype, arguments.form):
            inputs = case.inputs(0)
            for _ in range(arguments.launches):
                train(squeeze_excite, inputs)
        torch.cuda.synchronize()
        return 0

    copy_bytes_per_s = measure_copy()
    gpu = torch.cuda.get_device_properties()
    lines = [
        f"{gpu.name}, torch {torch.__version__}; a copy moves {copy_bytes_per_s / 1e9:.0f} GB/s; "
        f"batch {BATCH}, CUDA graphs, medians of {ROUNDS}",
        "",
        "| shape | layout | dtype | form | pass | perfkit us | of copy | eager | compile |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    rows = []
    for case in cases(arguments.dtype, arguments.form):
        torch.compiler.reset()
        operators = {
            "perfkit": squeeze_excite,
            "eager": reference,
            "compile": torch.compile(reference, fullgraph=True, dynamic=False),
        }
        errors = compare(case, operators)
        for index, (name, run) in enumerate((("forward", infer), ("training", train))):
            call_s = interleaved(case, operators, run)
            us = {of: median(times) * 1e6 for of, times in call_s.items()}
            fewest_bytes = FEWEST[case.form][index] * x_bytes(case)
            share = fewest_bytes / copy_bytes_per_s * 1e6 / us["perfkit"]
            ratios = [us[other] / us["perfkit"] for other in ("eager", "compile")]
            rows.append(asdict(case) | {"pass": name, "call_s": call_s, "errors": errors})
            rows[-1] |= {"of_copy": share, "times_eager": ratios[0], "times_compile": ratios[1]}
            lines.append(
                f"| {case.shape} | {case.layout} | {case.dtype} | {case.form} | {name} "
                f"| {us['perfkit']:.1f} | {share:.0%} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |"
            )
            print(lines[-1], flush=True)
    lines += ["", *summary(rows), *launch_cost()]
    print("\n".join(lines[-5:]))
    with replacing(arguments.folder / "gpu_bench_squeeze_excite.md") as file:
        file.write_text("\n".join(lines) + "\n")
    facts = {"device": gpu.name, "torch": torch.__version__, "build": asdict(build_info())}
    facts |= {"copy_bytes_per_s": copy_bytes_per_s, "rows": rows}
    with replacing(arguments.folder / "gpu_bench_squeeze_excite.json") as file:
        file.write_text(json.dumps(facts) + "\n")
    return 0


def cases(dtypes: Sequence[str], forms: Sequence[str]) -> Iterator[Case]:
    """Yield every case of the dtypes and forms."""
    for shape, dtype, form in product(SHAPES, dtypes, forms):
        layouts = ("contiguous", "channels_last") if len(SHAPES[shape]) == 3 else ("contiguous",)
        for layout in layouts:
            yield Case(shape, layout, dtype, form)


def x_bytes(case: Case) -> int:
    """Return the bytes of x."""
    elements = torch.Size((BATCH, *SHAPES[case.shape])).numel()
    return elements * DTYPES[case.dtype].itemsize


def compare(case: Case, operators: dict[str, Callable[..., Tensor]]) -> dict[str, float]:
    """Return each operator's error against float64; refuse one that is no equal of eager."""
    inputs = case.inputs(1)
    exact: Inputs = {
        name: None if one is None else one.detach().double().requires_grad_(name != "grad")
        for name, one in inputs.items()
    }
    want = train(reference, exact)
    errors = {}
    for name, operator in operators.items():
        found = train(operator, inputs)
        errors[name] = max(
            float((one - right).norm() / right.norm())
            for one, right in zip(found, want, strict=True)
        )
    for name, error in errors.items():
        if not error <= MARGIN * errors["eager"] + LEAST_ERROR:
            raise PerfkitError(f"{case}: {name} is wrong, and is not timed: {errors}")
    return errors


def interleaved(
    case: Case,
    operators: dict[str, Callable[..., Tensor]],
    run: Callable[[Callable[..., Tensor], Inputs], tuple[Tensor, ...]],
) -> dict[str, list[float]]:
    """Return seconds of each call from CUDA graphs, one operator after the other in each round."""
    turns = min(max(TURNS_BYTES // x_bytes(case), 1), MOST_TURNS)
    inputs = [case.inputs(turn) for turn in range(turns)]
    graphs = {}
    for name, operator in operators.items():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                run(operator, inputs[0])
        torch.cuda.current_stream().wait_stream(stream)
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            for one in inputs:
                run(operator, one)
    events: dict[str, list[list[torch.cuda.Event]]] = {name: [] for name in graphs}
    for _ in range(WARMUP + ROUNDS):
        for name, graph in graphs.items():
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            pair[0].record()
            graph.replay()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {
        name: [first.elapsed_time(last) / 1e3 / turns for first, last in pairs[WARMUP:]]
        for name, pairs in events.items()
    }


def measure_copy() -> float:
    """Return bytes read and written a second by a copy in device memory."""
    both = torch.ones(2, 1 << 30, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(WARMUP + ROUNDS):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        both[1].copy_(both[0])
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return both.numel() / median(times[WARMUP:])


def summary(rows: list[dict[str, object]]) -> Iterator[str]:
    """Yield the geometric means and the least of the ratios."""
    for name, other in product(("forward", "training"), ("eager", "compile")):
        ratios = [float(str(row[f"times_{other}"])) for row in rows if row["pass"] == name]
        yield (
            f"{name}: {geometric_mean(ratios):.2f}x {other} on average, at least {min(ratios):.2f}x"
        )


def launch_cost() -> Iterator[str]:
    """Yield the host's time for a training call without a graph, on next to no data."""
    inputs: Inputs = {
        "x": torch.randn(2, 16, 4, 4, device="cuda", requires_grad=True),
        "w1": torch.randn(1, 16, device="cuda", requires_grad=True),
        "w2": torch.randn(16, 1, device="cuda", requires_grad=True),
        "residual": None,
        "grad": torch.randn(2, 16, 4, 4, device="cuda"),
    }
    torch.compiler.reset()
    compiled = torch.compile(reference, fullgraph=True, dynamic=False)
    costs = []
    for name, operator in (
        ("perfkit", squeeze_excite),
        ("eager", reference),
        ("compile", compiled),
    ):
        for _ in range(20):
            train(operator, inputs)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(200):
            train(operator, inputs)
        torch.cuda.synchronize()
        costs.append(f"{name} {(time.perf_counter() - begun) / 200 * 1e6:.0f} us")
    yield "without graphs, a training call on 2x16x4x4 costs: " + ", ".join(costs)


if __name__ == "__main__":
    sys.exit(cli.run(main))
