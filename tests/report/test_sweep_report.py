"""What a sweep prints, writes and draws."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scaling_sweeps import measured as scaling
from scaling_sweeps import parallel, serial
from sweep_records import a_sweep, one_process, written

from perfkit.analysis.sweep import Row, rows
from perfkit.analysis.sweep_scaling import curves, scaled
from perfkit.core.sweep import Sweep
from perfkit.engine.sweep_folder import read_records
from perfkit.report.scaling_figure import draw_scaling
from perfkit.report.sweep import print_sweep, tables, write_tables
from perfkit.report.sweep_figure import draw_sweep

FAST = [0.100, 0.131, 0.081, 0.110, 0.159, 0.090]
SLOW = [0.200, 0.260, 0.160, 0.220, 0.320, 0.181]
SWEEP = a_sweep({"workers": 2}, {"precision": "bf16"})


@pytest.fixture
def measured(tmp_path: Path) -> list[Row]:
    folder = written(SWEEP, tmp_path / "s", [SLOW, FAST, SLOW[::-1]])
    return rows(SWEEP, read_records(SWEEP, folder))


def printed(sweep: Sweep, found: list[Row], missing: int = 0) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_sweep(sweep, found, missing, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_a_cell_and_the_answers_come_below(measured: list[Row]) -> None:
    text = printed(SWEEP, measured)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["base"].split()[1:3] == ["210", "ms"]
    assert "2.0" in lines["workers=2"]
    assert "faster" in lines["workers=2"]
    assert "undecided" in lines["precision=bf16"]
    assert "for time" in text
    assert "workers=2; the runner-up, " in text
    assert "not tried" in text
    assert "18 fresh processes of perfkit profile: every cell once in each of 6 rounds" in text


def test_what_is_missing_skipped_and_doubtful_is_told(measured: list[Row]) -> None:
    cells = [SWEEP.cells[0], SWEEP.cells[1], SWEEP.cells[2].model_copy(update={"skipped": "slow"})]
    records = dict(measured[0].records)
    records[0] = records[0].model_copy(update={"taints": ["the sky was grey"]})
    base = Row("base", records, None, [3])
    faster = replace(measured[1], slow_rounds=[0, 2, 5])
    text = printed(SWEEP.model_copy(update={"cells": cells}), [base, faster], missing=2)
    assert "2 of them missing" in text
    assert "precision=bf16: slow" in text
    assert "base: the sky was grey" in text
    assert "base: round 4 lies far from the others, and is kept" in text
    assert "workers=2: rounds 1, 3 and 6 lie far from the others, and are kept" in text


def test_what_all_cells_have_is_told_and_so_are_rounds_that_were_added(
    measured: list[Row],
) -> None:
    text = printed(SWEEP.model_copy(update={"rounds_before": [2, 4]}), measured)
    (base,) = [line for line in text.splitlines() if line.startswith("base  ") and "=" in line]
    assert base.split() == ["base", "local_batch=4"]
    assert "rounds were added: first there were 2, then 4; whoever adds them until" in text
    assert "rounds were added" not in printed(SWEEP, measured)


def test_foreign_load_is_told_once_for_all_cells() -> None:
    busy = {"foreign": 0.4}
    sweep = a_sweep({"workers": 2}, rounds=2)
    records = {
        index: {number: one_process(sweep, index, 0.2, **busy) for number in range(2)}
        for index in range(2)
    }
    text = printed(sweep, rows(sweep, records))
    assert text.count("other processes took") == 1
    assert "base, workers=2: other processes took up to 40% of the CPU time" in text


def test_the_files_say_the_same_as_the_table(measured: list[Row], tmp_path: Path) -> None:
    markdown, comma = write_tables(SWEEP, measured, 0, tmp_path)
    text = markdown.read_text()
    assert text.startswith("# a-sweep\n\n- **workload**: tiny:Tiny on vectors")
    assert "- **for time**: no recommendation" in text or "- **for time**: workers=2" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(measured)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    with comma.open() as file:
        plain = list(csv.DictReader(file))
    assert [values["cell"] for values in plain] == ["base", "workers=2", "precision=bf16"]
    assert float(plain[1]["step_s_median"]) == pytest.approx(0.105)
    assert plain[1]["verdict"] == "faster"
    assert plain[0]["verdict"] == ""
    verdict = measured[1].verdict
    assert verdict is not None
    assert float(plain[1]["gain_low"]) == pytest.approx(verdict.gain.low)


@pytest.mark.parametrize("rounds", [1, 6])
def test_the_figure_is_drawn_with_and_without_intervals(tmp_path: Path, rounds: int) -> None:
    costs = [SLOW[:rounds], FAST[:rounds], SLOW[:rounds]]
    folder = written(SWEEP, tmp_path / "s", costs)
    found = rows(SWEEP, read_records(SWEEP, folder))
    path = folder / "figures" / "sweep.png"
    draw_sweep(SWEEP, found, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    printed(SWEEP, found)


def test_dollars_in_names_are_no_formula(tmp_path: Path) -> None:
    found = [replace(row, label="data=$x^$") for row in scaling([serial(0.1), parallel(0.05, 2)])]
    sweep = SWEEP.model_copy(update={"name": "$_^$"})
    draw_sweep(sweep, found, tmp_path / "sweep.png")
    draw_scaling(sweep, scaled(found), curves(found), tmp_path / "scaling.png")
    assert (tmp_path / "sweep.png").exists()
    assert (tmp_path / "scaling.png").exists()


def test_cells_on_several_devices_have_a_table_of_their_own_beside_their_ceilings() -> None:
    found = scaling([serial(0.1), serial(0.06, threads=2), parallel(0.05, ranks=2)])
    text = printed(SWEEP, found)
    table = text[text.index("devices") :].splitlines()
    headings = "devices ceiling speedup 95 % efficiency 95 % at equal cores 95 % serial fraction"
    assert " ".join(table[0].split()) == headings
    assert table[1].startswith("strategy=ddp gpus=2 threads=1")
    assert [word for word in table[1].split() if word.endswith("x")] == ["2x", "2.00x", "1.20x"]
    assert "of strategy=ddp gpus=2 threads=1: over threads=1; at equal cores over threads=2" in text
    assert "ddp over devices, 1 thread a rank" in text
    assert "no law is fitted" in text


def test_strong_and_weak_scaling_have_other_names_and_are_never_in_one_table() -> None:
    weak = scaling([serial(0.1), parallel(0.05, ranks=2)], "weak")
    strong = scaling([serial(0.1), parallel(0.05, ranks=2)])
    assert "throughput efficiency" in tables(weak)[1][0]
    assert "speedup" not in tables(weak)[1][0]
    assert [len(table) for table in tables([*weak, *strong])] == [5, 2, 2]


def test_a_missing_baseline_is_told(tmp_path: Path) -> None:
    found = scaling([parallel(0.05, ranks=2), serial(0.06, threads=4)])
    text = printed(SWEEP, found)
    assert "not known, for no cell with strategy=serial, threads=1, else the same, was" in text
    _, comma = write_tables(SWEEP, found, 0, tmp_path)
    with comma.open() as file:
        assert "speedup" not in next(csv.reader(file))


def test_the_files_have_gains_and_laws_are_told_and_drawn(tmp_path: Path) -> None:
    def law(n: int) -> float:
        return 0.1 * (0.1 + 0.9 / n)

    found = scaling([serial(law(1)), *(parallel(law(n), ranks=n) for n in (2, 4, 8))])
    text = printed(SWEEP, found)
    assert "Amdahl: p 0.9" in text
    assert "USL: sigma 0.0" in text
    markdown, comma = write_tables(SWEEP, found, 0, tmp_path)
    assert markdown.read_text().count("| cell |") == 2
    with comma.open() as file:
        _, two, _, eight = csv.DictReader(file)
    assert float(two["speedup"]) == pytest.approx(1 / 0.55)
    assert float(eight["efficiency"]) == pytest.approx(1 / (0.1 + 0.9 / 8) / 8)
    assert eight["speedup_baseline"] == "threads=1"
    figure = tmp_path / "scaling.png"
    draw_scaling(SWEEP, scaled(found), curves(found), figure)
    assert figure.stat().st_size > 10_000


def test_energy_has_a_column_where_it_was_counted(measured: list[Row], tmp_path: Path) -> None:
    assert "energy a sample" not in tables(measured)[0][0]
    for number, record in measured[1].records.items():
        cell = record.cells[0]
        blocks = [block.model_copy(update={"energy_j": {"GPU-a": 12.0}}) for block in cell.blocks]
        used = record.model_copy(update={"cells": [cell.model_copy(update={"blocks": blocks})]})
        measured[1].records[number] = used
    column = tables(measured)[0][0].index("energy a sample")
    assert [line[column] for line in tables(measured)[0][1:]] == ["-", "1.50 J GPU", "-"]
    with write_tables(SWEEP, measured, 0, tmp_path)[1].open() as file:
        assert [line["gpu_j_per_sample"] for line in csv.DictReader(file)] == ["", "1.5", ""]
