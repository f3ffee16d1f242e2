"""The glaucoma training from the command line, on synthetic and on real photographs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perfkit.core.record import Record, read_record

SHORT = (
    *("--image-size", "32", "--steps", "4", "--rounds", "2", "--warmup", "3"),
    *("--baseline", "none", "--trace-steps", "0"),
)


def profile(folder: Path, *flags: str) -> Record:
    command = (sys.executable, "-m", "perfkit.profile", *flags, *SHORT, "--name", "run")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_record(folder / "runs" / "run")


def test_the_published_placement_crosses_devices_four_times_and_trains_as_serial_does(
    tmp_path: Path,
) -> None:
    flags = ("--strategy", "model_parallel", "--gpus", "2", "--placement", "interleaved")
    record = profile(tmp_path, *flags)
    cell = record.cells[0]
    assert record.parameters == 22_494_274
    assert record.data.name.startswith("synthetic fundus")
    assert cell.placement == [0, 1, 0, 1, 0]
    assert cell.crossings == 4
    assert [seen.parameter_devices for seen in cell.observed] == [
        [f"stand-in:{device}"] for device in cell.placement
    ]
    assert record.gate is not None
    assert record.gate.max_abs_difference <= record.gate.tolerance == 1e-9


@pytest.mark.real_data
def test_ddp_trains_real_photographs_as_serial_does(tmp_path: Path, data_dir: Path) -> None:
    flags = ("--strategy", "ddp", "--gpus", "2", "--data", str(data_dir / "smdg-fundus"))
    record = profile(tmp_path, *flags)
    assert record.data.train_samples == 120
    assert record.data.skipped == []
    assert record.gate is not None
    assert record.gate.max_abs_difference <= 1e-9
    assert [cell.global_batch for cell in record.cells] == [8, 8]
