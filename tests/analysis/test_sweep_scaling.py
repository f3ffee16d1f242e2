"""Gains over serial training and curves of a sweep follow from known costs."""

from __future__ import annotations

from typing import Any

import pytest
from records import a_cell
from scaling_sweeps import measured, parallel, serial

from perfkit.analysis.sweep_scaling import curves, scaled


def test_gains_are_within_rounds_over_serial_of_equal_threads_and_of_equal_cores() -> None:
    found = measured([serial(0.1), serial(0.06, threads=2), parallel(0.05, ranks=2)])
    (ddp,) = scaled(found)
    assert (ddp.devices, ddp.scaling) == (2, "strong")
    assert ddp.equal_threads is not None
    assert ddp.equal_threads.baseline == "threads=1"
    assert ddp.equal_threads.factor.estimate == pytest.approx(2.0)
    assert ddp.equal_threads.factor.high / ddp.equal_threads.factor.low < 1.2  # no machine in it
    assert ddp.efficiency is not None
    assert ddp.efficiency.estimate == pytest.approx(1.0)
    assert ddp.efficiency.high == ddp.equal_threads.factor.high / 2
    assert ddp.equal_cores is not None
    assert ddp.equal_cores.baseline == "threads=2"
    assert ddp.equal_cores.factor.estimate == pytest.approx(1.2)


def test_the_serial_fraction_is_that_of_karp_and_flatt_and_only_under_strong_scaling() -> None:
    cells = [serial(0.1), parallel(0.06, ranks=2)]
    (ddp,) = scaled(measured(cells))
    assert ddp.serial_fraction is not None
    # S = 5/3: (3/5 - 1/2) / (1 - 1/2)
    assert ddp.serial_fraction.estimate == pytest.approx(0.2)
    assert ddp.serial_fraction.low < 0.2 < ddp.serial_fraction.high
    (weak,) = scaled(measured(cells, "weak"))
    assert weak.scaling == "weak"
    assert weak.serial_fraction is None


@pytest.mark.parametrize(
    "other",
    [{"workers": 2}, {"precision": "bf16"}, {"ops": "reference"}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_serial_cell_with_another_option_is_no_baseline(other: dict[str, Any]) -> None:
    (ddp,) = scaled(measured([serial(0.1, **other), parallel(0.05, ranks=2)]))
    assert ddp.equal_threads is None
    assert ddp.equal_cores is None
    assert ddp.serial_fraction is None


def test_a_gpu_is_held_against_one_gpu_whatever_the_threads() -> None:
    one = serial(0.1, threads=8, devices=[["cuda:0"]])
    two = parallel(0.05, ranks=2, threads=4, devices=[["cuda:0"], ["cuda:1"]])
    (ddp,) = scaled(measured([one, two]))
    assert ddp.equal_threads is not None
    assert ddp.equal_threads.factor.estimate == pytest.approx(2.0)
    assert ddp.equal_cores is None


def test_exposed_communication_is_the_median_of_the_processes() -> None:
    found = measured([serial(0.1), parallel(0.05, ranks=2)])
    records = found[1].records
    for number, record in records.items():
        step_s = record.cells[0].blocks[0].wall_s / 2
        without = a_cell([[0.75 * step_s] * 2] * 2, role="ablation", label="no exchange")
        records[number] = record.model_copy(update={"cells": [*record.cells, without]})
    (ddp,) = scaled(found)
    assert ddp.exposed_communication == pytest.approx(0.25)
    assert scaled(measured([parallel(0.05, ranks=2)]))[0].exposed_communication is None


def test_curves_are_over_devices_or_over_threads_and_never_both() -> None:
    cells = [
        *(serial(0.1), serial(0.06, threads=2)),
        *(parallel(0.05, ranks=2), parallel(0.03, ranks=2, threads=2), parallel(0.03, ranks=4)),
    ]
    found = {curve.label: list(curve.points) for curve in curves(measured(cells))}
    assert found == {
        "ddp over devices, 1 thread a rank": [1, 2, 4],
        "ddp over devices, 2 threads a rank": [1, 2],
        "serial, over threads a rank": [1, 2],
        "ddp on 2 ranks, over threads a rank": [1, 2],
    }


def test_laws_are_fitted_to_four_counts_and_refused_below() -> None:
    def law(n: int) -> float:
        return 0.1 * (0.1 + 0.9 / n)

    counts = (1, 2, 4, 8)
    cells = [serial(law(1)), *(parallel(law(n), ranks=n) for n in counts[1:])]
    (curve,) = curves(measured(cells))
    assert curve.why_no_law() is None
    fits = curve.laws()
    assert fits["Amdahl"].parameters["p"].estimate == pytest.approx(0.9, abs=0.02)
    assert fits["USL"].at(8) == pytest.approx(1 / law(8), rel=0.05)
    (short,) = curves(measured(cells[:3]))
    assert "4 distinct counts" in (short.why_no_law() or "")


def test_amdahls_law_is_not_fitted_to_weak_scaling() -> None:
    cells = [serial(0.1), *(parallel(0.1 / n, ranks=n) for n in (2, 4, 8))]
    (curve,) = curves(measured(cells, "weak"))
    assert set(curve.laws()) == {"USL"}


def test_curves_that_differ_in_another_option_have_labels_that_differ() -> None:
    cells = [serial(0.1), parallel(0.05, ranks=2)]
    cells += [serial(0.09, workers=2), parallel(0.04, ranks=2, workers=2)]
    labels = [curve.label for curve in curves(measured(cells)) if curve.axis == "devices"]
    assert len(set(labels)) == len(labels) == 2
