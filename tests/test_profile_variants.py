"""``--baseline option=value``: another value of one option, measured beside the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfkit.analysis import speed
from perfkit.core.record import Cell, Record, read_record
from perfkit.profile import parse

SUPPORT = Path(__file__).parent / "support"
SHORT = ("--steps", "4", "--rounds", "2", "--warmup", "3", "--trace-steps", "0")


def profiled(*flags: str, cwd: Path) -> tuple[str, Record]:
    done = subprocess.run(
        (sys.executable, "-m", "perfkit.profile", *SHORT, *flags, "--name", "run"),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, read_record(cwd / "runs" / "run")


def options(cell: Cell) -> dict[str, object]:
    """Return what can be varied of a cell."""
    return {
        "precision": cell.precision,
        "threads": cell.threads,
        "workers": cell.workers,
        "local_batch": cell.local_batch,
        "placement": cell.placement,
    }


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ("workers=1", "workers", 1),
        ("precision=fp32", "precision", "fp32"),
        ("threads=1", "threads", 1),
        ("local-batch=16", "local_batch", 16),
        ("placement=contiguous", "placement", "contiguous"),
    ],
)
def test_the_published_values_can_be_named_as_they_stand(
    spec: str, field: str, value: object
) -> None:
    flags = ("--strategy", "model_parallel", "--precision", "bf16", "--placement", "interleaved")
    (changed,) = parse((*flags, "--threads", "2", "--baseline", spec)).variants().values()
    assert getattr(changed, field) == value


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Record]:
    """Two ranks of two stages each, beside other values of three options."""
    return profiled(
        *("--workload", "tiny:Tiny", "--strategy", "ddp_model_parallel", "--gpus", "4"),
        *("--precision", "bf16", "--placement", "interleaved", "--threads", "1"),
        *("--baseline", "precision=fp32", "workers=1", "placement=contiguous"),
        cwd=tmp_path_factory.mktemp("combined"),
    )


def test_every_variant_is_a_cell_of_its_own_that_differs_in_one_option(
    combined: tuple[str, Record],
) -> None:
    _, record = combined
    run, precision, workers, placement, _ = record.cells
    roles = ["strategy", "variant", "variant", "variant", "ablation"]
    assert [cell.role for cell in record.cells] == roles
    assert options(run) == {
        "precision": "bf16",
        "threads": 1,
        "workers": 0,
        "local_batch": 4,
        "placement": [0, 1, 0, 1],
    }
    assert options(precision) == options(run) | {"precision": "fp32"}
    assert options(workers) == options(run) | {"workers": 1}
    assert options(placement) == options(run) | {"placement": placement.placement}
    assert placement.placement == sorted(placement.placement) != run.placement


def test_a_variant_has_as_many_ranks_as_the_run_and_is_measured_in_every_round(
    combined: tuple[str, Record],
) -> None:
    _, record = combined
    for cell in record.cells:
        assert (cell.ranks, cell.backend) == (2, "gloo")
        turns = [(block.round, block.rank) for block in cell.blocks]
        assert turns == [(index, rank) for index in range(2) for rank in range(2)]
        assert [len(block.steps) for block in cell.blocks] == [2] * 4
        first, second = (block.steps[0].loss for block in cell.blocks[:2])
        assert None is not first != second  # each rank trains its own share
        assert len(cell.load) == 2
    for cell in record.cells[:-1]:  # the ablation is of the same processes
        assert len(cell.memory) == len(cell.time_to_first_step_s) == 2


def test_what_a_variant_ran_in_and_on_was_observed(combined: tuple[str, Record]) -> None:
    _, record = combined
    bf16, fp32 = {"torch.bfloat16": 3}, {"torch.float32": 3}
    seen = [cell.product_dtypes for cell in record.cells[:4]]
    assert seen == [[bf16] * 2, [fp32] * 2, [bf16] * 2, [bf16] * 2]
    assert [cell.crossings for cell in record.cells[:4]] == [3, 3, 3, 1]
    for cell in record.cells:
        for rank in range(2):
            stages = [stage for stage in cell.observed if stage.rank == rank]
            assert [stage.parameter_devices for stage in stages] == [
                [f"stand-in:{device}"] for device in cell.placement
            ]


def test_the_table_has_a_column_for_each_and_says_whether_the_run_pays_beside_it(
    combined: tuple[str, Record],
) -> None:
    printed, record = combined
    for difference in ("precision=fp32", "workers=1", "placement=contiguous"):
        assert f"the samples/s with {difference}" in printed
    assert printed.count("same, but") == 3
    assert "ceiling of the strategy" not in printed  # that is over one device
    gain = speed.gain(record.cells[0], record.cells[2])
    ours, theirs = (speed.samples_per_s(record.cells[index]) for index in (0, 2))
    assert gain.low <= ours / theirs <= gain.high
