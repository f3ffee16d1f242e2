"""Cases that are whole runs of ``perfkit profile``, read from their Records."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from case import Measurement

from perfkit.analysis import speed
from perfkit.core.record import Cell, Record, read_record
from perfkit.core.stats import Interval


def profiled(*flags: str) -> Record:
    """Return the Record of ``perfkit profile`` with these flags and no trace."""
    with tempfile.TemporaryDirectory() as runs:
        command = [
            *(sys.executable, "-P", "-m", "perfkit.profile", "--trace-steps", "0"),
            *("--runs", runs, "--name", "case", *flags),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return read_record(Path(runs) / "case")


def step(*flags: str) -> Callable[[], Measurement]:
    """Seconds a sample of serial training."""

    def measure() -> Measurement:
        record = profiled("--strategy", "serial", *flags)
        cell = record.cells[0]
        finding = f"{speed.samples_per_s(cell):.1f} samples/s"
        return Measurement(
            {"seconds per sample": _sample_s(cell)}, finding, _conditions(record, cell)
        )

    return measure


def strategy(name: str, devices: int, *flags: str) -> Callable[[], Measurement]:
    """All costs of training under a strategy, beside serial in the same rounds."""

    def measure() -> Measurement:
        record = profiled("--strategy", name, "--gpus", str(devices), *flags)
        cell, serial = record.cells[0], speed.baselines(record)[0]
        ours, theirs = _sample_s(cell), _sample_s(serial)
        peak = speed.peak_mib(cell)
        if peak is None:
            raise RuntimeError("this host does not tell the peak memory of a process")
        costs = {
            "seconds per sample": ours,
            "inverse efficiency": [
                devices * mine / one for mine, one in zip(ours, theirs, strict=True)
            ],
            **_exposed(record),
            "peak memory": [peak],
        }
        finding = f"{speed.samples_per_s(cell):.1f} samples/s"
        for baseline in speed.baselines(record):
            gain = speed.gain(cell, baseline)
            finding += f"; {in_words(gain)} the samples/s of {baseline.label}"
        finding += f"; ceiling {cell.ceiling:g}x"
        return Measurement(costs, finding, _conditions(record, cell))

    return measure


def _exposed(record: Record) -> dict[str, list[float]]:
    """Return the share of each round's step that exchanging gradients costs, where any does."""
    ablations = [cell for cell in record.cells if cell.role == "ablation"]
    if not ablations:
        return {}
    pairs = zip(speed.round_step_s(record.cells[0]), speed.round_step_s(ablations[0]), strict=True)
    return {"exposed communication": [max(1 - without / whole, 0.0) for whole, without in pairs]}


def _sample_s(cell: Cell) -> list[float]:
    return [seconds / cell.global_batch for seconds in speed.round_step_s(cell)]


def _conditions(record: Record, cell: Cell) -> dict[str, str]:
    return {
        "cell": cell.label,
        "hardware": record.environment.hardware,
        "threads a rank": str(cell.threads),
        "global batch": str(cell.global_batch),
        "taints": "; ".join(record.taints),
    }


def in_words(interval: Interval) -> str:
    """Return a ratio with its interval."""
    return f"{interval.estimate:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"
