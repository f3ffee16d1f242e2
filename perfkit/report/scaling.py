"""How a sweep scales: tables of gains beside their ceilings, and the laws that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perfkit.analysis import speed
from perfkit.analysis.scaling import Fit, usl_peak
from perfkit.analysis.sweep_scaling import Curve, Scaled
from perfkit.core.stats import Interval
from perfkit.report.console import Line
from perfkit.report.terminal import GAIN_NAMES
from perfkit.report.words import bounds, significant

LAW = "law of scaling"
SYMBOLS = ("p", "sigma", "kappa")  # parameters without a unit, worth printing


def formatted_scaling(rows: Sequence[Scaled]) -> list[list[str]]:
    """Return headings and a line for every row, as text; all rows are of one scaling mode."""
    factor, efficiency = GAIN_NAMES[rows[0].scaling == "strong"]
    with_cores = any(row.equal_cores is not None for row in rows)
    with_fraction = any(row.serial_fraction is not None for row in rows)
    with_exchange = any(row.exposed_communication is not None for row in rows)
    table = [
        [
            *("cell", "devices", "ceiling", factor, "95 %", efficiency, "95 %"),
            *(["at equal cores", "95 %"] if with_cores else []),
            *(["serial fraction"] if with_fraction else []),
            *(["exposed communication"] if with_exchange else []),
        ]
    ]
    for row in rows:
        fraction, exchange = row.serial_fraction, row.exposed_communication
        table.append(
            [
                *(row.row.label, f"{row.devices}", f"{row.row.cell.ceiling:g}x"),
                *_told(row.equal_threads and row.equal_threads.factor, "x"),
                *_told(row.efficiency, ""),
                *(_told(row.equal_cores and row.equal_cores.factor, "x") if with_cores else []),
                *([_fraction(fraction)] if with_fraction else []),
                *(["-" if exchange is None else f"{exchange:.0%}"] if with_exchange else []),
            ]
        )
    return table


def by_mode(rows: Sequence[Scaled]) -> list[list[Scaled]]:
    """Return the rows of strong and of weak scaling apart, those modes that there are."""
    modes = dict.fromkeys(row.scaling for row in rows)
    return [[row for row in rows if row.scaling == mode] for mode in modes]


def scaling_lines(rows: Sequence[Scaled], curves: Sequence[Curve]) -> list[Line]:
    """Return what the columns are held against, and what laws the curves follow."""
    lines = []
    for row in rows:
        name, _ = GAIN_NAMES[row.scaling == "strong"]
        lines.append((name, f"of {row.row.label}: {_held_against(row)}"))
    refused: dict[str, list[str]] = {}
    for curve in curves:
        reason = curve.why_no_law()
        if reason is None:
            lines += [(LAW, f"{curve.label}: {_law(*law)}") for law in curve.laws().items()]
        else:
            refused.setdefault(reason, []).append(curve.label)
    return lines + [(LAW, f"{'; '.join(labels)}: {why}") for why, labels in refused.items()]


def plain_scaling(row: Scaled) -> dict[str, object]:
    """Return the columns of a row for a CSV file; those that are not known are left out."""
    name, efficiency = ("speedup", "efficiency")
    if row.scaling == "weak":
        name, efficiency = ("throughput_gain", "throughput_efficiency")
    values: dict[str, object] = {}
    if row.equal_threads is not None:
        values |= _columns(name, row.equal_threads.factor)
        values[f"{name}_baseline"] = row.equal_threads.baseline
    if row.efficiency is not None:
        values |= _columns(efficiency, row.efficiency)
    if row.equal_cores is not None:
        values |= _columns("gain_at_equal_cores", row.equal_cores.factor)
        values["equal_cores_baseline"] = row.equal_cores.baseline
    if row.serial_fraction is not None:
        values |= _columns("serial_fraction", row.serial_fraction)
    if row.exposed_communication is not None:
        values["exposed_communication"] = row.exposed_communication
    return values


def _columns(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _told(interval: Interval | None, unit: str) -> tuple[str, str]:
    if interval is None:
        return "-", ""
    return f"{interval.estimate:.2f}{unit}", bounds(interval)


def _fraction(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _held_against(row: Scaled) -> str:
    """Return the baselines of a row, or what the sweep lacks for one."""
    if row.equal_threads is None:
        on_cpu = not speed.is_on_cuda(row.row.cell)
        threads = f", threads={row.row.cell.threads}" if on_cpu else ""
        words = (
            f"not known, for no cell with strategy=serial{threads}, else the same, was measured in "
            "the same rounds"
        )
    else:
        words = f"over {row.equal_threads.baseline}"
    cores = "" if row.equal_cores is None else f"; at equal cores over {row.equal_cores.baseline}"
    return words + cores


def _law(name: str, fit: Fit) -> str:
    """Return a fitted law in a line: its parameters, how far it is off, and where it peaks."""
    told = [
        f"{symbol} {value.estimate:.3g} [{value.low:.3g}, {value.high:.3g}]"
        for symbol, value in fit.parameters.items()
        if symbol in SYMBOLS
    ]
    worst = max(abs(residual) for residual in fit.residuals)
    words = f"{name}: {', '.join(told)}; off by {worst:.1%} at most"
    if "kappa" in fit.parameters:
        peak = usl_peak(fit)
        words += (
            "; no peak can be told" if math.isinf(peak) else f"; highest at {significant(peak)}"
        )
    return words
