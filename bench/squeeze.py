"""Squeeze-and-Excitation on the CPU, beside eager torch, torch.compile and a copy, in the same run.

``python bench/squeeze.py`` measures all shapes and prints the table of docs/results; with the
fields of Setup as JSON it measures one and prints facts, which is how ``cases.py`` calls it: a
process of its own has torch's threads and torch.compile's caches to itself.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fresh_process import measure_afresh
from torch import Tensor

from perfkit.core.stats import Interval, ratio_interval
from perfkit.measure.paired import time_paired

BATCH = 32
REDUCTION = 16
# The kernel's setting; torch's allocator may ask for large pages only where it is not "never".
LARGE_PAGES_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SHORTEST_S = 0.02  # a timed round takes about so long, if not longer
LARGEST_KEPT_BYTES = 31 << 20  # just below glibc's DEFAULT_MMAP_THRESHOLD_MAX


@dataclass(frozen=True)
class Setup:
    """One measurement; ``training`` is forward and backward with all gradients."""

    shape: tuple[int, ...]
    layout: str = "nchw"  # or "nhwc"; tokens have one only
    residual: bool = False  # with a ReLU after it
    large_pages: bool = False  # from torch's allocator, for all sides
    threads: int = 2
    rounds: int = 30

    @property
    def name(self) -> str:
        """As in the table; "-residual" has a ReLU too."""
        layout = "tokens" if len(self.shape) == 3 else self.layout
        form = "-residual" if self.residual else ""
        pages = "-large-pages" if self.large_pages else ""
        return f"{'x'.join(map(str, self.shape[1:]))}-{layout}{form}{pages}"

    def tensors_moved(self, kind: str) -> int:
        """Count how often a tensor like x passes through memory, second readings being in cache.

        The forward reads x and writes y; the backward reads x and the gradient and writes one. With
        residual and ReLU the forward reads one more, the backward y, and it writes one more.
        """
        forward, backward = (3, 5) if self.residual else (2, 3)
        return forward if kind == "forward" else forward + backward


_IMAGES = (
    *((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)),
    *((256, 28, 28), (96, 112, 112)),
)
PLAIN = (
    *(Setup((BATCH, *shape), layout) for shape in _IMAGES for layout in ("nchw", "nhwc")),
    Setup((BATCH, 197, 768)),
)
# Memory of 32 MiB and more is new from the kernel for every call (glibc's M_MMAP_THRESHOLD): in
# pages of 4 KiB that is half of the call.
LARGE_PAGES = tuple(
    Setup((BATCH, *_IMAGES[-1]), layout, large_pages=True) for layout in ("nchw", "nhwc")
)
# As in ResNet18: the shapes of its four stages.
WITH_RESIDUAL = tuple(Setup((BATCH, *shape), residual=True) for shape in _IMAGES[:4])


@cache
def measure(setup: Setup) -> dict[str, Any]:
    """Run ``setup`` in a fresh process and return what ``main`` returns."""
    return measure_afresh(__file__, setup, {"THP_MEM_ALLOC_ENABLE": str(int(setup.large_pages))})


def main(setup: Setup) -> dict[str, Any]:
    """Measure, and return the samples in seconds: kind -> name -> a value a round."""
    from perfkit.ops import build_info, squeeze_excite
    from perfkit.ops.reference.squeeze_excite import squeeze_excite as eager

    torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    # As in any process that trains a network: once a large block was freed, glibc keeps what is
    # freed for the next call. Else it may give all back in each call, or not, by chance.
    torch.empty(LARGEST_KEPT_BYTES, dtype=torch.uint8)
    arguments, options, gradient = _inputs(setup)
    ways: dict[str, Callable[..., Tensor]] = {
        "perfkit": squeeze_excite,
        "compile": torch.compile(eager, dynamic=False),
        "eager": eager,
    }
    leaves = [x for x in (*arguments, *options.values()) if isinstance(x, Tensor)]

    exact = _values(
        [x.detach().double().requires_grad_() for x in leaves], eager, gradient, options
    )
    for name, way in ways.items():
        _check(name, _values(leaves, way, gradient, options), exact)

    def train(way: Callable[..., Tensor]) -> None:
        way(*arguments, **options).backward(gradient)
        for leaf in leaves:
            leaf.grad = None

    def infer(way: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            way(*arguments, **options)

    # As much memory as the calls touch: in training x, the gradient and two results, and with a
    # residual that and its gradient. Of less, which caches hold, a clone is up to twice as fast.
    read = [x.detach() for x in (arguments[0], options.get("residual")) if x is not None]
    cloned = {"training": [*read, gradient], "forward": read}
    kinds: dict[str, dict[str, list[float]]] = {}
    for kind, run in (("training", train), ("forward", infer)):
        # Bound to `run` and `kind` now, not when called.
        callables = {name: (lambda way=way, run=run: run(way)) for name, way in ways.items()}
        callables["clone"] = lambda kind=kind: [tensor.clone() for tensor in cloned[kind]]
        once = time_paired(callables, rounds=3)
        calls = math.ceil(SHORTEST_S / min(once.call_s["perfkit"]))
        times = time_paired(callables, rounds=setup.rounds, calls=calls, warmup=3)
        kinds[kind] = dict(times.call_s)
        kinds[kind]["clone"] = [all_s / len(cloned[kind]) for all_s in times.call_s["clone"]]
    pages = LARGE_PAGES_FILE.read_text().strip() if LARGE_PAGES_FILE.exists() else "none"
    return {
        "call_s": kinds,
        "bytes": gradient.nbytes,
        "isa": build_info().isa,
        "large_pages": f"{pages}, asked for: {setup.large_pages}",
    }


def _inputs(setup: Setup) -> tuple[tuple[Tensor | None, ...], dict[str, Any], Tensor]:
    tokens = len(setup.shape) == 3
    channels = setup.shape[2 if tokens else 1]
    layout = torch.channels_last if setup.layout == "nhwc" else torch.contiguous_format

    def images() -> Tensor:
        return torch.randn(setup.shape).contiguous(memory_format=layout)

    w1 = torch.randn(channels // REDUCTION, channels) / channels**0.5
    w2 = torch.randn(channels, channels // REDUCTION)
    options: dict[str, Any] = {}
    if setup.residual:
        options = {"residual": images().requires_grad_(), "activation": "relu"}
    layers = (w1.requires_grad_(), None, w2.requires_grad_(), None)
    return (images().requires_grad_(), *layers), options, images()


def _values(
    leaves: list[Tensor], way: Callable[..., Tensor], gradient: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    """Return the result and the gradients of all leaves: x, w1, w2 and perhaps a residual."""
    x, w1, w2, *residual = leaves
    more = options | ({"residual": residual[0]} if residual else {})
    y = way(x, w1, None, w2, None, **more)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype))]


def _check(name: str, values: list[Tensor], exact: list[Tensor]) -> None:
    """Refuse to time what computes something else: against float64."""
    for got, want in zip(values, exact, strict=True):
        error = ((got - want).abs().max() / want.abs().max()).item()
        if not error < 1e-4:
            raise RuntimeError(f"{name} is off by {error:g}")


def fastest(facts: dict[str, Any], kind: str, other: str) -> float:
    """Return how many times as long the other takes, in the fastest rounds of each."""
    times = facts["call_s"][kind]
    return min(times[other]) / min(times["perfkit"])


def paired(facts: dict[str, Any], kind: str, other: str) -> Interval:
    """Return how many times as long the other takes, within rounds."""
    times = facts["call_s"][kind]
    return ratio_interval(times[other], times["perfkit"])


def clones(facts: dict[str, Any], kind: str) -> float:
    """Return how many clones of a tensor like x fit into a call, in the fastest rounds of each."""
    times = facts["call_s"][kind]
    return min(times["perfkit"]) / min(times["clone"])


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def finding(setup: Setup, facts: dict[str, Any]) -> str:
    """Return in one line how fast, how much faster, and how far from the floor."""
    words = [f"{setup.name}, batch {BATCH}, {setup.threads} threads, {facts['isa']}"]
    for kind, times in facts["call_s"].items():
        copied = facts["bytes"] * 2 / min(times["clone"])
        moved_bytes = facts["bytes"] * setup.tensors_moved(kind)
        floor_s = moved_bytes / copied
        ratio = paired(facts, kind, "compile")
        words.append(
            f"{kind} {min(times['perfkit']) * 1e3:.2f} ms = {clones(facts, kind):.2f} clones: "
            f"{fastest(facts, kind, 'compile'):.2f}x torch.compile and "
            f"{fastest(facts, kind, 'eager'):.2f}x eager in the fastest rounds, "
            f"{ratio.estimate:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] torch.compile paired; "
            f"{moved_bytes / 1e6:.0f} MB at {copied / 1e9:.1f} GB/s are {floor_s * 1e3:.2f} ms: "
            f"{min(times['perfkit']) / floor_s:.2f} times that floor"
        )
    return "; ".join(words)


def summary() -> str:
    """Return in one line the means over the shapes of the plain form, and the worst of them."""
    all_facts = [measure(setup) for setup in PLAIN]
    over_compile = [fastest(facts, "training", "compile") for facts in all_facts]
    over_eager = [fastest(facts, "training", "eager") for facts in all_facts]
    forward = [fastest(facts, "forward", "compile") for facts in all_facts]
    within = [paired(facts, "training", "compile").estimate for facts in all_facts]
    over_best = [min(pair) for pair in zip(over_compile, over_eager, strict=True)]
    return (
        f"geometric mean over {len(PLAIN)} shapes and layouts, fastest rounds: training "
        f"{geometric_mean(over_compile):.2f}x torch.compile (limit 1.25x, aim 1.5x), "
        f"{geometric_mean(over_eager):.2f}x eager (limit 2x), forward "
        f"{geometric_mean(forward):.2f}x torch.compile (limit 1.25x); least "
        f"{min(over_best):.2f}x the faster of the two (limit 1x, aim 1.2x); means "
        f"within rounds: training {geometric_mean(within):.2f}x torch.compile"
    )


def table() -> str:
    """Return all measurements as Markdown."""
    lines = [
        "| shape | clone, ms | perfkit, ms | clones | x compile | paired, 95 % | x eager "
        "| clone, ms | forward, ms | clones | x compile | x eager |",
        "| --- " * 12 + "|",
    ]
    for setup in (*PLAIN, *LARGE_PAGES, *WITH_RESIDUAL):
        facts = measure(setup)
        training, forward = facts["call_s"]["training"], facts["call_s"]["forward"]
        ratio = paired(facts, "training", "compile")
        cells = (
            setup.name,
            f"{min(training['clone']) * 1e3:.2f}",
            f"{min(training['perfkit']) * 1e3:.2f}",
            f"{clones(facts, 'training'):.2f}",
            f"**{fastest(facts, 'training', 'compile'):.2f}**",
            f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            f"{fastest(facts, 'training', 'eager'):.2f}",
            f"{min(forward['clone']) * 1e3:.2f}",
            f"{min(forward['perfkit']) * 1e3:.2f}",
            f"{clones(facts, 'forward'):.2f}",
            f"{fastest(facts, 'forward', 'compile'):.2f}",
            f"{fastest(facts, 'forward', 'eager'):.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", summary()])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(table())
    else:
        fields = json.loads(sys.argv[1])
        print(json.dumps(main(Setup(**fields | {"shape": tuple(fields["shape"])}))))
