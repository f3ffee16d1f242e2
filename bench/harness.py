"""Cases of perfkit's own cost: its step loop, its start, its reading of traces."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from case import Measurement
from noop import NoOp

from perfkit.core.config import RunConfig
from perfkit.engine.loading import Batch, endless_batches
from perfkit.engine.training import Training
from perfkit.measure.paired import time_paired
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh
from perfkit.trace.read import read_trace
from perfkit.workloads.base import Workload, load_workload

OVERHEAD_LIMIT_US = 200.0
ONE_CPU = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))


def step_of_nothing() -> Measurement:
    """Seconds of a step that does nothing, and what of it the loop, phases and ranges add."""
    config = RunConfig(image_size=16, local_batch=2)
    workload = NoOp(config)
    model = workload.model()
    batches = endless_batches(workload, config, ONE_CPU, 2)
    training = Training(workload, model, batches, ONE_CPU, steps_per_epoch=1000)
    bare = _bare_loop(workload, model, training.batches)
    steps = 20
    times = time_paired(
        {
            "bare loop": lambda: [next(bare) for _ in range(steps)],
            "perfkit": lambda: training.run(steps, StepRecorder()),
        },
        rounds=10,
    )
    pairs = zip(times.call_s["perfkit"], times.call_s["bare loop"], strict=True)
    added_us = median((ours - theirs) / steps for ours, theirs in pairs) * 1e6
    return Measurement(
        {"seconds": [seconds / steps for seconds in times.call_s["perfkit"]]},
        f"{added_us:.0f} us a step on top of a bare loop of the same calls "
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


def command_time(*arguments: str, limit_s: float | None = None) -> Callable[[], Measurement]:
    """Seconds from starting a Python to its end, beside a Python that does nothing."""

    def measure() -> Measurement:
        def start(*arguments: str) -> None:
            command = [sys.executable, "-P", *arguments]
            subprocess.run(command, check=True, capture_output=True)

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
        return Measurement(
            {"seconds": times.call_s["command"]}, finding, {"command": json.dumps(arguments)}
        )

    return measure


def training_step(workload_name: str, image_size: int, steps: int) -> Callable[[], Measurement]:
    """Seconds of a serial training step in this process, on one thread, from one fixed batch."""

    def measure() -> Measurement:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            training = _training(workload_name, image_size)
            times = time_paired({"step": lambda: training.run(1, StepRecorder())}, rounds=steps)
        finally:
            torch.set_num_threads(threads)
        return Measurement(
            {"seconds": times.call_s["step"]},
            f"{times.median_s('step') * 1e3:.1f} ms a step of 4 images of {image_size} px",
            {"threads": "1", "batch": "4", "image size": str(image_size)},
        )

    return measure


@cache  # a process that measures it many times, in turn with another, builds it once
def _training(workload_name: str, image_size: int) -> Training:
    config = RunConfig(workload=workload_name, image_size=image_size, local_batch=4)
    workload = load_workload(workload_name)(config)
    torch.manual_seed(0)
    batches = endless_batches(workload, config, ONE_CPU, 4)
    fixed = next(batches)
    batches.close()
    return Training(workload, workload.model(), _always(fixed), ONE_CPU, steps_per_epoch=1000)


def _always(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def loading(workload_name: str, image_size: int, workers: int) -> Callable[[], Measurement]:
    """Seconds a sample out of a loader that was started before, preprocessing included."""

    def measure() -> Measurement:
        batch, taken = 8, 20
        config = RunConfig(
            workload=workload_name, image_size=image_size, local_batch=batch, workers=workers
        )
        workload: Workload = load_workload(workload_name)(config)
        batches = endless_batches(workload, config, ONE_CPU, batch)
        # A turn of the workers: each hands over one batch, the last of them right after the first.
        turn = max(workers, 1)
        times = []
        # Workers start with two batches ahead each: these were made before the clock ran.
        for index in range(-3, taken):
            started = perf_counter()
            for _ in range(turn):
                next(batches)
            if index >= 0:
                times.append((perf_counter() - started) / (batch * turn))
        batches.close()
        rate = taken / sum(times)
        return Measurement(
            {"seconds per sample": times},
            f"{rate:.0f} samples/s by {workers or 'no'} workers",
            {"workers": str(workers), "batch": str(batch), "image size": str(image_size)},
        )

    return measure


def trace_reading(events: int) -> Callable[[], Measurement]:
    """Seconds to read a gzipped trace of so many events, beside what gzip and JSON take."""

    def measure() -> Measurement:
        trace = {
            "schemaVersion": 1,
            "traceEvents": [
                {
                    **{"ph": "X", "cat": "cpu_op", "name": f"aten::op{i % 97}", "pid": 1, "tid": 1},
                    **{"ts": 10.0 * i, "dur": 7.5, "args": {"External id": i, "Ev Idx": i}},
                }
                for i in range(events)
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json.gz")
            path.write_bytes(gzip.compress(json.dumps(trace).encode(), compresslevel=1))
            times = time_paired(
                {
                    "perfkit": lambda: read_trace(path),
                    "gzip and json": lambda: json.loads(gzip.decompress(path.read_bytes())),
                },
                rounds=10,
            )
        ratio = times.ratio("gzip and json", "perfkit")
        return Measurement(
            {"seconds": times.call_s["perfkit"]},
            f"{events / times.median_s('perfkit') / 1e6:.2f} million events/s, {ratio.estimate:.2f}"
            f"x [{ratio.low:.2f}, {ratio.high:.2f}] the speed of Python's own gzip and json",
            {"events": str(events)},
        )

    return measure
