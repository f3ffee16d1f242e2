"""The glaucoma training from the command line, on synthetic and on real photographs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from trainings import rank_here

from perfkit import profile
from perfkit.core.record import read_record

SHORT = (
    *("--image-size", "32", "--steps", "4", "--rounds", "2", "--warmup", "3"),
    *("--threads", "1", "--baseline", "none", "--trace-steps", "0", "--name", "run"),
)


def test_the_published_placement_crosses_devices_four_times_and_trains_as_serial_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--strategy", "model_parallel", "--gpus", "2", "--placement", "interleaved")
    assert rank_here(profile, *flags, *SHORT) == 0
    record = read_record(Path("runs/run"))
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
    command = (sys.executable, "-m", "perfkit.profile", *flags, *SHORT)
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "runs" / "run")
    assert record.data.train_samples == 120
    assert record.data.skipped == []
    assert record.gate is not None
    assert record.gate.max_abs_difference <= 1e-9
    assert [cell.global_batch for cell in record.cells] == [8, 8]
