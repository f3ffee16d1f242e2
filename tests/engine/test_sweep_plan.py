"""What can run here is planned; what cannot is skipped with its reason, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfkit.core.errors import PerfkitError
from perfkit.core.host import available_cores
from perfkit.core.sweep import Sweep, SweepFile, read_sweep_file
from perfkit.engine.sweep_plan import plan


def planned(**file: Any) -> Sweep:
    base = {"device": "cpu", "local_batch": 4, **file.pop("base", {})}
    return plan(SweepFile.model_validate({"base": base, **file}), "s", "s.toml")


def test_cells_are_named_by_what_differs() -> None:
    sweep = planned(cells=[{"strategy": "ddp", "gpus": 2}, {"workers": 2}])
    assert [cell.label for cell in sweep.cells] == ["base", "strategy=ddp gpus=2", "workers=2"]
    assert sweep.cells[1].options == {
        **{"device": "cpu", "local_batch": 4},
        **{"strategy": "ddp", "gpus": 2},
    }
    assert all(cell.skipped is None for cell in sweep.cells)


def test_what_this_machine_cannot_run_is_skipped_with_the_reason() -> None:
    sweep = planned(cells=[{"precision": "fp16"}, {"strategy": "ddp", "gpus": 64 * 1024}])
    _, fp16, crowd = sweep.cells
    assert fp16.skipped is not None
    assert "fp16" in fp16.skipped
    assert crowd.skipped is not None
    assert f"too many for {available_cores()} cores" in crowd.skipped
    assert sweep.order(0) == [0]


def test_ranks_and_threads_that_would_share_cores_are_skipped() -> None:
    cores = available_cores()
    sweep = planned(
        base={"threads": cores}, cells=[{"strategy": "ddp", "gpus": 2}, {"threads": cores + 1}]
    )
    assert sweep.cells[0].skipped is None
    words = (
        f"2 rank(s) x {cores} thread(s) need {2 * cores} cores, and this process may use {cores}"
    )
    assert sweep.cells[1].skipped == words
    assert sweep.cells[2].skipped is not None


SHIPPED = sorted((Path(__file__).parents[2] / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_sweeps_that_are_shipped_can_be_planned(path: Path) -> None:
    file = read_sweep_file(path)
    on_cpu = file.model_copy(update={"base": {"threads": 1, **file.base, "device": "cpu"}})
    assert plan(on_cpu, "s", path.name).cells[0].skipped is None


def test_holes_of_the_matrix_are_skipped_with_the_reason() -> None:
    sweep = planned(matrix={"strategy": ["serial", "model_parallel"], "gpus": [1, 2]})
    reasons = [cell.skipped for cell in sweep.cells]
    assert [reason is None for reason in reasons] == [True, False, False, True]
    assert "serial" in (reasons[1] or "")
    assert "model_parallel" in (reasons[2] or "")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"strategy": "model_parallel", "gpus": 1}, "cell 'strategy=model_parallel gpus=1': "),
        ({"strategy": "dpp"}, "cell 'strategy=dpp': strategy = 'dpp': input should be"),
        ({"global_batch": 8}, "cell 'global_batch=8': --global-batch 8 and --local-batch 4"),
        ({"workers": -1}, "cell 'workers=-1': workers = -1: input should be"),
    ],
)
def test_an_impossible_cell_is_refused_by_name(cell: dict[str, Any], words: str) -> None:
    with pytest.raises(PerfkitError) as caught:
        planned(cells=[cell])
    assert str(caught.value).startswith(f"s.toml: {words}")


def test_two_cells_that_are_the_same_are_refused() -> None:
    with pytest.raises(PerfkitError, match="cells 'base' and 'local_batch=4' are the same"):
        planned(cells=[{"local_batch": 4}])


@pytest.mark.parametrize("twin", [{"workers": "1"}, {"workers": "01"}, {"workers": 1, "seed": 0}])
def test_a_cell_written_in_another_way_is_the_same_cell(twin: dict[str, Any]) -> None:
    with pytest.raises(PerfkitError, match=r"cells 'workers=1' and '.*' are the same"):
        planned(cells=[{"workers": 1}, twin])


def test_a_value_of_the_matrix_that_no_cell_can_have_is_refused() -> None:
    with pytest.raises(PerfkitError, match="precision = 'fp31': "):
        planned(matrix={"precision": ["fp32", "fp31"]})


def test_a_sweep_of_which_nothing_can_run_is_refused() -> None:
    with pytest.raises(PerfkitError, match=r"no cell can run here; the first: .*fp16"):
        planned(base={"precision": "fp16"}, cells=[{"workers": 1}])
