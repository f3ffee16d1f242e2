"""How a sweep scales, as a figure: gains beside their ceilings, and rates over devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.analysis.sweep_scaling import Curve, Gain, Scaled
from perfkit.core.files import replacing
from perfkit.core.sweep import Sweep
from perfkit.report.figures import BAR_HEIGHT, CEILING, literal, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008), as in perfkit.report.figures.
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SAME_THREADS, SAME_CORES = COLOURS[0], COLOURS[1]
BESIDE = 0.15  # of a row, by which the two gains of a cell lie apart
SMOOTH = 50  # points of a fitted curve
LEAST_COUNTS = 3  # of a curve that is drawn: of two, the gains tell as much


def draw_scaling(sweep: Sweep, rows: Sequence[Scaled], curves: Sequence[Curve], path: Path) -> None:
    """Write the figure, if there is anything to draw; OSError where it cannot be."""
    from matplotlib.figure import Figure

    curves = [curve for curve in curves if len(curve.points) >= LEAST_COUNTS]
    parts = [part for part, content in (("gains", rows), ("curves", curves)) if content]
    if not parts:
        return
    figure = Figure(figsize=(6 * len(parts), 2.2 + 0.5 * max(len(rows), 4)), layout="constrained")
    figure.suptitle(literal(f"{sweep.name} on {sweep.hardware}"), fontsize=11)
    axes = dict(zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True))
    if rows:
        _gains(axes["gains"], rows)
    if curves:
        _curves(axes["curves"], curves)
    tidy(figure, dict(zip(("left", "right"), axes.values(), strict=False)), columns=2)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _gains(axes: Axes, rows: Sequence[Scaled]) -> None:
    """Both gains of each cell, and the most that its strategy can gain."""
    axes.axvline(1, color="black", linewidth=1)
    highest = 1.0
    for place, row in enumerate(rows):
        ceiling = row.row.cell.ceiling
        ends = (place - BAR_HEIGHT / 2, place + BAR_HEIGHT / 2)
        axes.vlines(ceiling, *ends, color=CEILING, lw=3, label="ceiling of the strategy")
        _gain(axes, place - BESIDE, row.equal_threads, SAME_THREADS, "over equal threads a rank")
        _gain(axes, place + BESIDE, row.equal_cores, SAME_CORES, "over equal cores in all")
        known = [gain.factor.estimate for gain in (row.equal_threads, row.equal_cores) if gain]
        highest = max(highest, ceiling, *known)
    axes.set_yticks(range(len(rows)), [literal(row.row.label) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * highest)  # an interval that tells nothing runs out of the axes
    axes.set_xlabel("samples/s over those of serial, within rounds, 95 %")


def _gain(axes: Axes, place: float, gain: Gain | None, colour: str, label: str) -> None:
    if gain is None:
        return
    factor = gain.factor
    if not math.isinf(factor.high):
        axes.plot([factor.low, factor.high], [place] * 2, color=colour, linewidth=2.5)
    axes.scatter([factor.estimate], [place], s=36, color=colour, zorder=4, label=label)


def _curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Every curve over its own lowest count: quartiles of the processes, and the fitted law."""
    counts = sorted({count for curve in curves for count in curve.points})
    axes.plot(counts, counts, color="black", linewidth=1, linestyle=":", label="ideal")
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        at = list(curve.points)
        one = curve.rates[0] / at[0]
        spread = [row.samples_per_s for row in curve.points.values()]
        below = [(rate.median - rate.first) / one for rate in spread]
        above = [(rate.third - rate.median) / one for rate in spread]
        rates = [rate / one for rate in curve.rates]
        axes.errorbar(at, rates, (below, above), fmt="o", color=colour, label=literal(curve.label))
        if curve.why_no_law() is None:
            fit = curve.laws()["USL"]
            dense = [at[0] + (at[-1] - at[0]) * step / SMOOTH for step in range(SMOOTH + 1)]
            law = [fit.at(count) / one for count in dense]
            axes.plot(dense, law, color=colour, linewidth=1, label=literal(f"USL of {curve.label}"))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.minorticks_off()
    axes.set_xlabel("devices, or threads a rank")
    axes.set_ylabel("times the samples/s of one, by the lowest count")
