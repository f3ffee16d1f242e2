"""A sweep as a figure: every process, and every gain with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.analysis.sweep import Row
from perfkit.core.files import replacing
from perfkit.core.stats import Word
from perfkit.core.sweep import Sweep
from perfkit.report.figures import BAR, BAR_HEIGHT, ROUND, literal, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008), as in perfkit.report.figures.
COLOURS: dict[Word, str] = {
    "faster": "#009e73",
    "slower": "#d55e00",
    "equal": "#0072b2",
    "undecided": "#999999",
}
MARGIN = 1.4  # of the axis of gains beyond the least and the largest
FINE = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 1.8, 2)  # ticks where they hold all gains


def draw_sweep(sweep: Sweep, rows: Sequence[Row], path: Path) -> None:
    """Write the figure of a sweep; OSError where it cannot be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.8 + 0.45 * len(rows)), layout="constrained")
    figure.suptitle(literal(f"{sweep.name} on {sweep.hardware}"), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    _rates(left, rows)
    _gains(right, rows)
    left.set_yticks(range(len(rows)), [literal(row.label) for row in rows], fontsize=8)
    left.set_ylim(len(rows) - 0.5, -0.5)
    tidy(figure, {"left": left, "right": right})
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _rates(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        rates = [1 / seconds for seconds in row.sample_s.values()]
        axes.barh(place, row.samples_per_s.median, height=BAR_HEIGHT, color=BAR, label="median")
        axes.scatter(rates, [place] * len(rates), label="one process", **ROUND)
    axes.set_xlim(left=0)
    axes.set_xlabel("samples/s")


def _gains(axes: Axes, rows: Sequence[Row]) -> None:
    """Every gain over the first row, on a logarithmic axis: twice as fast is as far as half."""
    axes.axvline(1, color="black", linewidth=1)
    for place, row in enumerate(rows):
        if row.verdict is None:
            continue
        gain, word = row.verdict.gain, row.verdict.word
        if gain.low > 0 and not math.isinf(gain.high):
            axes.plot([gain.low, gain.high], [place] * 2, color=COLOURS[word], linewidth=2.5)
        axes.scatter([gain.estimate], [place], s=36, color=COLOURS[word], zorder=4, label=word)
    estimates = [1.0, *(row.verdict.gain.estimate for row in rows if row.verdict is not None)]
    low, high = min(estimates) / MARGIN, max(estimates) * MARGIN
    powers = [2.0**n for n in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    fine = FINE[0] <= min(estimates) and max(estimates) <= FINE[-1]
    ticks = [tick for tick in (FINE if fine else powers) if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)  # an interval that tells nothing runs out of the axes
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"samples/s over those of {literal(rows[0].label)}, within rounds, 95 %")
