"""The one list of benchmark cases. pytest-benchmark is a view of it (``test_cases.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import preprocess
import squeeze
import squeeze_models
import torch
from noop import NoOp

from perfkit.analysis import speed
from perfkit.core.config import RunConfig, StrategyName
from perfkit.core.record import read_record
from perfkit.core.stats import Interval
from perfkit.engine.loading import Batch, endless_batches
from perfkit.engine.training import Training
from perfkit.measure.paired import time_paired
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh

OVERHEAD_LIMIT_US = 200.0
HELP_LIMIT_S = 0.5


class CannotRunError(Exception):
    """A case cannot run here; the message says why."""


@dataclass(frozen=True)
class Measurement:
    """Samples in seconds, what they should be held against, and their conditions."""

    samples_s: list[float]
    finding: str
    conditions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to measure; ``measure`` sets up, measures and cleans up by itself."""

    name: str
    group: str
    measure: Callable[[], Measurement]


def harness_overhead() -> Measurement:
    """What the step loop, its phases and its annotations add to a step that does nothing."""
    config = RunConfig(image_size=16, local_batch=2)
    workload = NoOp(config)
    mesh = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
    model = workload.model()
    training = Training(
        workload, model, endless_batches(workload, config, mesh, 2), mesh, steps_per_epoch=1000
    )
    bare = _bare_loop(workload, model, training.batches)
    steps = 100
    times = time_paired(
        {
            "bare loop": lambda: [next(bare) for _ in range(steps)],
            "perfkit": lambda: training.run(steps, StepRecorder()),
        },
        rounds=20,
    )
    pairs = zip(times.call_s["perfkit"], times.call_s["bare loop"], strict=True)
    added = [max((ours - theirs) / steps, 0.0) for ours, theirs in pairs]
    median_us = sorted(added)[len(added) // 2] * 1e6
    return Measurement(
        added,
        f"{median_us:.0f} us a step on top of a bare loop of the same calls "
        f"(limit {OVERHEAD_LIMIT_US:.0f} us)",
        {"steps a round": str(steps), "threads": str(torch.get_num_threads())},
    )


def _bare_loop(workload: NoOp, model: torch.nn.Module, batches: Iterator[Batch]) -> Iterator[None]:
    """The same training as a user would write it, without perfkit's loop."""
    optimizer = workload.optimizer(model)
    while True:
        inputs, targets, *_ = next(batches)
        inputs, targets = inputs.to("cpu"), targets.to("cpu")
        losses, weights = workload.loss(model(inputs), targets)
        ((losses * weights).sum() / weights.sum()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def strategy_step(strategy: StrategyName, devices: int) -> Callable[[], Measurement]:
    """Seconds a step of the glaucoma training, beside serial in the same run."""

    def measure() -> Measurement:
        with tempfile.TemporaryDirectory() as runs:
            command = [
                *(sys.executable, "-m", "perfkit.profile", "--strategy", strategy),
                *("--gpus", str(devices), "--steps", "24", "--rounds", "6"),
                *("--trace-steps", "0", "--runs", runs, "--name", "case"),
            ]
            subprocess.run(command, check=True, capture_output=True)
            record = read_record(Path(runs) / "case")
        cell = record.cells[0]
        finding = f"{speed.samples_per_s(cell):.1f} samples/s"
        for baseline in speed.baselines(record):
            gain = speed.gain(cell, baseline)
            finding += f"; {_words(gain)} the samples/s of {baseline.label}"
        if devices > 1:
            finding += f"; ceiling {cell.ceiling:g}x"
        return Measurement(
            speed.round_step_s(cell),
            finding,
            {
                "cell": cell.label,
                "hardware": record.environment.hardware,
                "global batch": str(cell.global_batch),
                "taints": "; ".join(record.taints),
            },
        )

    return measure


def command_time(*arguments: str, limit_s: float | None = None) -> Callable[[], Measurement]:
    """Seconds from starting a Python to its end, beside a Python that does nothing."""

    def measure() -> Measurement:
        def start(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

        times = time_paired(
            {"command": lambda: start(*arguments), "python": lambda: start("-c", "pass")},
            rounds=10,
        )
        finding = (
            f"{times.median_s('command'):.3f} s, of which {times.median_s('python'):.3f} s are "
            "Python's own start"
        )
        if limit_s is not None:
            finding += f" (limit {limit_s} s)"
        return Measurement(times.call_s["command"], finding, {"command": json.dumps(arguments)})

    return measure


def preprocessing(
    *limits: str, needs: str | None = None, **setup: Any
) -> Callable[[], Measurement]:
    """Seconds of CLAHE-gamma-median over a few photographs, beside another way."""

    def measure() -> Measurement:
        if needs is not None and find_spec(needs) is None:
            raise CannotRunError(f"{needs} is not installed")
        what = preprocess.Setup(**setup)
        facts = preprocess.measure(what)
        return Measurement(
            facts["call_s"][preprocess.OURS],
            preprocess.finding(what, facts, limits),
            {"beside": facts["other"], "isa": facts["isa"], "photos": facts["photos"]},
        )

    return measure


def squeeze_excite(setup: squeeze.Setup) -> Callable[[], Measurement]:
    """Seconds of forward and backward, beside eager torch, torch.compile and a copy."""

    def measure() -> Measurement:
        facts = squeeze.measure(setup)
        return Measurement(
            facts["call_s"]["training"]["perfkit"],
            squeeze.finding(setup, facts),
            {
                "isa": facts["isa"],
                "threads": str(setup.threads),
                "batch": str(squeeze.BATCH),
                "large pages": facts["large_pages"],
            },
        )

    return measure


def squeeze_excite_step(setup: squeeze_models.Setup) -> Callable[[], Measurement]:
    """Seconds of a whole training step, beside the same with plain torch."""

    def measure() -> Measurement:
        return Measurement(
            squeeze_models.measure(setup)["fused"],
            squeeze_models.finding(setup),
            {"threads": str(setup.threads), "batch": str(setup.batch)},
        )

    return measure


def squeeze_excite_mean() -> Measurement:
    """Seconds of forward and backward once at each shape, and what the shapes come to."""
    fastest = (min(squeeze.measure(one)["call_s"]["training"]["perfkit"]) for one in squeeze.PLAIN)
    return Measurement(
        [sum(fastest)], squeeze.summary(), {"a sample": "all shapes, fastest rounds"}
    )


def _words(interval: Interval) -> str:
    return f"{interval.estimate:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


CASES = (
    Case("harness-overhead", "harness", harness_overhead),
    Case("import-perfkit", "start-up", command_time("-c", "import perfkit")),
    Case(
        "profile-help",
        "start-up",
        command_time("-m", "perfkit.profile", "--help", limit_s=HELP_LIMIT_S),
    ),
    Case("step-serial", "glaucoma step, CPU", strategy_step("serial", 1)),
    Case("step-ddp-2", "glaucoma step, CPU", strategy_step("ddp", 2)),
    Case("step-model-parallel-2", "glaucoma step, CPU", strategy_step("model_parallel", 2)),
    Case("step-ddp-model-parallel-4", "glaucoma step, CPU", strategy_step("ddp_model_parallel", 4)),
    *(
        Case(
            f"preprocess-{size}",
            f"preprocess, {size}x{size}",
            preprocessing("limit 4x, aim 5x", size=size, rounds=20 if size > 1024 else 60),
        )
        for size in (224, 512, 2048)
    ),
    *(
        Case(
            f"preprocess-512-{isa}",
            "preprocess, 512x512",
            preprocessing(*limits, size=512, isa=isa),
        )
        for isa, limits in (
            ("avx512", ()),
            ("avx2", ("limit 1.5x, aim 2.5x",)),
            ("scalar", ("the oracle",)),
        )
    ),
    Case(
        "preprocess-batch-2-threads",
        "preprocess, batch of 32",
        preprocessing("limit 4x, aim 5x", size=512, batch=32, threads=2, rounds=15),
    ),
    Case(
        "preprocess-batch-scaling",
        "preprocess, batch of 32",
        preprocessing("limit 1.8x", size=512, batch=32, threads=2, beside="one-thread", rounds=15),
    ),
    Case(
        "preprocess-kornia",
        "preprocess, 512x512",
        preprocessing("limit 10x", needs="kornia", size=512, beside="kornia", rounds=5),
    ),
    *(
        Case(
            f"squeeze-excite-{setup.name}",
            "squeeze-excite, forward and backward",
            squeeze_excite(setup),
        )
        for setup in (*squeeze.PLAIN, *squeeze.LARGE_PAGES, *squeeze.WITH_RESIDUAL)
    ),
    Case("squeeze-excite-mean", "squeeze-excite, all shapes", squeeze_excite_mean),
    *(
        Case(f"squeeze-excite-{setup.name}", "squeeze-excite, step", squeeze_excite_step(setup))
        for setup in squeeze_models.SETUPS
    ),
)
