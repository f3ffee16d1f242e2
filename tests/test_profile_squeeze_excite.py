"""A model with SE, profiled with the fused operator beside the reference, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import rank_here

from perfkit import profile
from perfkit.core.record import read_record
from perfkit.ops import native


def test_a_fused_run_is_gated_told_and_compared_with_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    short = ("--steps", "4", "--rounds", "2", "--warmup", "3", "--trace-steps", "1")
    flags = ("--workload", "tiny_se:TinySe", "--threads", "1", "--baseline", "ops=reference")
    assert rank_here(profile, *flags, *short, "--name", "run") == 0
    record = read_record(tmp_path / "runs" / "run")
    isa = native.build_info().isa
    assert [(cell.ops, cell.squeeze_excites) for cell in record.cells] == [
        ("fused", [{f"fused {isa}": 2}]),
        ("reference", [{"reference": 2}]),
    ]
    assert record.cells[1].label == "serial, 1 thread, ops=reference"
    assert record.gate is not None
    assert record.gate.squeeze_excites == {f"fused {isa}": 2 * record.gate.steps}
    assert record.gate.max_abs_difference <= record.gate.tolerance == 1e-9
    lines = capsys.readouterr().out.splitlines()
    assert f"squeeze-excite 2 of 2 blocks fused {isa}" in lines
    assert ["squeeze-excite", "fused", isa, "reference"] in [line.split() for line in lines]
    assert any("the samples/s with ops=reference" in line for line in lines)
