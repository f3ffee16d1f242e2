"""A sweep file that asks for nonsense is refused in one line; a plan is read as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from perfkit.core.errors import PerfkitError
from perfkit.core.sweep import (
    PlannedCell,
    Sweep,
    SweepFile,
    config_of,
    read_sweep,
    read_sweep_file,
    write_sweep,
)

GOOD = """
rounds = 4
[base]
workload = "glaucoma"
local_batch = 4
[matrix]
strategy = ["serial", "ddp"]
gpus = [1, 2]
[[cells]]
workers = 2
"""


def a_sweep(**changes: Any) -> Sweep:
    cells = [PlannedCell(label=f"c{i}", options={"workers": i}) for i in range(5)]
    facts = {"command": "profile", "rounds": 3, "seed": 1, "hardware": "a CPU", "cells": cells}
    return Sweep.model_validate({"name": "s", "created_at": "now", **facts, **changes})


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(PerfkitError) as caught:
        read_sweep_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_the_matrix_gives_every_combination_and_cells_come_after_it(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(GOOD)
    file = read_sweep_file(path)
    assert (file.rounds, file.command) == (4, "profile")
    assert file.combinations() == [
        {"strategy": "serial", "gpus": 1},
        {"strategy": "serial", "gpus": 2},
        {"strategy": "ddp", "gpus": 1},
        {"strategy": "ddp", "gpus": 2},
        {"workers": 2},
    ]


def test_without_a_matrix_the_base_is_the_first_cell() -> None:
    assert SweepFile(cells=[{"workers": 2}]).combinations() == [{}, {"workers": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("round = 3\n[[cells]]\nworkers = 1", "round = 3: extra inputs are not permitted"),
        ("[base]\nworker = 2\n[[cells]]\nworkers = 1", "unknown option 'worker'; known are "),
        ("[matrix]\nstrategies = ['ddp']", "unknown option 'strategies'"),
        ("[[cells]]\nepochs = 3\nmonitor = 'auc'", "unknown option 'monitor'"),
        ("rounds = 0\n[[cells]]\nworkers = 1", "rounds = 0: input should be greater than or"),
        ("[matrix]\nworkers = []", "matrix.workers = []: list should have at least 1 item"),
        ("[base]\nworkers = 1", "nothing differs"),
        ("[[cells]]\nname = 'x'", "name: is the sweep's own"),
        ("[base]\nbaseline = 'serial'\n[[cells]]\nworkers = 1", "baseline: is the sweep's own"),
        ("command = 'compare'\n[[cells]]\nworkers = 1", "command = 'compare': input should be"),
        ("workers == 1", "is not TOML"),
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    assert refused(tmp_path, text).startswith(words)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PerfkitError, match=r"no\.toml: cannot be read \(No such file"):
        read_sweep_file(tmp_path / "no.toml")


def test_every_cell_that_can_run_has_one_turn_in_every_round_in_an_order_of_its_own() -> None:
    cells = [PlannedCell(label=f"c{i}", options={"workers": i}) for i in range(5)]
    cells[2] = cells[2].model_copy(update={"skipped": "no GPU"})
    sweep = a_sweep(cells=cells)
    orders = [sweep.order(index) for index in range(20)]
    assert all(sorted(order) == [0, 1, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 5
    assert orders == [a_sweep(cells=cells).order(index) for index in range(20)]
    assert orders != [a_sweep(cells=cells, seed=2).order(index) for index in range(20)]


def test_a_profile_of_a_sweep_has_two_blocks_and_no_trace_unless_told_otherwise() -> None:
    plain, told = config_of("profile", {}), config_of("profile", {"rounds": 5, "trace_steps": 1})
    assert (plain.rounds, plain.trace_steps, plain.baseline) == (2, 0, ("none",))
    assert (told.rounds, told.trace_steps, told.baseline) == (5, 1, ("none",))
    assert config_of("train", {"epochs": "3"}).epochs == 3


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = a_sweep()
    write_sweep(sweep, tmp_path)
    assert read_sweep(tmp_path) == sweep


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": "1.0"}, "has schema version 1.0, this perfkit reads 2.x"),
        ({"schema_version": "3.0"}, "has schema version 3.0, this perfkit reads 2.x"),
        ({"schema_version": None}, "is not a perfkit sweep"),
        ({"rounds": "many"}, "is not a valid sweep (rounds: "),
        ({"rounds": 0}, "is not a valid sweep (rounds: "),
        ({"rounds_before": [9]}, "is not a valid sweep (: rounds: 3 do not come after [9])"),
        ({"schema_version": f"2.{'1' * 5000}"}, "is not a perfkit sweep"),
        (
            {"cells": [{"label": "a", "options": {"workers": "x"}}]},
            "is not a valid sweep (cells.0.options.workers: ",
        ),
        (
            {"cells": [{"label": "a", "options": {"name": "../x"}}]},
            "is not a valid sweep (cells.0.options.name: ",
        ),
    ],
)
def test_a_plan_of_another_schema_or_a_damaged_one_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    content = a_sweep().model_dump(mode="json") | change
    (tmp_path / "sweep.json").write_bytes(orjson.dumps(content))
    with pytest.raises(PerfkitError) as caught:
        read_sweep(tmp_path)
    assert words in str(caught.value)


def test_a_folder_without_a_plan_and_half_a_plan_are_named(tmp_path: Path) -> None:
    with pytest.raises(PerfkitError, match="name the folder of a sweep"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"schema_version": "2.0", ')
    with pytest.raises(PerfkitError, match="is not a whole JSON file"):
        read_sweep(tmp_path)
